//! Predictions from several looks at an image: at other scales, mirrored, by windows. Their probabilities are averaged at the
//! image's full size.

use rayon::prelude::*;

use crate::{
    Result,
    data::{EvalSize, EvalTransform, LabelMap, RgbImage},
    train::Network,
};

/// The looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Looks {
    /// Factors on the size that evaluation gives the network.
    pub scales: Vec<f64>,
    /// Whether each is taken mirrored too.
    pub flip: bool,
    /// Height and width of windows that overlap by half, in pixels of the network's input.
    pub window: Option<[usize; 2]>,
}

impl Looks {
    /// Whether it is one look at the whole image.
    pub fn is_plain(&self) -> bool {
        self.scales == [1.0] && !self.flip && self.window.is_none()
    }
}

/// A map of numbers by row, column and class.
struct Map {
    height: usize,
    width: usize,
    classes: usize,
    values: Vec<f32>,
}

impl Map {
    fn zeros(height: usize, width: usize, classes: usize) -> Self {
        Self { height, width, classes, values: vec![0.0; height * width * classes] }
    }

    fn at(&self, y: usize, x: usize) -> &[f32] {
        &self.values[(y * self.width + x) * self.classes..][..self.classes]
    }

    /// Adds `other`, upsampled with align_corners into the rectangle from (`top`, `left`) on; as probabilities where `softmax`, and
    /// with left and right exchanged where `mirrored`.
    fn add(
        &mut self,
        other: &Self,
        [top, left]: [usize; 2],
        [height, width]: [usize; 2],
        softmax: bool,
        mirrored: bool,
    ) {
        let (classes, row) = (self.classes, self.width * self.classes);
        let step = |from: usize, to: usize| if to > 1 { (from - 1) as f64 / (to - 1) as f64 } else { 0.0 };
        let (down, across) = (step(other.height, height), step(other.width, width));
        let place = |i: usize, step: f64, end: usize| {
            let at = i as f64 * step;
            let low = (at as usize).min(end - 1);
            (low, (low + 1).min(end - 1), (at - low as f64) as f32)
        };
        let rows = self.values.par_chunks_exact_mut(row).skip(top).take(height).enumerate();
        rows.for_each(|(y, row)| {
            let (y0, y1, fy) = place(y, down, other.height);
            let mut pixel = vec![0.0; classes];
            for x in 0..width {
                let (x0, x1, fx) = place(if mirrored { width - 1 - x } else { x }, across, other.width);
                let corners = [other.at(y0, x0), other.at(y0, x1), other.at(y1, x0), other.at(y1, x1)];
                for (class, value) in pixel.iter_mut().enumerate() {
                    let [a, b, c, d] = corners.map(|corner| corner[class]);
                    let (above, below) = (a + (b - a) * fx, c + (d - c) * fx);
                    *value = above + (below - above) * fy;
                }
                if softmax {
                    let largest = pixel.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    pixel.iter_mut().for_each(|value| *value = (*value - largest).exp());
                    let sum: f32 = pixel.iter().sum();
                    pixel.iter_mut().for_each(|value| *value /= sum);
                }
                let out = &mut row[(left + x) * classes..][..classes];
                out.iter_mut().zip(&pixel).for_each(|(out, value)| *out += value);
            }
        });
    }
}

/// Where windows of `length` begin along `whole`, each half a window on; the last one ends at the end.
fn starts(whole: usize, length: usize) -> Vec<usize> {
    let last = whole.saturating_sub(length);
    let mut starts: Vec<usize> = (0..last).step_by((length / 2).max(1)).collect();
    starts.push(last);
    starts
}

fn logits(network: &Network, values: Vec<f32>, height: usize, width: usize) -> Result<Map> {
    let logits = network.logits(&network.image(values, height, width)?)?;
    let shape = logits.shape().to_vec();
    Ok(Map { height: shape[1], width: shape[2], classes: shape[3], values: logits.to_vec::<f32>()? })
}

/// The label of each pixel by the mean of the looks' probabilities.
pub fn predict_looks(
    network: &Network,
    image: &RgbImage,
    transform: EvalTransform,
    looks: &Looks,
    classes: usize,
) -> Result<LabelMap> {
    let (height, width) = (image.height(), image.width());
    let mut sum = Map::zeros(height, width, classes);
    for scale in &looks.scales {
        let scaled = |side: usize| ((side as f64 * scale).round() as usize).max(1);
        let size = match transform.size {
            size if *scale == 1.0 => size,
            EvalSize::Original => EvalSize::ShortSide(scaled(height.min(width))),
            EvalSize::ShortSide(short) => EvalSize::ShortSide(scaled(short)),
            EvalSize::Exact(a, b) => EvalSize::Exact(scaled(a), scaled(b)),
        };
        let (w, h, values) = EvalTransform { size, ..transform }.apply(image)?;
        for mirrored in [false, true].into_iter().take(1 + usize::from(looks.flip)) {
            let mut values = values.clone();
            if mirrored {
                values.chunks_exact_mut(3 * w).for_each(|row| {
                    let (pixels, _) = row.as_chunks_mut::<3>();
                    pixels.reverse();
                });
            }
            let Some([wh, ww]) = looks.window.map(|[wh, ww]| [wh.min(h), ww.min(w)]) else {
                sum.add(&logits(network, values, h, w)?, [0, 0], [height, width], true, mirrored);
                continue;
            };
            let (mut mean, mut counts) = (Map::zeros(h, w, classes), vec![0_u16; h * w]);
            for top in starts(h, wh) {
                for left in starts(w, ww) {
                    let rows = (top..top + wh).flat_map(|y| values[3 * (y * w + left)..][..3 * ww].iter().copied());
                    mean.add(&logits(network, rows.collect(), wh, ww)?, [top, left], [wh, ww], true, false);
                    for y in top..top + wh {
                        counts[y * w + left..][..ww].iter_mut().for_each(|count| *count += 1);
                    }
                }
            }
            for (values, count) in mean.values.chunks_exact_mut(classes).zip(counts) {
                values.iter_mut().for_each(|value| *value /= f32::from(count));
            }
            sum.add(&mean, [0, 0], [height, width], false, mirrored);
        }
    }
    let best = |values: &[f32]| {
        let largest = values
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (class, &value)| if value > best.1 { (class, value) } else { best });
        largest.0 as u8
    };
    LabelMap::new(width, height, sum.values.chunks_exact(classes).map(best).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_all_and_end_at_the_end() {
        assert_eq!(starts(10, 4), [0, 2, 4, 6]);
        assert_eq!(starts(11, 4), [0, 2, 4, 6, 7]);
        assert_eq!((starts(4, 4), starts(3, 4)), (vec![0], vec![0]));
    }

    #[test]
    fn maps_are_added_upsampled_mirrored_and_as_probabilities() {
        let small = Map { height: 1, width: 2, classes: 2, values: vec![0.0, 2.0, 4.0, 2.0] };
        let mut sum = Map::zeros(2, 4, 2);
        sum.add(&small, [1, 1], [1, 3], false, false);
        assert_eq!(sum.values[..10], [0.0; 10], "outside the rectangle");
        assert_eq!(sum.values[10..], [0.0, 2.0, 2.0, 2.0, 4.0, 2.0]);
        sum.add(&small, [1, 1], [1, 3], false, true);
        assert_eq!(sum.values[10..], [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
        let mut sum = Map::zeros(1, 2, 2);
        sum.add(&small, [0, 0], [1, 2], true, false);
        assert!(sum.values.chunks(2).all(|pixel| (pixel[0] + pixel[1] - 1.0).abs() < 1e-6));
        assert!(sum.values[1] > 0.8 && sum.values[2] > 0.8);
    }
}
