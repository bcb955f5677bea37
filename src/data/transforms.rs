//! What happens to an image between the file and the network (docs/method.md, "Data" and "Presets").

use std::fmt;

use serde::{Deserialize, Serialize};

use super::classes::IGNORE;
use super::dataset::Example;
use super::pixels::RgbImage;
use super::resize::{self, Window};
use super::rng::Rng;
use crate::{Error, Result};

/// Mean of the Caffe weights' training images, blue, green, red, on 0..255.
const CAFFE_MEAN_BGR: [f32; 3] = [104.006_99, 116.668_77, 122.678_92];
/// Mean and deviation of torchvision's weights, red, green, blue, on 0..1.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// From bytes to the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Channels blue, green, red, minus the mean (104.00698793, 116.66876762, 122.67891434), not divided.
    Caffe,
    /// Channels red, green, blue, on 0..1, minus the mean, divided by the deviation, as torchvision's weights want.
    Imagenet,
}

impl Normalize {
    /// The order of the network's channels.
    pub fn channels(self) -> &'static str {
        match self {
            Self::Caffe => "BGR",
            Self::Imagenet => "RGB",
        }
    }

    /// Subtracted from levels on 0..255, by output channel.
    pub fn mean(self) -> [f32; 3] {
        match self {
            Self::Caffe => CAFFE_MEAN_BGR,
            Self::Imagenet => IMAGENET_MEAN.map(|mean| mean * 255.0),
        }
    }

    /// Divides the difference, by output channel.
    pub fn deviation(self) -> [f32; 3] {
        match self {
            Self::Caffe => [1.0; 3],
            Self::Imagenet => IMAGENET_STD.map(|deviation| deviation * 255.0),
        }
    }

    /// The image channel (0 red, 1 green, 2 blue) that output channel `channel` takes.
    fn source(self, channel: usize) -> usize {
        match self {
            Self::Caffe => 2 - channel,
            Self::Imagenet => channel,
        }
    }

    /// The value of output channel `channel` for `level` on 0..255 (not necessarily whole).
    pub fn value(self, channel: usize, level: f32) -> f32 {
        match self {
            Self::Caffe => level - CAFFE_MEAN_BGR[channel],
            Self::Imagenet => (level / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel],
        }
    }
}

impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caffe => "caffe",
            Self::Imagenet => "imagenet",
        })
    }
}

/// Photometric jitter, in this order, on levels 0..1: x^gamma; contrast about the crop's mean grey; brightness; one gain per
/// colour; clamped to 0..1. Each range is drawn from uniformly; gamma is e^u with u from its range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Range of the logarithm of gamma.
    pub log_gamma: [f64; 2],
    /// Range of the factor about the mean.
    pub contrast: [f64; 2],
    /// Range of the factor on all channels.
    pub brightness: [f64; 2],
    /// Range of each colour's factor.
    pub gain: [f64; 2],
}

impl Jitter {
    /// The preset `scratch` (docs/method.md, "Presets"): gamma e^U(-0.7, 0.7), contrast 0.5-1.5, brightness
    /// 0.3-1.3, gains 0.7-1.3.
    pub const SCRATCH: Self =
        Self { log_gamma: [-0.7, 0.7], contrast: [0.5, 1.5], brightness: [0.3, 1.3], gain: [0.7, 1.3] };
}

/// The random transform of a training item: resize, scale, crop, mirror, jitter, normalise.
///
/// The image is resized once, to round(side * factor) per side, where factor = scale * short_side / (shorter side); the crop
/// is taken from that. Where the crop is larger than the resized image, the image stands at the top left and the rest is 0
/// (the mean, once normalised) with label 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainTransform {
    /// Length of the shorter side before the random scale; `None` keeps the file's size.
    pub short_side: Option<usize>,
    /// Range of the random scale, uniform; `[1.0, 1.0]` for none.
    pub scale: [f64; 2],
    /// Width and height of the crop.
    pub crop: (usize, usize),
    /// Probability of a horizontal mirror.
    pub mirror: f64,
    /// Photometric jitter, or none.
    pub jitter: Option<Jitter>,
    /// The network's input convention.
    pub normalize: Normalize,
}

impl TrainTransform {
    /// The published transform (docs/method.md, "Data"): shorter side 850, scale 0.8-1.2, crop 730 x 730, mirror
    /// 0.5, no jitter, Caffe.
    pub const PAPER: Self = Self {
        short_side: Some(850),
        scale: [0.8, 1.2],
        crop: (730, 730),
        mirror: 0.5,
        jitter: None,
        normalize: Normalize::Caffe,
    };

    /// Whether the values make sense; [`Error::Config`] where not.
    pub fn validate(&self) -> Result<()> {
        let range = |name: &str, [low, high]: [f64; 2], floor: f64| {
            if low.is_finite() && high.is_finite() && floor <= low && low <= high {
                return Ok(());
            }
            Err(Error::Config(format!("{name} = [{low}, {high}] is not a range [low, high] of allowed values")))
        };
        if self.short_side == Some(0) || self.crop.0 == 0 || self.crop.1 == 0 {
            return Err(Error::Config("short_side and crop must be at least 1 pixel".into()));
        }
        if !(0.0..=1.0).contains(&self.mirror) {
            return Err(Error::Config(format!("mirror = {} is not a probability", self.mirror)));
        }
        range("scale", self.scale, 1e-3)?;
        if let Some(jitter) = &self.jitter {
            range("jitter.log_gamma", jitter.log_gamma, f64::MIN)?;
            range("jitter.contrast", jitter.contrast, 0.0)?;
            range("jitter.brightness", jitter.brightness, 0.0)?;
            range("jitter.gain", jitter.gain, 0.0)?;
        }
        Ok(())
    }

    /// Transforms `example` with the draws of `rng`, into `image` `[crop.1, crop.0, 3]` and `labels` `[crop.1, crop.0]`.
    /// Labels are all 255 where the example has none. Buffers of another length are [`Error::Shape`].
    pub fn apply(&self, example: &Example, rng: &mut Rng, image: &mut [f32], labels: &mut [u8]) -> Result<()> {
        let (width, height) = self.crop;
        if image.len() != width * height * 3 || labels.len() != width * height {
            let message = format!("buffers of {} and {} for a {width} x {height} crop", image.len(), labels.len());
            return Err(Error::shape("TrainTransform::apply", message));
        }
        // Every value is drawn, used or not, and in this order: a switch in the config must not move the others.
        let scale = rng.range(self.scale[0], self.scale[1]);
        let (left, top) = (rng.unit(), rng.unit());
        let mirror = rng.chance(self.mirror);

        let full = scaled_size(&example.image, self.short_side, scale);
        let place = |unit: f64, full: usize, crop: usize| (unit * (full.saturating_sub(crop) + 1) as f64) as usize;
        let window = Window {
            x: place(left, full.0, width),
            y: place(top, full.1, height),
            width: width.min(full.0),
            height: height.min(full.1),
        };
        let pixels = resize::bicubic(&example.image, full, window)?;
        let table = match &self.jitter {
            Some(jitter) => jitter.draw(rng, &pixels, self.normalize),
            None => plain_table(self.normalize),
        };
        let sources = [0, 1, 2].map(|c| self.normalize.source(c));
        let used = window.width;
        for (y, out) in image.chunks_exact_mut(width * 3).enumerate() {
            if y >= window.height {
                out.fill(0.0);
                continue;
            }
            out[used * 3..].fill(0.0);
            write_row(&table, sources, pixels.row(y), &mut out[..used * 3], mirror);
        }

        labels.fill(IGNORE);
        if let Some(map) = &example.labels {
            let map = resize::nearest(map, full, window)?;
            for (y, out) in labels.chunks_exact_mut(width).take(window.height).enumerate() {
                out[..used].copy_from_slice(map.row(y));
                if mirror {
                    out[..used].reverse();
                }
            }
        }
        Ok(())
    }
}

/// The size to which evaluation resizes an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalSize {
    /// The file's own.
    Original,
    /// The shorter side has this length, the other follows (rounded).
    ShortSide(usize),
    /// Exactly this width and height (1460 x 730 for Cityscapes).
    Exact(usize, usize),
}

/// Resize and normalise, for evaluation, prediction and pseudo labels. Labels keep their full resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalTransform {
    /// Size of the network's input.
    pub size: EvalSize,
    /// The network's input convention.
    pub normalize: Normalize,
}

impl EvalTransform {
    /// The network's input for `image`: width, height, and values `[height, width, 3]`.
    pub fn apply(&self, image: &RgbImage) -> Result<(usize, usize, Vec<f32>)> {
        let size = match self.size {
            EvalSize::Original => (image.width(), image.height()),
            EvalSize::ShortSide(side) => scaled_size(image, Some(side), 1.0),
            EvalSize::Exact(width, height) => (width, height),
        };
        let pixels = resize::bicubic(image, size, Window::all(size))?;
        let table = plain_table(self.normalize);
        let sources = [0, 1, 2].map(|c| self.normalize.source(c));
        let mut values = vec![0.0; size.0 * size.1 * 3];
        write_row(&table, sources, pixels.pixels(), &mut values, false);
        Ok((size.0, size.1, values))
    }
}

/// round(side * scale * short_side / shorter side) for both sides, at least 1.
fn scaled_size(image: &RgbImage, short_side: Option<usize>, scale: f64) -> (usize, usize) {
    let shorter = image.width().min(image.height());
    let factor = scale * short_side.map_or(1.0, |side| side as f64 / shorter as f64);
    let side = |length: usize| ((length as f64 * factor).round() as usize).max(1);
    (side(image.width()), side(image.height()))
}

/// Output value by output channel and byte of its source channel: normalisation and jitter are both one look-up.
type Table = [[f32; 256]; 3];

fn plain_table(normalize: Normalize) -> Table {
    std::array::from_fn(|c| std::array::from_fn(|level| normalize.value(c, level as f32)))
}

fn write_row(table: &Table, sources: [usize; 3], pixels: &[u8], out: &mut [f32], mirror: bool) {
    let (pixels, _) = pixels.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    let convert = |pixel: &[u8; 3]| -> [f32; 3] { std::array::from_fn(|c| table[c][usize::from(pixel[sources[c]])]) };
    if mirror {
        out.iter_mut().zip(pixels.iter().rev()).for_each(|(out, pixel)| *out = convert(pixel));
    } else {
        out.iter_mut().zip(pixels).for_each(|(out, pixel)| *out = convert(pixel));
    }
}

impl Jitter {
    fn draw(&self, rng: &mut Rng, crop: &RgbImage, normalize: Normalize) -> Table {
        let mut range = |[low, high]: [f64; 2]| rng.range(low, high);
        let gamma = range(self.log_gamma).exp();
        let contrast = range(self.contrast);
        let brightness = range(self.brightness);
        let gains = [range(self.gain), range(self.gain), range(self.gain)];
        let curve: [f64; 256] = std::array::from_fn(|level| (level as f64 / 255.0).powf(gamma));
        let mean = mean_grey(crop, &curve);
        std::array::from_fn(|c| {
            let factor = brightness * gains[normalize.source(c)];
            std::array::from_fn(|level| {
                let value = ((curve[level] - mean) * contrast + mean) * factor;
                normalize.value(c, (value.clamp(0.0, 1.0) * 255.0) as f32)
            })
        })
    }
}

/// Mean over the crop of the grey level (ITU-R BT.601 luma) after `curve`, from the channels' histograms.
fn mean_grey(crop: &RgbImage, curve: &[f64; 256]) -> f64 {
    let mut counts = [[0_u32; 256]; 3];
    for pixel in crop.pixels().as_chunks::<3>().0 {
        for c in 0..3 {
            counts[c][usize::from(pixel[c])] += 1;
        }
    }
    let mut sum = 0.0;
    for (count, luma) in counts.iter().zip([0.299, 0.587, 0.114]) {
        sum += luma * count.iter().zip(curve).map(|(&n, value)| f64::from(n) * value).sum::<f64>();
    }
    sum / (crop.width() * crop.height()) as f64
}
