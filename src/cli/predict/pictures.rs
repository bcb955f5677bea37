//! The files that are written of a prediction.

use std::path::PathBuf;

use super::{jobs::Job, predicted::Predicted};
use crate::{
    Error, Result,
    data::{ClassList, IGNORE, LabelMap, RgbImage, write},
    train,
};

/// Weight of the colours in an overlay.
const OPACITY: f32 = 0.5;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// NAME_labels.png: the class of each pixel.
    Labels,
    /// NAME_overlay.png: the image under the classes' colours.
    Overlay,
    /// NAME_colors.png: the classes' colours, RGB.
    Colors,
    /// NAME_confidence.png: the class's probability, 0 to 255 in grey.
    Confidence,
}

/// How label maps number the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ids {
    /// Train ids, as a palette's index with the classes' colours.
    Train,
    /// Label ids, grey: what cityscapesScripts and Cityscapes' test server read.
    Label,
}

/// What is written of each image.
pub(super) struct Pictures {
    kinds: Vec<Kind>,
    classes: ClassList,
    /// Label ids by train id, where they are asked for.
    label_ids: Option<[u8; 256]>,
    /// Whether the network's probabilities are needed.
    pub confidence: bool,
}

impl Pictures {
    /// Errors where label ids are asked for and a class has none.
    pub fn new(kinds: &[Kind], ids: Ids, classes: &ClassList, outputs: usize) -> Result<Self> {
        let label_ids = match ids {
            Ids::Train => None,
            Ids::Label => Some(label_ids(classes, outputs)?),
        };
        let confidence = kinds.contains(&Kind::Confidence);
        Ok(Self { kinds: kinds.to_vec(), classes: classes.clone(), label_ids, confidence })
    }

    /// The colours of a prediction over its image.
    pub fn overlay(&self, image: &RgbImage, labels: &LabelMap) -> Result<RgbImage> {
        blend(image, &train::colorize(labels, &self.classes)?)
    }

    /// Writes an image's files and gives their paths.
    pub fn write(&self, job: &Job, predicted: &Predicted) -> Result<Vec<PathBuf>> {
        let Predicted { image, labels, confidence } = predicted;
        let mut files = Vec::new();
        for kind in &self.kinds {
            let (path, written) = match kind {
                Kind::Labels => {
                    let path = job.file("_labels.png");
                    let written = match &self.label_ids {
                        None => write::color_map_png(&path, labels, &self.classes),
                        Some(ids) => write::label_png(&path, &labels.map(|id| ids[usize::from(id)])),
                    };
                    (path, written)
                }
                Kind::Overlay => {
                    let path = job.file("_overlay.png");
                    let written = self.overlay(image, labels).and_then(|picture| write::image_png(&path, &picture));
                    (path, written)
                }
                Kind::Colors => {
                    let path = job.file("_colors.png");
                    let colors = train::colorize(labels, &self.classes);
                    let written = colors.and_then(|picture| write::image_png(&path, &picture));
                    (path, written)
                }
                Kind::Confidence => {
                    let path = job.file("_confidence.png");
                    let level = |&value: &f32| (255.0 * value).round().clamp(0.0, 255.0) as u8;
                    let levels = confidence.iter().flatten().map(level).collect();
                    let map = LabelMap::new(image.width(), image.height(), levels);
                    let written = map.and_then(|map| write::label_png(&path, &map));
                    (path, written)
                }
            };
            written?;
            files.push(path);
        }
        Ok(files)
    }
}

fn label_ids(classes: &ClassList, outputs: usize) -> Result<[u8; 256]> {
    let mut ids = [IGNORE; 256];
    for (class, id) in ids.iter_mut().enumerate().take(outputs) {
        *id = classes.iter().nth(class).and_then(|class| class.label_id).ok_or_else(|| {
            let name = classes.name(class);
            Error::Config(format!("{name} has no label id; leave out --ids label, or give the class a label_id"))
        })?;
    }
    Ok(ids)
}

fn blend(image: &RgbImage, colors: &RgbImage) -> Result<RgbImage> {
    let mix = |(&a, &b): (&u8, &u8)| ((1.0 - OPACITY) * f32::from(a) + OPACITY * f32::from(b)).round() as u8;
    RgbImage::new(image.width(), image.height(), image.pixels().iter().zip(colors.pixels()).map(mix).collect())
}
