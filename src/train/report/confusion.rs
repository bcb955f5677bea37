//! One confusion matrix over a whole data set. docs/method.md, "Scores".

use super::metrics::Scores;
use crate::{Error, Result, data::ClassList};

/// Pixel counts by true class (row) and predicted class (column).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
    images: usize,
}

/// `part` of `whole`; none of nothing.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The mean of those that are there; none of none.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values.flatten().fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

impl Confusion {
    /// All zero.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes], images: 0 }
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
        self.images += 1;
        Ok(())
    }

    /// Adds the counts of other images.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.classes != other.classes {
            return Err(Error::shape("confusion", format!("{} and {} classes", self.classes, other.classes)));
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.images += other.images;
        Ok(())
    }

    /// Images counted.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Pixels of class `truth` that were given class `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts.get(truth * self.classes + predicted).copied().unwrap_or(0)
    }

    /// Pixels of a class.
    fn row(&self, class: usize) -> u64 {
        (0..self.classes).map(|predicted| self.count(class, predicted)).sum()
    }

    /// Pixels that were given a class.
    fn column(&self, class: usize) -> u64 {
        (0..self.classes).map(|truth| self.count(truth, class)).sum()
    }

    /// The scores; subsets are those of the class list.
    pub fn scores(&self, classes: &ClassList) -> Scores {
        let all = 0..self.classes;
        let hit = |c: usize| self.count(c, c);
        let iou: Vec<Option<f64>> = all.clone().map(|c| ratio(hit(c), self.row(c) + self.column(c) - hit(c))).collect();
        let recall: Vec<Option<f64>> = all.clone().map(|c| ratio(hit(c), self.row(c))).collect();
        let total: u64 = self.counts.iter().sum();
        let weighted = |c: usize| iou[c].map_or(0.0, |iou| self.row(c) as f64 * iou);
        let subsets = classes.subsets().iter().map(|subset| {
            let scored = subset.classes.iter().map(|&c| iou.get(c).copied().flatten());
            (subset.name.clone(), mean(scored))
        });
        Scores {
            miou: mean(iou.iter().copied()),
            miou_of_labelled: mean(all.clone().map(|c| iou[c].filter(|_| self.row(c) > 0))),
            subsets: subsets.collect(),
            precision: all.clone().map(|c| ratio(hit(c), self.column(c))).collect(),
            pixel_accuracy: ratio(all.clone().map(hit).sum(), total),
            mean_accuracy: mean(recall.iter().copied()),
            frequency_weighted_iou: (total > 0).then(|| all.map(weighted).sum::<f64>() / total as f64),
            iou,
            recall,
            images: self.images,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Class, ClassSubset};

    fn list() -> ClassList {
        let class = |name: &str| Class { name: name.into(), color: [0; 3], label_id: None };
        let subset = ClassSubset { name: "first two".into(), classes: vec![0, 1] };
        ClassList::new(["a", "b", "c", "d"].map(class).into(), vec![subset]).unwrap()
    }

    #[test]
    fn scores_by_hand() {
        let mut confusion = Confusion::new(4);
        // Class 0: 2 hits of 3; class 1: 1 hit of 1, and one pixel of class 0 besides; class 2 absent; class 3 predicted once,
        // never true.
        confusion.add(&[0, 0, 0, 1, 0, 255], &[0, 0, 1, 1, 3, 2]).unwrap();
        let scores = confusion.scores(&list());
        assert_eq!(scores.iou, [Some(0.5), Some(0.5), None, Some(0.0)]);
        assert_eq!(scores.recall, [Some(0.5), Some(1.0), None, None]);
        assert_eq!(scores.precision, [Some(1.0), Some(0.5), None, Some(0.0)]);
        assert_eq!((scores.miou, scores.miou_of_labelled), (Some(1.0 / 3.0), Some(0.5)));
        assert_eq!(scores.subsets, [("first two".to_owned(), Some(0.5))].into());
        assert_eq!((scores.pixel_accuracy, scores.mean_accuracy), (Some(0.6), Some(0.75)));
        // (4 x 0.5 + 1 x 0.5) / 5.
        assert_eq!(scores.frequency_weighted_iou, Some(0.5));
        assert!(confusion.add(&[7], &[0]).is_err() && confusion.add(&[0], &[]).is_err());
    }

    #[test]
    fn of_nothing_there_is_no_score() {
        let scores = Confusion::new(4).scores(&list());
        assert_eq!((scores.miou, scores.pixel_accuracy, scores.frequency_weighted_iou), (None, None, None));
        assert_eq!(scores.subsets["first two"], None);
    }

    #[test]
    fn images_add_up() {
        let (mut both, mut one, mut two) = (Confusion::new(4), Confusion::new(4), Confusion::new(4));
        one.add(&[0, 1], &[0, 0]).unwrap();
        two.add(&[2, 3], &[3, 3]).unwrap();
        both.add(&[0, 1], &[0, 0]).unwrap();
        both.add(&[2, 3], &[3, 3]).unwrap();
        one.merge(&two).unwrap();
        assert_eq!(one, both);
        assert!(one.merge(&Confusion::new(2)).is_err());
    }
}
