//! The files of a folder that is laid out as a data set's download is.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// How a data set lies on disk, for messages.
pub(super) struct Layout {
    /// The data set.
    pub(super) name: &'static str,
    /// Its files.
    pub(super) files: &'static str,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is expected as {}", self.name, self.files)
    }
}

/// One image of a data set, before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The file name without folder, suffix and extension.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
    /// The label file, where labels were asked for.
    pub labels: Option<PathBuf>,
    /// Where this item's pseudo label lies, below a pseudo-label folder.
    pub(super) pseudo: PathBuf,
}

/// What a layout's lister found: the items (with their true labels), and the folder that was searched for images.
pub(super) struct Found {
    pub(super) folder: PathBuf,
    pub(super) items: Vec<Item>,
}

/// The layout of GTA5 and SYNTHIA: images in one folder, labels of the same stem in another.
pub(super) fn list_flat(layout: &Layout, root: &Path, images: &str, labels: &str) -> Result<Found> {
    let folder = root.join(images);
    let label_folder = root.join(labels);
    let items = list_images(&folder, layout)?
        .into_iter()
        .map(|(stem, image)| {
            let file = format!("{stem}.png");
            Item { labels: Some(label_folder.join(&file)), name: stem, image, pseudo: file.into() }
        })
        .collect();
    Ok(Found { folder, items })
}

/// The images of a folder: (stem, path). Hidden files and other kinds of files are passed over.
pub(super) fn list_images(folder: &Path, layout: &Layout) -> Result<Vec<(String, PathBuf)>> {
    let mut images = Vec::new();
    for path in list_folder(folder, layout)? {
        let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        if !matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg")) {
            continue;
        }
        match path.file_stem().and_then(OsStr::to_str) {
            Some(stem) => images.push((stem.to_owned(), path)),
            None => return Err(Error::data(&path, "the file name is not valid UTF-8; rename the file")),
        }
    }
    Ok(images)
}

/// The entries of a folder except hidden ones. Where there is no such folder, the message states the layout.
pub(super) fn list_folder(folder: &Path, layout: &Layout) -> Result<Vec<PathBuf>> {
    let problem = match fs::metadata(folder) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some("not a folder".to_owned()),
        Err(e) if e.kind() == ErrorKind::NotFound => Some("no such folder".to_owned()),
        // Among others a loop of symbolic links.
        Err(e) => Some(e.to_string()),
    };
    if let Some(problem) = problem {
        return Err(Error::data(folder, format!("{problem}; {layout}")));
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}
