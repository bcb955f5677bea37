//! The files: GTA5's and Cityscapes' layouts, and the manifest that says what a folder holds.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Options, Scene, ids};
use crate::{Error, Result};

/// The manifest's name in the data root.
const MANIFEST: &str = "miniature.json";

/// Raised whenever the same options give other pictures or other files.
const VERSION: u32 = 2;

/// The invented city of the Cityscapes layout.
const CITY: &str = "miniature";

#[derive(serde::Serialize, serde::Deserialize, PartialEq)]
struct Manifest {
    version: u32,
    options: Options,
}

impl Manifest {
    fn of(options: &Options) -> Self {
        Self { version: VERSION, options: options.clone() }
    }
}

pub(super) enum State {
    /// Nothing there, or an empty folder.
    Free,
    /// A complete data set of the same options.
    Same,
}

/// What `root` holds. An error where it holds anything but a data set of these options.
pub(super) fn inspect(root: &Path, options: &Options) -> Result<State> {
    let mut entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(State::Free),
        Err(e) => return Err(Error::io(root, e)),
    };
    if entries.next().is_none() {
        return Ok(State::Free);
    }
    let path = root.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::data(
                root,
                format!("the folder is not empty and has no {MANIFEST}: give a new or empty folder for the miniature"),
            ));
        }
        Err(e) => return Err(Error::io(path, e)),
    };
    match serde_json::from_slice::<Manifest>(&text) {
        Ok(found) if found == Manifest::of(options) => Ok(State::Same),
        Ok(found) => Err(Error::data(
            root,
            format!(
                "the folder holds a miniature data set of other options (seed {}, {} x {}, version {}): \
                 remove it or give another folder",
                found.options.seed, found.options.width, found.options.height, found.version
            ),
        )),
        Err(e) => Err(Error::data(path, format!("not a manifest of the miniature ({e}): remove the folder"))),
    }
}

/// Writes the manifest, which completes the data set in `root`.
pub(super) fn seal(root: &Path, options: &Options) -> Result<()> {
    let path = root.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&Manifest::of(options)).map_err(|e| Error::data(&path, e.to_string()))?;
    fs::write(&path, text).map_err(|e| Error::io(path, e))
}

/// The folder beside `root` in which this process builds the data set. Its last step is a rename to `root`, so that
/// `root` is complete or absent at every moment. The folder of a process that was interrupted is removed.
pub(super) fn workshop(root: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(root).map_err(|e| Error::io(root, e))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name().and_then(|n| n.to_str())) else {
        return Err(Error::data(root, "not a folder that can be created: give a path with a plain name"));
    };
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    let prefix = format!(".{name}.miniature-");
    for entry in fs::read_dir(parent).map_err(|e| Error::io(parent, e))?.flatten() {
        if entry.file_name().to_str().and_then(|n| n.strip_prefix(&prefix)).is_some_and(abandoned) {
            fs::remove_dir_all(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        }
    }
    let call = CALLS.fetch_add(1, Ordering::SeqCst);
    Ok(parent.join(format!("{prefix}{}-{call}", std::process::id())))
}

/// How often this process has generated: with its number, the name of a workshop that nobody else uses.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Whether a workshop named `<process>-<call>` has no owner any more. Without /proc nobody can tell which processes
/// live: then only an earlier process of our own number is known to be gone.
fn abandoned(name: &str) -> bool {
    let Some((Ok(process), Ok(call))) = name.split_once('-').map(|(p, c)| (p.parse::<u32>(), c.parse::<u32>())) else {
        return false;
    };
    if process == std::process::id() {
        return call >= CALLS.load(Ordering::SeqCst);
    }
    Path::new("/proc/self").exists() && !Path::new("/proc").join(process.to_string()).exists()
}

/// Moves the finished `workshop` to `root`.
pub(super) fn publish(workshop: &Path, root: &Path, options: &Options) -> Result<()> {
    // Only an empty folder can be removed this way.
    match fs::remove_dir(root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound && e.kind() != std::io::ErrorKind::DirectoryNotEmpty => {
            return Err(Error::io(root, e));
        }
        _ => {}
    }
    fs::rename(workshop, root).or_else(|e| match inspect(root, options) {
        // Another process was faster with the same data set.
        Ok(State::Same) => fs::remove_dir_all(workshop).map_err(|e| Error::io(workshop, e)),
        Ok(State::Free) => Err(Error::io(root, e)),
        Err(e) => Err(e),
    })
}

/// Where one scene's files go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    Source,
    TargetTrain,
    TargetVal,
}

impl Part {
    /// Image and label file of the scene, relative to the data root.
    pub fn files(self, index: usize) -> (String, String) {
        let split = match self {
            Self::Source => {
                return (format!("gta5/images/{:05}.png", index + 1), format!("gta5/labels/{:05}.png", index + 1));
            }
            Self::TargetTrain => "train",
            Self::TargetVal => "val",
        };
        (
            format!("cityscapes/leftImg8bit/{split}/{CITY}/{CITY}_{index:06}_000000_leftImg8bit.png"),
            format!("cityscapes/gtFine/{split}/{CITY}/{CITY}_{index:06}_000000_gtFine_labelIds.png"),
        )
    }

    /// Creates the folders of this part.
    pub fn prepare(self, root: &Path, labels: bool) -> Result<()> {
        let (image, label) = self.files(0);
        for file in [Some(image), labels.then_some(label)].into_iter().flatten() {
            let path = root.join(file);
            let folder = path.parent().unwrap_or(root);
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        Ok(())
    }

    pub fn write(self, root: &Path, index: usize, scene: &Scene, labels: bool) -> Result<()> {
        let (image, label) = self.files(index);
        png(&root.join(image), scene, png::ColorType::Rgb, &scene.image)?;
        if labels {
            let kind = if self == Self::Source { png::ColorType::Indexed } else { png::ColorType::Grayscale };
            png(&root.join(label), scene, kind, &scene.label)?;
        }
        Ok(())
    }
}

fn png(path: &Path, scene: &Scene, kind: png::ColorType, bytes: &[u8]) -> Result<()> {
    let file = fs::File::create(path).map_err(|e| Error::io(path, e))?;
    // The sizes were checked to be at most MAX_SIDE.
    let mut encoder = png::Encoder::new(BufWriter::new(file), scene.width as u32, scene.height as u32);
    encoder.set_color(kind);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    if kind == png::ColorType::Indexed {
        encoder.set_palette(ids::COLOURS.as_flattened());
    }
    let failed = |e: png::EncodingError| match e {
        png::EncodingError::IoError(e) => Error::io(path, e),
        e => Error::data(path, format!("cannot be encoded: {e}")),
    };
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(bytes).map_err(failed)?;
    writer.finish().map_err(failed)
}
