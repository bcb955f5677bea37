//! Two families of weights: each has a layout of strides and an input that belong together.

use std::{fmt, str::FromStr};

use super::file::WeightsFile;
use crate::{Error, Result, data::Normalize, models::Layout};

/// Whose weights: `--weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Caffe's layout; channels blue, green, red on 0..255 minus their means.
    Caffe,
    /// torchvision's layout; channels red, green, blue of variance 1.
    Torchvision,
}

impl Convention {
    /// Where strides and dilations stand.
    pub fn layout(self) -> Layout {
        match self {
            Self::Caffe => Layout::Caffe,
            Self::Torchvision => Layout::Torchvision,
        }
    }

    /// The network's input.
    pub fn normalize(self) -> Normalize {
        match self {
            Self::Caffe => Normalize::Caffe,
            Self::Torchvision => Normalize::Imagenet,
        }
    }

    /// As assignments of a configuration.
    pub fn assignments(self) -> [String; 2] {
        [format!("model.layout={}", self.layout()), format!("data.normalize={}", self.normalize())]
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layout().fmt(f)
    }
}

impl FromStr for Convention {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "caffe" => Ok(Self::Caffe),
            "torchvision" => Ok(Self::Torchvision),
            _ => Err(Error::Config(format!("unknown weights {text:?}; use caffe or torchvision"))),
        }
    }
}

/// The deviation of a network's input, from its first filter and what batch norm measured behind it: the median over
/// channels of sqrt(running variance) / |filter|. It is near 1 for inputs of variance 1 and some 60 for 0..255 (64.7 of
/// a ResNet-50 of Caffe's). `None` where nothing was measured.
pub(super) fn input_scale(file: &mut WeightsFile, filter: &str, mean: &str, variance: &str) -> Result<Option<f32>> {
    let channels = file.shape(filter).and_then(|shape| shape.first()).copied().unwrap_or(0);
    if channels == 0 || [mean, variance].iter().any(|name| file.shape(name) != Some(&[channels])) {
        return Ok(None);
    }
    let (filters, means, variances) = (file.values(filter)?, file.values(mean)?, file.values(variance)?);
    let initial = means.iter().all(|mean| *mean == 0.0) && variances.iter().all(|v| (v - 1.0).abs() < 1e-3);
    let norm = |filter: &[f32]| filter.iter().map(|x| x * x).sum::<f32>().sqrt();
    let norms: Vec<f32> = filters.chunks_exact((filters.len() / channels).max(1)).map(norm).collect();
    let largest = norms.iter().copied().fold(0.0, f32::max);
    // Filters that training left at 0 tell nothing.
    let used = norms.iter().zip(&variances).filter(|(norm, _)| **norm > 1e-3 * largest);
    let mut scales: Vec<f32> = used.map(|(norm, variance)| variance.max(0.0).sqrt() / norm).collect();
    scales.sort_by(f32::total_cmp);
    Ok(scales.get(scales.len() / 2).copied().filter(|_| !initial))
}

/// The line about an input scale that does not fit the network's input.
pub(super) fn misfit(scale: f32, normalize: Normalize) -> Option<String> {
    let (other, seen) = match normalize {
        Normalize::Caffe if scale < 4.0 => (Convention::Torchvision, "of variance 1"),
        Normalize::Imagenet if scale > 16.0 => (Convention::Caffe, "on 0..255"),
        _ => return None,
    };
    Some(format!(
        "the first filter has the scale of inputs {seen} (deviation {scale:.1}), the network's input is \
         data.normalize={normalize}; if these are {other} weights, use --weights {other}"
    ))
}
