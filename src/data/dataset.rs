//! A data set on disk: finding its files, checking that they belong together, reading one item.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::classes::Ids;
use super::listing::{Item, Layout};
use super::pixels::{LabelMap, RgbImage};
use super::{cityscapes, decode, gta5, synthia};
use crate::{Error, Result};

/// Whose layout and ids a folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatasetKind {
    /// `images/*.png`, `labels/*.png` (Richter et al., ECCV 2016).
    Gta5,
    /// `RGB/*.png`, `GT/LABELS/*.png`: SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016).
    Synthia,
    /// `leftImg8bit/SPLIT/CITY/*`, `gtFine/SPLIT/CITY/*` (Cordts et al., CVPR 2016).
    Cityscapes,
}

impl DatasetKind {
    /// The name: also the folder below `--data-root`.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// The data set's folder below `data_root`.
    pub fn root_in(self, data_root: &Path) -> PathBuf {
        data_root.join(self.name())
    }

    /// How its label files count the classes.
    pub fn ids(self) -> Ids {
        match self {
            Self::Gta5 => Ids::Gta5,
            Self::Synthia => Ids::Synthia,
            Self::Cityscapes => Ids::Cityscapes,
        }
    }

    fn layout(self) -> &'static Layout {
        match self {
            Self::Gta5 => &gta5::LAYOUT,
            Self::Synthia => &synthia::LAYOUT,
            Self::Cityscapes => &cityscapes::LAYOUT,
        }
    }
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DatasetKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Gta5, Self::Synthia, Self::Cityscapes]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::Config(format!("unknown data set `{name}`; use gta5, synthia or cityscapes")))
    }
}

/// Which part. GTA5 and SYNTHIA are not divided: all of it is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Training images.
    Train,
    /// Validation images.
    Val,
}

impl Split {
    /// The folder name in Cityscapes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the labels come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelSource {
    /// The data set's own label files.
    Truth,
    /// There are none, or they must not be looked at.
    None,
    /// Static pseudo labels: 8-bit PNG of train ids in this folder, at [`Dataset::pseudo_label_path`].
    Folder(PathBuf),
}

/// One image of a data set, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The item's name.
    pub name: String,
    /// The image.
    pub image: RgbImage,
    /// Train ids, where labels were asked for; the image's size.
    pub labels: Option<LabelMap>,
}

/// A data set: its items, sorted by name.
#[derive(Clone, Debug)]
pub struct Dataset {
    kind: DatasetKind,
    root: PathBuf,
    ids: Ids,
    items: Vec<Item>,
}

impl Dataset {
    /// Lists the data set of `kind` in the folder `root` and checks that every image has its label file.
    ///
    /// A missing folder, a folder without images and an image without label are errors that state the expected layout.
    /// No file is opened yet.
    pub fn open(kind: DatasetKind, root: &Path, split: Split, labels: &LabelSource) -> Result<Self> {
        let found = match kind {
            DatasetKind::Gta5 => gta5::list(root),
            DatasetKind::Synthia => synthia::list(root),
            DatasetKind::Cityscapes => cityscapes::list(root, split.name()),
        }?;
        let mut items = found.items;
        items.sort_by(|a, b| a.name.cmp(&b.name));
        if items.is_empty() {
            let message = format!("no .png or .jpg image here; {}", kind.layout());
            return Err(Error::data(found.folder, message));
        }
        if let Some(pair) = items.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let message = format!("a second image with the name of {}; remove one", pair[0].image.display());
            return Err(Error::data(&pair[1].image, message));
        }
        for item in &mut items {
            match labels {
                LabelSource::None => item.labels = None,
                LabelSource::Truth => {}
                LabelSource::Folder(folder) => item.labels = Some(folder.join(&item.pseudo)),
            }
            if let Some(path) = &item.labels
                && !path.is_file()
            {
                let advice = match labels {
                    LabelSource::Folder(_) => "pseudo labels are written before each round".to_owned(),
                    _ => kind.layout().to_string(),
                };
                return Err(Error::data(
                    &item.image,
                    format!("image without label: {} is missing; {advice}", path.display()),
                ));
            }
        }
        let ids = if matches!(labels, LabelSource::Folder(_)) { Ids::Train } else { kind.ids() };
        Ok(Self { kind, root: root.to_owned(), ids, items })
    }

    /// The kind.
    pub fn kind(&self) -> DatasetKind {
        self.kind
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The items, sorted by name.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Number of items, at least 1.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never true: an empty folder does not open.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first `n` items only (all where there are fewer), for quick looks; at least one stays.
    pub fn truncate(&mut self, n: usize) {
        self.items.truncate(n.max(1));
    }

    /// Where the pseudo label of item `index` lies below `folder`: `CITY/NAME_gtFine_labelTrainIds.png` for Cityscapes,
    /// `NAME.png` for the others.
    pub fn pseudo_label_path(&self, folder: &Path, index: usize) -> Result<PathBuf> {
        Ok(folder.join(&self.item(index)?.pseudo))
    }

    /// Reads item `index`. A broken file and an image and label that differ in size are errors with the file's name.
    pub fn read(&self, index: usize) -> Result<Example> {
        let item = self.item(index)?;
        let image = decode::read_image(&item.image)?;
        let labels = match &item.labels {
            None => None,
            Some(path) => {
                let labels = decode::read_labels(path, self.ids)?;
                if (labels.width(), labels.height()) != (image.width(), image.height()) {
                    let message = format!(
                        "label is {} x {}, but its image {} is {} x {}; use the pair of one download",
                        labels.width(),
                        labels.height(),
                        item.image.display(),
                        image.width(),
                        image.height()
                    );
                    return Err(Error::data(path, message));
                }
                Some(labels)
            }
        };
        Ok(Example { name: item.name.clone(), image, labels })
    }

    fn item(&self, index: usize) -> Result<&Item> {
        let missing = || Error::shape("Dataset::read", format!("item {index} of {}", self.items.len()));
        self.items.get(index).ok_or_else(missing)
    }
}
