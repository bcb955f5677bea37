//! Static pseudo labels with class-balanced thresholds, made before each round. docs/method.md, "Static pseudo labels".
//!
//! Two passes over the target images: the first collects confidences ([`ConfidenceSample`]) and gives the
//! thresholds, the second decides pixel by pixel ([`Selection`]).

use crate::{Error, Result};

/// Every fifth of an image's sorted confidences is kept for the threshold, to save memory.
const KEEP_EVERY: usize = 5;

/// The confidences of pixels by predicted class, over all images so far.
pub struct ConfidenceSample {
    by_class: Vec<Vec<f32>>,
}

impl ConfidenceSample {
    /// None yet.
    pub fn new(classes: usize) -> Self {
        Self { by_class: vec![Vec::new(); classes] }
    }

    /// Adds one image: the predicted class and its probability for each pixel. Gives the image's own value at the top
    /// `proportion`, above which its pixels are kept whatever their class.
    pub fn add_image(&mut self, labels: &[u8], confidence: &[f32], proportion: f64) -> Result<f32> {
        if labels.len() != confidence.len() {
            return Err(Error::shape("pseudo labels", "one confidence a pixel is needed"));
        }
        let mut image = vec![Vec::new(); self.by_class.len()];
        for (&label, &value) in labels.iter().zip(confidence) {
            let class = image.get_mut(usize::from(label));
            class.ok_or_else(|| Error::shape("pseudo labels", format!("class {label} is out of range")))?.push(value);
        }
        for (all, mut own) in self.by_class.iter_mut().zip(image) {
            own.sort_unstable_by(|a, b| b.total_cmp(a));
            all.extend(own.iter().step_by(KEEP_EVERY));
        }
        Ok(value_at_top(&mut confidence.to_vec(), proportion).unwrap_or(1.0))
    }

    /// t(c): the confidence at the top `proportion` of the pixels predicted as c; 1 for a class never predicted and for
    /// the excluded ones.
    pub fn thresholds(mut self, proportion: f64, excluded: &[u8]) -> Vec<f32> {
        let threshold =
            |(class, values): (usize, &mut Vec<f32>)| match excluded.iter().any(|&e| usize::from(e) == class) {
                true => 1.0,
                false => value_at_top(values, proportion).unwrap_or(1.0),
            };
        self.by_class.iter_mut().enumerate().map(threshold).collect()
    }
}

/// The value at position floor(n * proportion) in falling order, the last one at most; `None` of nothing.
fn value_at_top(values: &mut [f32], proportion: f64) -> Option<f32> {
    let last = values.len().checked_sub(1)?;
    let position = ((values.len() as f64 * proportion) as usize).min(last);
    let (_, value, _) = values.select_nth_unstable_by(position, |a, b| b.total_cmp(a));
    Some(*value)
}

/// What decides whether a pixel of one image keeps its label.
pub struct Selection {
    /// The image's own value at the top `cb_prop`.
    pub image_value: f32,
}

impl Selection {
    /// Turns the labels of pixels that are not kept into 255. A pixel is kept where P(p,c) >= t(c) for some c, which
    /// `reaches` says (1 or 0 a pixel), or where its confidence is strictly above the image's own value. Gives the
    /// number of pixels kept.
    pub fn apply(&self, labels: &mut [u8], confidence: &[f32], reaches: &[u8]) -> usize {
        let mut kept = 0;
        for ((label, &value), &reaches) in labels.iter_mut().zip(confidence).zip(reaches) {
            if reaches != 0 || value > self.image_value {
                kept += 1;
            } else {
                *label = 255;
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_take_the_top_share_of_each_class() {
        let mut sample = ConfidenceSample::new(3);
        // Class 0: 100 values 0.00..0.99, of which every fifth in falling order is kept; class 1 never predicted.
        let confidence: Vec<f32> = (0..100).map(|i| i as f32 / 100.0).collect();
        let own = sample.add_image(&[0; 100], &confidence, 0.1).unwrap();
        assert_eq!(own, 0.89, "position 10 of 100 in falling order");
        sample.add_image(&[2; 4], &[0.5, 0.6, 0.7, 0.8], 0.1).unwrap();
        // Kept of class 0: 0.99, 0.94, .. 0.04 (20 values); position 2 is 0.89.
        assert_eq!(sample.thresholds(0.1, &[2]), [0.89, 1.0, 1.0]);
    }

    #[test]
    fn pixels_are_kept_by_class_or_by_image() {
        let selection = Selection { image_value: 0.5 };
        let mut labels = [0, 0, 0];
        assert_eq!(selection.apply(&mut labels, &[0.5, 0.51, 0.2], &[0, 0, 1]), 2);
        assert_eq!(labels, [255, 0, 0], "the image's own value itself is not enough");
    }

    #[test]
    fn classes_out_of_range_are_refused() {
        assert!(ConfidenceSample::new(2).add_image(&[2], &[1.0], 0.1).is_err());
    }
}
