//! Miniature: generated street scenes in two styles with exact labels, in GTA5's and Cityscapes' on-disk layouts
//! (docs/method.md, "Data").
//!
//! A scene is a straight street in perspective: surfaces painted from far to near onto a canvas with 2 x 2 samples per
//! pixel, then a camera model. Both domains share the classes and the anatomy of a street; all in which they differ is a
//! field of [`Style`], and [`Options::gap`] moves the target between the two.
//!
//! Made for images of about 256 x 128: people are some 15 pixels wide and 40 high there, posts 3 or 4 wide.

mod canvas;
mod furniture;
mod ids;
mod look;
mod people;
mod plants;
mod rng;
mod scene;
mod sensor;
mod store;
mod style;
mod surroundings;
mod vehicles;

use std::path::Path;

use rayon::prelude::*;

pub use ids::LABEL_IDS;
pub use style::{SOURCE, Span, Style, TARGET, Tint};

use crate::{Error, Result};
use store::{Part, State};

/// Samples per pixel along each axis.
const SUPER: usize = 2;

/// Smallest width and height: below, people and posts would be lost.
pub const MIN_SIZE: [usize; 2] = [64, 48];

/// Largest width or height.
pub const MAX_SIDE: usize = 2048;

/// What to generate.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// The same seed gives the same files, to the bit.
    pub seed: u64,
    /// Labelled images of the source.
    pub source_images: usize,
    /// Unlabelled images of the target.
    pub target_train: usize,
    /// Labelled images of the target.
    pub target_val: usize,
    /// Pixels, at least 64 and at most 2048.
    pub width: usize,
    /// Pixels, at least 48 and at most 2048.
    pub height: usize,
    /// Write the truth of the target's training images too, for an oracle.
    pub oracle_labels: bool,
    /// How far the target is from the source: 0 the same style, 1 [`TARGET`]; up to 1.5.
    pub gap: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            source_images: 300,
            target_train: 200,
            target_val: 100,
            width: 256,
            height: 128,
            oracle_labels: false,
            gap: 1.0,
        }
    }
}

/// What [`generate`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The folder held the same data set already.
    pub reused: bool,
    /// Images of all parts together.
    pub images: usize,
}

/// A picture and its truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Interleaved 8-bit RGB, `height * width * 3`.
    pub image: Vec<u8>,
    /// Cityscapes ids, `height * width`, each one of [`LABEL_IDS`].
    pub label: Vec<u8>,
}

/// Renders scene `index` of a seed: a pure function, the same on every machine.
///
/// # Errors
/// [`Error::Config`] where the size is outside [`MIN_SIZE`] and [`MAX_SIDE`].
///
/// ```
/// use bicl::data::miniature::{TARGET, render};
/// let scene = render(0, 7, &TARGET, 128, 64)?;
/// assert_eq!(scene.label.len(), 128 * 64);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn render(seed: u64, index: u64, style: &Style, width: usize, height: usize) -> Result<Scene> {
    check_size(width, height)?;
    Ok(scene::draw(&mut rng::Rng::new(seed, index), style, width, height))
}

/// Generates both domains under `root`: `gta5/` with labels, `cityscapes/` with train (labels only where asked for) and
/// val. A root that holds the same data set already is left as it is. The data set is built in a folder beside `root`
/// and renamed at the end, so an interruption leaves no partial data set behind.
///
/// # Errors
/// [`Error::Config`] for options out of range, [`Error::Data`] where `root` holds anything else, [`Error::Io`].
pub fn generate(root: &Path, options: &Options) -> Result<Report> {
    check_size(options.width, options.height)?;
    if !(0.0..=1.5).contains(&options.gap) {
        return Err(Error::Config(format!("miniature: gap {} is out of range; use 0 to 1.5", options.gap)));
    }
    let parts = [
        (Part::Source, options.source_images, true),
        (Part::TargetTrain, options.target_train, options.oracle_labels),
        (Part::TargetVal, options.target_val, true),
    ];
    if let Some((part, count, _)) = parts.iter().find(|(_, count, _)| !(1..100_000).contains(count)) {
        return Err(Error::Config(format!("miniature: {count} images for {part:?}; use 1 to 99999")));
    }
    let images = parts.iter().map(|(_, count, _)| count).sum();
    if let State::Same = store::inspect(root, options)? {
        return Ok(Report { reused: true, images });
    }
    let workshop = store::workshop(root)?;
    let result = fill(&workshop, options, &parts).and_then(|()| store::publish(&workshop, root, options));
    if result.is_err() {
        // The first error is the one to report; what cannot be removed now is removed by the next run.
        let _ = std::fs::remove_dir_all(&workshop);
    }
    result.map(|()| Report { reused: false, images })
}

fn fill(folder: &Path, options: &Options, parts: &[(Part, usize, bool)]) -> Result<()> {
    let target = SOURCE.between(&TARGET, options.gap);
    for (k, &(part, count, labels)) in parts.iter().enumerate() {
        part.prepare(folder, labels)?;
        let style = if part == Part::Source { &SOURCE } else { &target };
        // Each part has its own range of indices: no two scenes share a random stream.
        let first = (k as u64) << 32;
        (0..count).into_par_iter().try_for_each(|index| {
            let scene = render(options.seed, first + index as u64, style, options.width, options.height)?;
            part.write(folder, index, &scene, labels)
        })?;
    }
    store::seal(folder, options)
}

fn check_size(width: usize, height: usize) -> Result<()> {
    let [min_width, min_height] = MIN_SIZE;
    if width < min_width || height < min_height || width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::Config(format!(
            "miniature: image size {width} x {height} is out of range; use {min_width} x {min_height} to {MAX_SIDE} x {MAX_SIDE}"
        )));
    }
    Ok(())
}
