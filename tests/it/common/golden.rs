//! Reads a golden file: safetensors written by tools/goldens.py.

use std::{collections::BTreeMap, path::Path};

use approx::abs_diff_eq;
use bicl::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use super::{of_dtype, wide};

/// A file's tensors as f64, by name.
pub struct Golden {
    file: String,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Widens little-endian elements of `N` bytes.
fn widen<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.chunks_exact(N).map(|chunk| f(chunk.try_into().unwrap())).collect()
}

impl Golden {
    pub fn open(file: &str) -> Self {
        // Relative to the package, where cargo runs tests, so that a test binary works in a copy of the folder too.
        let path = Path::new("tests/golden").join(format!("{file}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let views = SafeTensors::deserialize(&bytes).unwrap();
        let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let data = match view.dtype() {
                Dtype::F64 => widen(view.data(), f64::from_le_bytes),
                Dtype::F32 => widen(view.data(), |b| f64::from(f32::from_le_bytes(b))),
                Dtype::U32 => widen(view.data(), |b| f64::from(u32::from_le_bytes(b))),
                Dtype::U8 => view.data().iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{file}: {name} has dtype {other:?}"),
            };
            (name, (view.shape().to_vec(), data))
        };
        Self { file: file.to_owned(), tensors: views.tensors().into_iter().map(read).collect() }
    }

    /// The names before the slash, each once.
    pub fn cases(&self) -> Vec<String> {
        let mut cases: Vec<_> = self.tensors.keys().map(|name| name.split('/').next().unwrap().to_owned()).collect();
        cases.dedup();
        assert!(!cases.is_empty(), "{} is empty", self.file);
        cases
    }

    /// The tensors of one case.
    pub fn case<'a>(&'a self, case: &'a str) -> Case<'a> {
        Case { golden: self, case }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.file))
    }
}

/// One case of a file.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    golden: &'a Golden,
    case: &'a str,
}

impl Case<'_> {
    fn get(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.golden.get(&format!("{}/{name}", self.case))
    }

    pub fn name(&self) -> &str {
        self.case
    }

    pub fn has(&self, name: &str) -> bool {
        self.golden.tensors.contains_key(&format!("{}/{name}", self.case))
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.get(name).0
    }

    pub fn numbers(&self, name: &str) -> &[f64] {
        &self.get(name).1
    }

    /// A tensor of floats on the CPU.
    pub fn real(&self, name: &str, dtype: DType) -> Tensor {
        let (shape, data) = self.get(name);
        of_dtype(data, shape, dtype, &Device::cpu())
    }

    /// Labels or masks.
    pub fn bytes(&self, name: &str) -> Tensor {
        let (shape, data) = self.get(name);
        Tensor::from_vec(data.iter().map(|&v| v as u8).collect(), shape, &Device::cpu()).unwrap()
    }

    /// Counts.
    pub fn counts(&self, name: &str) -> Tensor {
        let (shape, data) = self.get(name);
        Tensor::from_vec(data.iter().map(|&v| v as u32).collect(), shape, &Device::cpu()).unwrap()
    }

    /// Fails unless `got` has the golden's shape and every element lies within 1e-5 (f32) or 1e-10 (f64) of the
    /// golden's largest magnitude. Integers must be equal; NaN fails, and so does anything but 0 where all is 0.
    #[track_caller]
    pub fn expect(&self, name: &str, got: &Tensor) {
        let (shape, want) = self.get(name);
        let what = format!("{}: {}/{name}", self.golden.file, self.case);
        assert_eq!(got.shape(), shape.as_slice(), "{what}: shape");
        let relative = match got.dtype() {
            DType::F64 => 1e-10,
            DType::F32 => 1e-5,
            _ => 0.0,
        };
        let bound = relative * want.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        for (i, (got, want)) in wide(got).into_iter().zip(want).enumerate() {
            let within = abs_diff_eq!(got, *want, epsilon = bound);
            assert!(within, "{what}: element {i} of {shape:?} is {got}, PyTorch gives {want} (bound {bound:e})");
        }
    }
}
