//! TuneCache that were made once by timing and are kept in a file: one for each card, driver and build of the kernels.
//!
//! ```text
//! {
//!   "origin": { "format": 1, "card": "NVIDIA H100 80GB HBM3", "driver": 13000, "kernels": "9f0c..." },
//!   "choices": { "conv2d forward bf16 ...": { "tile": "large", "split_k": 1 } }
//! }
//! ```

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::Image;

/// Of the file and of what its entries mean.
const FORMAT: u32 = 1;

/// What times depend on, besides the problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    format: u32,
    card: String,
    driver: i32,
    /// A hash of all kernels.
    kernels: String,
}

impl Origin {
    /// `driver` as the driver reports its version, 13000 for 13.0.
    pub fn new(card: &str, driver: i32, images: &[Image]) -> Self {
        Self { format: FORMAT, card: card.to_owned(), driver, kernels: hash(images) }
    }

    /// The name of its file: `nvidia-h100-80gb-hbm3-driver-13000-kernels-9f0c....json`.
    fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let card: String = self.card.chars().map(plain).collect();
        format!("{card}-driver-{}-kernels-{}.json", self.driver, self.kernels)
    }
}

/// FNV-1a over names, lengths and bytes.
fn hash(images: &[Image]) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    };
    for image in images {
        add(image.name.as_bytes());
        add(&(image.bytes.len() as u64).to_le_bytes());
        add(image.bytes);
    }
    format!("{hash:016x}")
}

/// `$BICL_CACHE`, or `bicl` in the user's folder for caches (`$XDG_CACHE_HOME`, `~/.cache`); `None` where neither is set.
pub(super) fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification says that relative paths are to be ignored.
    let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
    path("BICL_CACHE").or_else(|| {
        let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Some(caches?.join("bicl"))
    })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    origin: Origin,
    choices: BTreeMap<String, Value>,
}

/// Why a file is not used.
enum Unreadable {
    File(io::Error),
    Content(String),
}

/// Told in one line what goes wrong with the file, which stops nobody.
type Warn = Box<dyn Fn(&str) + Send + Sync>;

/// The fastest configurations for one origin, by problem.
pub(super) struct TuneCache {
    /// `None` where nothing can be kept.
    file: Option<PathBuf>,
    origin: Origin,
    by_problem: BTreeMap<String, Value>,
    warn: Warn,
}

impl TuneCache {
    /// Those of the origin's file in `folder`, as far as there is one that can be read.
    pub fn open(folder: Option<&Path>, origin: Origin, warn: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let file = folder.map(|folder| folder.join(origin.file_name()));
        let mut cache = Self { file, origin, by_problem: BTreeMap::new(), warn: Box::new(warn) };
        match cache.read() {
            Ok(by_problem) => cache.by_problem = by_problem,
            Err(Unreadable::Content(reason)) => {
                cache.complain(&reason, "kernels are timed anew, and the file is overwritten");
            }
            Err(Unreadable::File(error)) => cache.give_up(&format!("cannot be read ({error})")),
        }
        cache
    }

    /// The choice for a problem, if one is known that still makes sense.
    pub fn get<C: DeserializeOwned>(&self, problem: &str) -> Option<C> {
        C::deserialize(self.by_problem.get(problem)?).ok()
    }

    /// Keeps a choice, in the file too where that can be written.
    pub fn put(&mut self, problem: String, choice: &impl Serialize) {
        let Ok(choice) = serde_json::to_value(choice) else { return };
        self.by_problem.insert(problem, choice);
        // What another process has found meanwhile is kept.
        for (problem, choice) in self.read().unwrap_or_default() {
            self.by_problem.entry(problem).or_insert(choice);
        }
        if let Err(error) = self.write() {
            self.give_up(&format!("cannot be written ({error})"));
        }
    }

    fn complain(&self, reason: &str, advice: &str) {
        if let Some(file) = &self.file {
            (self.warn)(&format!("tune cache: {}: {reason}; {advice}", file.display()));
        }
    }

    /// From now on they last as long as the process.
    fn give_up(&mut self, reason: &str) {
        self.complain(
            reason,
            "kernels are timed anew by every process; set BICL_CACHE to a folder that can be written",
        );
        self.file = None;
    }

    /// What the file holds; nothing where there is none.
    fn read(&self) -> Result<BTreeMap<String, Value>, Unreadable> {
        let Some(file) = &self.file else { return Ok(BTreeMap::new()) };
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            // Something in the way of the folder is for the write to report.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(Unreadable::File(error)),
        };
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| Unreadable::Content(format!("is damaged ({error})")))?;
        match content.origin == self.origin {
            true => Ok(content.choices),
            false => Err(Unreadable::Content("was made for another card, driver or build".into())),
        }
    }

    /// Through a file beside it, so that no reader sees half of it.
    fn write(&self) -> io::Result<()> {
        static WRITES: AtomicUsize = AtomicUsize::new(0);
        let Some(file) = &self.file else { return Ok(()) };
        let content = Content { origin: self.origin.clone(), choices: self.by_problem.clone() };
        let text = serde_json::to_string_pretty(&content)? + "\n";
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let partial = file.with_extension(format!("{}-{number}.partial", process::id()));
        fs::write(&partial, text).and_then(|()| fs::rename(&partial, file)).inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn origin(driver: i32) -> Origin {
        Origin::new("Card 1/2", driver, &[Image { name: "a", architectures: &[], bytes: &[1, 2] }])
    }

    /// The cache in a folder, and its warnings.
    fn open(folder: &Path, driver: i32) -> (TuneCache, Arc<Mutex<Vec<String>>>) {
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let heard = warnings.clone();
        let warn = move |text: &str| heard.lock().unwrap().push(text.to_owned());
        (TuneCache::open(Some(folder), origin(driver), warn), warnings)
    }

    #[track_caller]
    fn expect_warnings(warnings: &Mutex<Vec<String>>, parts: &[&str]) {
        let warnings = warnings.lock().unwrap();
        assert_eq!(warnings.len(), parts.len(), "{warnings:?}");
        for (warning, part) in warnings.iter().zip(parts) {
            assert!(warning.contains(part) && warning.contains(".json") && !warning.contains('\n'), "{warning}");
        }
    }

    fn only_file(folder: &Path) -> PathBuf {
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    #[test]
    fn configs_come_back_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("is/made");
        let (mut first, warnings) = open(&inner, 1);
        assert_eq!(first.get::<(String, usize)>("x"), None);
        first.put("x".into(), &("large", 2));
        first.put("y".into(), &7);
        let (second, others) = open(&inner, 1);
        assert_eq!(second.get("x"), Some(("large".to_owned(), 2)));
        assert_eq!(second.get("y"), Some(7));
        assert_eq!(second.get::<String>("y"), None, "an entry that makes no sense is none");
        expect_warnings(&warnings, &[]);
        expect_warnings(&others, &[]);
        let name = only_file(&inner).file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with("card-1-2-driver-1-kernels-"), "{name}");
    }

    #[test]
    fn another_driver_or_kernel_has_another_file() {
        assert_ne!(origin(1).file_name(), origin(2).file_name());
        let of = |name, bytes| hash(&[Image { name, architectures: &[], bytes }]);
        let hashes = [of("a", &[1u8, 2][..]), of("a", &[1, 3]), of("b", &[1, 2]), of("a", &[1, 2, 0]), hash(&[])];
        for (i, a) in hashes.iter().enumerate() {
            assert!(hashes[..i].iter().all(|b| a != b), "{hashes:?}");
        }
    }

    #[test]
    fn processes_keep_each_others_configs() {
        let folder = tempfile::tempdir().unwrap();
        let ((mut a, _), (mut b, _)) = (open(folder.path(), 1), open(folder.path(), 1));
        a.put("x".into(), &1);
        b.put("y".into(), &2);
        a.put("z".into(), &3);
        let (c, _) = open(folder.path(), 1);
        assert_eq!((c.get("x"), c.get("y"), c.get("z")), (Some(1), Some(2), Some(3)));
    }

    #[test]
    fn a_damaged_or_foreign_file_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), 1).0.put("x".into(), &1);
        let file = only_file(folder.path());
        let whole = fs::read_to_string(&file).unwrap();
        let foreign = whole.replace("\"driver\": 1", "\"driver\": 2");
        assert_ne!(whole, foreign);
        for (content, part) in
            [(&whole[..whole.len() / 2], "is damaged"), ("", "is damaged"), (&foreign, "another card")]
        {
            fs::write(&file, content).unwrap();
            let (mut cache, warnings) = open(folder.path(), 1);
            assert_eq!(cache.get::<i32>("x"), None, "{part}");
            cache.put("y".into(), &2);
            expect_warnings(&warnings, &[part]);
            let (again, warnings) = open(folder.path(), 1);
            assert_eq!((again.get::<i32>("x"), again.get("y")), (None, Some(2)));
            expect_warnings(&warnings, &[]);
            assert_eq!(only_file(folder.path()), file, "nothing is left beside it");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_one_warning() {
        let folder = tempfile::tempdir().unwrap();
        // A file in the way of the folder, and a folder in the way of the file, stop root too.
        let blocked = folder.path().join("blocked");
        fs::write(&blocked, "").unwrap();
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join(origin(1).file_name())).unwrap();
        for (folder, part) in [(blocked.join("in"), "cannot be written"), (taken, "cannot be read")] {
            let (mut cache, warnings) = open(&folder, 1);
            cache.put("x".into(), &1);
            cache.put("y".into(), &2);
            assert_eq!((cache.get("x"), cache.get("y")), (Some(1), Some(2)), "they last as long as the process");
            expect_warnings(&warnings, &[part]);
            assert!(warnings.lock().unwrap()[0].contains("BICL_CACHE"));
        }
    }

    #[test]
    fn the_folder_is_the_users() {
        let found = |set: &[(&str, &str)]| {
            folder(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value)))
        };
        let all = [("BICL_CACHE", "here"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/home/a")];
        assert_eq!(found(&all), Some("here".into()));
        assert_eq!(found(&[("BICL_CACHE", ""), all[1], all[2]]), Some("/x/bicl".into()));
        assert_eq!(found(&[("XDG_CACHE_HOME", "relative"), all[2]]), Some("/home/a/.cache/bicl".into()));
        assert_eq!(found(&[]), None);
    }
}
