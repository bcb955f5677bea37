//! Mean intersection over union from one confusion matrix over a whole data set. docs/method.md, "Data".

use serde::{Deserialize, Serialize};

use crate::{Error, Result, data::Subset};

/// Pixel counts by true class (row) and predicted class (column).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// What a confusion matrix says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Intersection over union of each class in 0..1; none where no pixel has or is given the class.
    pub iou: Vec<Option<f64>>,
    /// Share of labelled pixels given their class.
    pub pixel_accuracy: f64,
    /// Mean over the scored classes.
    pub miou: f64,
    /// Mean over the scored ones of SYNTHIA's 16 classes.
    pub miou_16: f64,
    /// Mean over the scored ones of SYNTHIA's 13 classes.
    pub miou_13: f64,
    /// Images seen.
    pub images: usize,
}

impl Confusion {
    /// All zero.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one image; pixels with label 255 are left out.
    pub fn add(&mut self, truth: &[u8], predicted: &[u8]) -> Result<()> {
        if truth.len() != predicted.len() {
            return Err(Error::shape("confusion", "truth and prediction differ in size"));
        }
        for (&truth, &predicted) in truth.iter().zip(predicted) {
            let (truth, predicted) = (usize::from(truth), usize::from(predicted));
            if truth >= self.classes {
                if truth == 255 {
                    continue;
                }
                return Err(Error::shape("confusion", format!("label {truth} of {} classes", self.classes)));
            }
            if predicted >= self.classes {
                return Err(Error::shape("confusion", format!("prediction {predicted} of {} classes", self.classes)));
            }
            self.counts[truth * self.classes + predicted] += 1;
        }
        Ok(())
    }

    /// Scores. A class that occurs in no label is not scored, even where it was predicted: its pixels count as misses
    /// of the classes they belong to.
    pub fn scores(&self, images: usize) -> Scores {
        let row = |c: usize| self.counts[c * self.classes..(c + 1) * self.classes].iter().sum::<u64>();
        let column = |c: usize| self.counts.iter().skip(c).step_by(self.classes).sum::<u64>();
        let hit = |c: usize| self.counts[c * self.classes + c];
        let iou: Vec<Option<f64>> = (0..self.classes)
            .map(|c| (row(c) > 0).then(|| hit(c) as f64 / (row(c) + column(c) - hit(c)) as f64))
            .collect();
        let mean = |keep: &dyn Fn(usize) -> bool| {
            let scored: Vec<f64> =
                iou.iter().enumerate().filter(|(class, _)| keep(*class)).filter_map(|(_, iou)| *iou).collect();
            if scored.is_empty() { 0.0 } else { scored.iter().sum::<f64>() / scored.len() as f64 }
        };
        let total: u64 = self.counts.iter().sum();
        Scores {
            miou: mean(&|_| true),
            miou_16: mean(&|class| Subset::Synthia16.contains(class)),
            miou_13: mean(&|class| Subset::Synthia13.contains(class)),
            pixel_accuracy: if total == 0 {
                0.0
            } else {
                (0..self.classes).map(hit).sum::<u64>() as f64 / total as f64
            },
            iou,
            images,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let mut confusion = Confusion::new(3);
        // Class 0: 2 hits of 3; class 1: 1 hit of 1, and one pixel of class 0 besides; class 2 absent.
        confusion.add(&[0, 0, 0, 1, 255], &[0, 0, 1, 1, 2]).unwrap();
        let scores = confusion.scores(1);
        assert_eq!(scores.iou, [Some(2.0 / 3.0), Some(0.5), None]);
        assert!((scores.miou - (2.0 / 3.0 + 0.5) / 2.0).abs() < 1e-12);
        assert_eq!(scores.pixel_accuracy, 0.75);
        assert!(confusion.add(&[7], &[0]).is_err() && confusion.add(&[0], &[]).is_err());
    }

    #[test]
    fn an_empty_matrix_scores_zero() {
        let scores = Confusion::new(2).scores(0);
        assert_eq!((scores.miou, scores.pixel_accuracy), (0.0, 0.0));
    }
}
