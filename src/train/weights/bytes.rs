//! A file that is read piece by piece, never beyond its end, so that what a damaged one claims allocates nothing.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// A file open for reading.
pub(super) struct FileBytes {
    path: PathBuf,
    file: File,
    length: u64,
}

impl FileBytes {
    /// Opens it; an empty one and a folder are errors.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(path, error);
        let file = File::open(path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(Error::data(path, "is a folder; name a file of weights"));
        }
        match about.len() {
            0 => Err(Error::data(path, "the file is empty; use another one")),
            length => Ok(Self { path: path.to_owned(), file, length }),
        }
    }

    /// Bytes in all.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `count` bytes from `offset` on; a range beyond the end is an error, before anything is allocated.
    pub fn read(&mut self, offset: u64, count: u64) -> Result<Vec<u8>> {
        if offset.checked_add(count).is_none_or(|end| end > self.length) {
            return Err(self.broken("ends too early"));
        }
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| self.broken("does not fit memory"))?];
        let read = |file: &mut File, bytes: &mut [u8]| -> io::Result<()> {
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(bytes)
        };
        read(&mut self.file, &mut bytes).map_err(|error| Error::io(&self.path, error))?;
        Ok(bytes)
    }

    /// The file is no whole one.
    pub fn broken(&self, why: &str) -> Error {
        Error::data(&self.path, format!("{why}: the file is damaged or was copied in part; fetch it again"))
    }
}

/// The little-endian number of at most 8 bytes at `at`.
pub(super) fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(size)?)?;
    let mut whole = [0; 8];
    whole.get_mut(..size)?.copy_from_slice(part);
    Some(u64::from_le_bytes(whole))
}
