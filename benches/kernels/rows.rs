//! Which rows run, their JSON lines, and what becomes of a row that fails: it is recorded, and the bench goes on. Only a device
//! that no longer works ends it. Both benches share this; tests/it/bench_rows.rs tests it.

use std::{fmt::Display, fs::File, io::Write, path::PathBuf};

use bicl::{DType, Device, Error, Result, Tensor};
use serde_json::Value;

/// What `--filter` and `--dtype` ask for.
#[derive(Default)]
pub struct Filters {
    /// A row passes if its label contains any of these; all rows pass where there are none.
    pub texts: Vec<String>,
    /// Rows of another dtype are left out.
    pub dtype: Option<DType>,
}

impl Filters {
    pub fn pass(&self, label: &str, dtype: DType) -> bool {
        let named = self.texts.is_empty() || self.texts.iter().any(|text| label.contains(text.as_str()));
        named && self.has(dtype)
    }

    /// Whether rows of this dtype can pass at all.
    pub fn has(&self, dtype: DType) -> bool {
        self.dtype.is_none_or(|only| only == dtype)
    }
}

/// The value of `--dtype`.
pub fn dtype(text: &str) -> Result<DType> {
    [DType::Bf16, DType::F32]
        .into_iter()
        .find(|dtype| dtype.to_string() == text)
        .ok_or_else(|| Error::Config(format!("dtype {text:?}; use bf16 or f32")))
}

/// The rows of one run.
#[derive(Default)]
pub struct Rows {
    json: Option<(PathBuf, File)>,
    settled: usize,
    failed: usize,
}

impl Rows {
    /// Lines go into the file `json`, where one is named.
    pub fn new(json: Option<PathBuf>) -> Result<Self> {
        let open = |path: PathBuf| match File::create(&path) {
            Ok(file) => Ok((path, file)),
            Err(error) => Err(Error::io(path, error)),
        };
        Ok(Self { json: json.map(open).transpose()?, ..Self::default() })
    }

    /// Writes one line, at once: what is there stays if the process is killed.
    pub fn write(&mut self, row: &Value) -> Result<()> {
        let Some((path, file)) = &mut self.json else { return Ok(()) };
        let line = format!("{row}\n");
        file.write_all(line.as_bytes()).and_then(|()| file.flush()).map_err(|error| Error::io(&*path, error))
    }

    /// Ends a row that has written its line, or has failed.
    ///
    /// Errors: as [`Rows::fail`].
    pub fn settle<E: Display>(
        &mut self,
        key: &Value,
        outcome: std::result::Result<(), E>,
        alive: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.settled += 1;
        outcome.or_else(|error| self.fail(key, &error, alive))
    }

    /// Records a failure: the row's key becomes a line with `error` and without times. `alive` tells whether the device still
    /// works.
    ///
    /// Errors, after which no row can run: a device that does not work any more; a file that cannot be written.
    pub fn fail(&mut self, key: &Value, error: &impl Display, alive: impl FnOnce() -> Result<()>) -> Result<()> {
        self.failed += 1;
        // An anyhow error shows its causes only so.
        let error = one_line(&format!("{error:#}"));
        let mut row = key.clone();
        row["error"] = error.as_str().into();
        let name = ["op", "shape", "direction", "dtype"].map(|field| key[field].as_str().unwrap_or_default());
        println!("{} failed: {error}", name.join(" "));
        self.write(&row)?;
        alive().map_err(|dead| Error::Cuda {
            op: format!("a check of the device after {} had failed", name.join(" ")),
            message: format!("{}; the rows left out need a new process", one_line(&dead.to_string())),
        })
    }

    /// Errors if any row has failed, or none has run.
    pub fn finish(&self, filters: &Filters) -> Result<()> {
        match (self.settled, self.failed) {
            (0, 0) => {
                let dtype = filters.dtype.map(|dtype| format!(" of dtype {dtype}")).unwrap_or_default();
                Err(Error::Config(format!("no row{dtype} contains any of {:?}; use other filters", filters.texts)))
            }
            (_, 0) => Ok(()),
            (_, failed) => Err(Error::Config(format!("failed rows: {failed}; each is named above"))),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the device still computes: an upload, a kernel and a read-back after all that was launched.
///
/// Errors: what it says the second time; the first answer may be an old failure that is over.
pub fn alive(device: &Device) -> Result<()> {
    let small = || {
        device.synchronize()?;
        let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], &[3], device)?;
        let mut sum = x.duplicate()?;
        sum.accumulate(&x)?;
        let sum = sum.to_vec::<f32>()?;
        match sum == [2.0, 4.0, 6.0] || device.as_plan().is_some() {
            true => Ok(()),
            false => Err(Error::Internal(format!("[1, 2, 3] + [1, 2, 3] is {sum:?} on {device}"))),
        }
    };
    small().or_else(|_| small())
}
