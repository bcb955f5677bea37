//! Files that appear whole or not at all: written beside their place, flushed to the disk, and renamed.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{Error, Result};

/// Writes a file so that a crash or a full disk leaves the old one in place.
pub(in crate::train) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_streamed(path, |file| file.write_all(bytes))
}

/// The same, of what `write` writes piece by piece.
pub(in crate::train) fn write_streamed(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let whole = || {
        let mut file = BufWriter::new(fs::File::create(&partial)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&partial, path)?;
        // The rename itself must reach the disk; a folder that cannot be opened is no reason to fail.
        if let Some(folder) = path.parent().and_then(|folder| fs::File::open(folder).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    };
    whole().map_err(|error: std::io::Error| {
        let _ = fs::remove_file(&partial);
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
        let advice = match error.kind() {
            StorageFull => "the disk is full: free space and use --resume",
            PermissionDenied | ReadOnlyFilesystem => "change its permissions or choose another folder",
            _ => "the previous file is intact",
        };
        Error::data(path, format!("cannot be written ({error}); {advice}"))
    })
}
