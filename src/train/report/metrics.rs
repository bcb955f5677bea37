//! What a confusion matrix says. docs/method.md, "Scores".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Scores in 0..1 over a whole data set. There is no value where there is nothing to divide by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Intersection over union of each class: hits / (hits + misses + false alarms). None only where no pixel has or is given the
    /// class (cityscapesScripts' rule).
    pub iou: Vec<Option<f64>>,
    /// Share of the pixels given a class that have it.
    #[serde(default)]
    pub precision: Vec<Option<f64>>,
    /// Share of a class's pixels that are given it.
    #[serde(default)]
    pub recall: Vec<Option<f64>>,
    /// Mean of `iou` over the classes that have one.
    pub miou: Option<f64>,
    /// Mean of `iou` over the classes that occur in the labels.
    #[serde(default)]
    pub miou_of_labelled: Option<f64>,
    /// Mean of `iou` over each subset of the class list, by its name.
    #[serde(default)]
    pub subsets: BTreeMap<String, Option<f64>>,
    /// Share of labelled pixels given their class.
    pub pixel_accuracy: Option<f64>,
    /// Mean of `recall` over the classes that occur in the labels.
    #[serde(default)]
    pub mean_accuracy: Option<f64>,
    /// Mean of `iou`, weighted by the classes' pixels.
    #[serde(default)]
    pub frequency_weighted_iou: Option<f64>,
    /// Images seen.
    pub images: usize,
}

/// The gain of `after` over `before` in points of mean IoU.
pub fn gain(before: &Scores, after: &Scores) -> Option<f64> {
    Some(100.0 * (after.miou? - before.miou?))
}

/// In percent with one decimal; `-` where there is none.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{:.1}", 100.0 * value))
}
