//! A data set on disk: finding its files, checking that they belong together, reading one item.

use std::path::{Path, PathBuf};

use super::{
    decode,
    description::{Description, LabelTable},
    listing::{self, Expected, Item},
    pixels::{LabelMap, RgbImage},
    split::Split,
};
use crate::{Error, Result};

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
    description: Description,
    root: PathBuf,
    table: LabelTable,
    items: Vec<Item>,
}

impl Dataset {
    /// Lists the described data set in the folder `root` and checks that every image has its label file.
    ///
    /// A missing folder, a folder without images and an image without label are errors that state the expected layout.
    /// No file is opened yet.
    pub fn open(description: &Description, root: &Path, split: Split, labels: &LabelSource) -> Result<Self> {
        let (title, name) = (description.title(), description.name());
        let files = description.files(split).ok_or_else(|| {
            Error::data(root, format!("{title} has no split {split}; describe one (trainer datasets show {name})"))
        })?;
        let expected = Expected { title, files };
        let mut items = listing::items(root, &expected)?;
        let table = match labels {
            LabelSource::Truth => {
                description.labels().filter(|_| files.labels.is_some()).cloned().ok_or_else(|| {
                    Error::data(root, format!("{title} has no labels in its split {split}; choose a labelled data set"))
                })?
            }
            _ => LabelTable::train_ids(description.classes().len()),
        };
        match labels {
            LabelSource::Truth => {
                let advice = |path: &Path| train_ids_beside(path).unwrap_or_else(|| expected.to_string());
                expect_labels(&items, advice)?;
            }
            _ => items.iter_mut().for_each(|item| item.labels = None),
        }
        let dataset = Self { description: description.clone(), root: root.to_owned(), table, items };
        match labels {
            LabelSource::Folder(folder) => dataset.with_pseudo_labels(folder),
            _ => Ok(dataset),
        }
    }

    /// The same images with the pseudo labels in `folder`, which must all be there.
    pub fn with_pseudo_labels(&self, folder: &Path) -> Result<Self> {
        let table = LabelTable::train_ids(self.description.classes().len());
        let mut dataset = Self { table, ..self.clone() };
        dataset.items.iter_mut().for_each(|item| item.labels = Some(folder.join(pseudo_label(item))));
        expect_labels(&dataset.items, |_| "pseudo labels are written before each round".to_owned())?;
        Ok(dataset)
    }

    /// The labelled images to score on; `Err` is the reason why there are none: no such split, no label in it.
    ///
    /// Errors of the outer result are those of [`Self::open`]: a split of which only some images have labels.
    pub fn open_labelled(description: &Description, root: &Path, split: Split) -> Result<Result<Self, String>> {
        let title = description.title();
        let Some(files) = description.files(split) else { return Ok(Err(format!("{title} has no split {split}"))) };
        if files.labels.is_none() {
            return Ok(Err(format!("{title} has no labels")));
        }
        let folder = root.join(files.images.base());
        if !folder.is_dir() && root.is_dir() {
            return Ok(Err(format!("there is no folder {}", folder.display())));
        }
        let items = listing::items(root, &Expected { title, files })?;
        let labels = || items.iter().filter_map(|item| item.labels.as_ref());
        match labels().find(|path| path.is_file()) {
            Some(_) => Self::open(description, root, split, &LabelSource::Truth).map(Ok),
            // Train ids where label ids are expected: an error with what to do.
            None if labels().next().is_some_and(|path| train_ids_beside(path).is_some()) => {
                Self::open(description, root, split, &LabelSource::Truth).map(Ok)
            }
            None => Ok(Err(format!("no image in {} has a label", folder.display()))),
        }
    }

    /// The description.
    pub fn description(&self) -> &Description {
        &self.description
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

    /// Leaves out the items at these places; at least one stays.
    pub fn leave_out(&mut self, places: &[usize]) {
        let mut place = 0;
        self.items.retain(|_| {
            place += 1;
            !places.contains(&(place - 1))
        });
    }

    /// Where the pseudo label of item `index` lies below `folder`: `NAME.png`, with the folders of the item's name.
    pub fn pseudo_label_path(&self, folder: &Path, index: usize) -> Result<PathBuf> {
        Ok(folder.join(pseudo_label(self.item(index)?)))
    }

    /// Reads item `index`. A broken file and an image and label that differ in size are errors with the file's name.
    pub fn read(&self, index: usize) -> Result<Example> {
        let item = self.item(index)?;
        let image = decode::read_image(&item.image)?;
        let labels = match &item.labels {
            None => None,
            Some(path) => {
                let labels = decode::read_labels(path, &self.table)?;
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

fn expect_labels(items: &[Item], advice: impl Fn(&Path) -> String) -> Result<()> {
    for item in items {
        if let Some(path) = &item.labels
            && !path.is_file()
        {
            let message = format!("image without label: {} is missing; {}", path.display(), advice(path));
            return Err(Error::data(&item.image, message));
        }
    }
    Ok(())
}

fn pseudo_label(item: &Item) -> PathBuf {
    format!("{}.png", item.name).into()
}

/// What to do where a file of label ids is missing and one of train ids lies in its place.
fn train_ids_beside(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let other = path.with_file_name(name.replace("_labelIds", "_labelTrainIds"));
    let found = other != *path && other.is_file();
    found.then(|| format!("{} is there: train ids are read by the data set cityscapes-trainids", other.display()))
}
