//! A folder of compiled kernels for all profiles and features: each has an `OUT_DIR` of its own, in which cargo would have
//! the same kernels compiled again. Part of the build scripts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// The folder, locked until it is dropped: builds of two profiles may run at once.
pub struct SharedFolder {
    path: PathBuf,
    _lock: File,
}

impl SharedFolder {
    /// `TARGET/NAME`, where `out` is cargo's `TARGET/PROFILE/build/PACKAGE-HASH/out`; `out/NAME` where it is not.
    pub fn open(out: &Path, name: &str) -> Result<Self, String> {
        let build = out.ancestors().nth(2).filter(|folder| folder.ends_with("build"));
        let path = build.and_then(|build| build.ancestors().nth(2)).unwrap_or(out).join(name);
        let failed = |error| format!("{}: {error}", path.display());
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join(".lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings a file into `out`. One that is the same there stays as it is, so that nothing is built anew for it.
    pub fn copy(&self, file: &str, out: &Path) -> Result<(), String> {
        let (from, to) = (self.path.join(file), out.join(file));
        let bytes = fs::read(&from).map_err(|error| format!("{}: {error}", from.display()))?;
        if fs::read(&to).is_ok_and(|known| known == bytes) {
            return Ok(());
        }
        fs::write(&to, bytes).map_err(|error| format!("{}: {error}", to.display()))
    }
}
