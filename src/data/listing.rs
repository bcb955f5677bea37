//! The files of a split, found by the patterns of a description.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use walkdir::{DirEntry, WalkDir};

use super::description::{Files, Pattern};
use crate::{Error, Result};

/// Suffixes of images that are read, in any case.
pub const IMAGE_SUFFIXES: [&str; 7] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"];

/// Folders in archives that hold no images of one's own.
const PASSED_OVER: [&str; 1] = ["__MACOSX"];

/// One image of a data set, before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The image's path below the split's folder, without suffix, and without what all names have in common.
    pub name: String,
    /// The image file.
    pub image: PathBuf,
    /// The label file, where labels were asked for.
    pub labels: Option<PathBuf>,
}

/// Where files are expected, for messages.
pub(super) struct Expected<'a> {
    pub title: &'a str,
    pub files: &'a Files,
}

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is expected as ROOT/{}.png (or .jpg, ...)", self.title, self.files.images.as_str())?;
        match &self.files.labels {
            Some(labels) => write!(f, " with ROOT/{}.png", labels.as_str()),
            None => Ok(()),
        }
    }
}

/// Whether the file's suffix is that of an image.
pub fn is_image(path: &Path) -> bool {
    let suffix = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    suffix.is_some_and(|suffix| IMAGE_SUFFIXES.contains(&suffix.as_str()))
}

/// Whether a name is of the system's own: hidden files, resource forks.
fn is_system(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    entry.depth() > 0 && (name.as_encoded_bytes().starts_with(b".") || PASSED_OVER.iter().any(|known| name == *known))
}

/// All images below `folder`, by path: symbolic links are followed, system files passed over. `depth` limits the levels of
/// folders. What lies in one of `leave_out` (real paths) is none.
pub fn images_below(folder: &Path, depth: usize, leave_out: &HashSet<PathBuf>) -> Result<Vec<PathBuf>> {
    let walk = WalkDir::new(folder).follow_links(true).max_depth(depth).sort_by_file_name().into_iter();
    let kept = |entry: &DirEntry| {
        !is_system(entry)
            && (leave_out.is_empty()
                || !entry.file_type().is_dir()
                || entry.depth() == 0
                || !fs::canonicalize(entry.path()).is_ok_and(|real| leave_out.contains(&real)))
    };
    let mut found = Vec::new();
    for entry in walk.filter_entry(kept) {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_image(entry.path()) => found.push(entry.into_path()),
            Ok(_) => {}
            // A link that leads back to a folder above brings nothing new.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                let reason = error.into_io_error().unwrap_or_else(|| ErrorKind::Other.into());
                return Err(Error::io(path, reason));
            }
        }
    }
    Ok(found)
}

/// Where there is no folder, the message states what is expected.
fn expect_folder(folder: &Path, expected: &Expected<'_>) -> Result<()> {
    let problem = match fs::metadata(folder) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "not a folder".to_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => "no such folder".to_owned(),
        // Among others a loop of symbolic links.
        Err(e) => e.to_string(),
    };
    Err(Error::data(folder, format!("{problem}; {expected}")))
}

/// The images of a split with the places of their labels, where there are such; sorted by name.
///
/// Errors: no folder, no image, names that are not UTF-8, an image whose name does not fit, two images of one name.
pub(super) fn items(root: &Path, expected: &Expected<'_>) -> Result<Vec<Item>> {
    let Files { images, labels } = expected.files;
    let folder = root.join(images.base());
    expect_folder(&folder, expected)?;
    // One level for each folder of the pattern below its base; any number under **.
    let depth = match images.as_str().contains("**") {
        true => usize::MAX,
        false => images.as_str().split('/').count() - images.base().components().count(),
    };
    let mut items = Vec::new();
    let mut label_files = labels.as_ref().map(|_| LabelFiles::default());
    for image in images_below(&folder, depth, &HashSet::new())? {
        let relative = relative(root, &image)?;
        let Some(wildcards) = images.matches(&relative) else {
            let fits = images.as_str().rsplit('/').next().unwrap_or_default();
            // Another folder may be another split's.
            if !images.holds_folder_of(&relative) {
                continue;
            }
            return Err(Error::data(&image, format!("the name does not fit {fits}; {expected}")));
        };
        let labels = match (labels, &mut label_files) {
            (Some(labels), Some(files)) => Some(files.find(root, labels, &wildcards)),
            _ => None,
        };
        items.push(Item { name: wildcards.concat_names(), image, labels });
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    if items.is_empty() {
        return Err(Error::data(folder, format!("no .png or .jpg image here; {expected}")));
    }
    if let Some(pair) = items.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let message = format!("a second image with the name of {}; remove one", pair[0].image.display());
        return Err(Error::data(&pair[1].image, message));
    }
    Ok(items)
}

trait ConcatNames {
    fn concat_names(&self) -> String;
}

impl ConcatNames for Vec<&str> {
    /// Folders and name; `*` stands for parts of one path, so parts without a slash between them get one.
    fn concat_names(&self) -> String {
        let mut name = String::new();
        for part in self {
            if !name.is_empty() && !name.ends_with('/') {
                name.push('/');
            }
            name.push_str(part);
        }
        name
    }
}

/// The path below `root` with slashes, without suffix.
fn relative(root: &Path, image: &Path) -> Result<String> {
    let below = image.strip_prefix(root).unwrap_or(image).with_extension("");
    let parts: Option<Vec<&str>> = below.components().map(|part| part.as_os_str().to_str()).collect();
    parts
        .map(|parts| parts.join("/"))
        .ok_or_else(|| Error::data(image, "the file name is not valid UTF-8; rename the file"))
}

/// Label files by folder and stem, each folder read once: a label may have another suffix than .png, or one in capitals.
#[derive(Default)]
struct LabelFiles(HashMap<PathBuf, HashMap<String, PathBuf>>);

impl LabelFiles {
    /// The label's file; with the suffix .png where there is none, so that a message can name it.
    fn find(&mut self, root: &Path, labels: &Pattern, wildcards: &[&str]) -> PathBuf {
        let path = root.join(labels.fill(wildcards));
        let folder = path.parent().unwrap_or(root).to_owned();
        let files = self.0.entry(folder).or_insert_with_key(|folder| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut files = HashMap::new();
            for path in entries.filter(|path| is_image(path)) {
                if let Some(stem) = path.file_stem().and_then(OsStr::to_str) {
                    let png = path.extension().is_some_and(|suffix| suffix == "png");
                    // Of several the .png is the label: colour pictures and previews lie beside it in other formats.
                    if png || !files.contains_key(stem) {
                        files.insert(stem.to_owned(), path);
                    }
                }
            }
            files
        });
        let stem = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        files.get(stem).cloned().unwrap_or_else(|| path.with_file_name(format!("{stem}.png")))
    }
}
