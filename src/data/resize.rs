//! Resizing as Pillow does it, to the bit: bicubic (a = -0.5) with antialiasing for images, nearest for labels.
//!
//! Bicubic: output pixel i of n has its centre at (i + 1/2) s in the input, s = in / n. The kernel is stretched by
//! max(s, 1); its weights over the input pixels are normalised, rounded to 22-bit fixed point, and applied first along the
//! rows, then along the columns, each pass rounding to 8 bits. The rules are those of Pillow's `Resample.c`
//! (tests/it/data_resize.rs holds images made by Pillow against this).
//!
//! A weight depends on the output pixel's place in the *whole* resized image. Hence a window of it is computed by itself,
//! from the input pixels below it, and equals resize-then-crop exactly.

use super::pixels::{LabelMap, RgbImage};
use crate::{Error, Result};

/// Fraction bits of a weight: 32 - 8 bits of a pixel - 2 bits of overshoot.
const PRECISION: u32 = 22;

/// A rectangle of the resized image, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Window {
    /// The whole of an image of `size` (width, height).
    pub fn all(size: (usize, usize)) -> Self {
        Self { x: 0, y: 0, width: size.0, height: size.1 }
    }

    fn check(&self, op: &'static str, full: (usize, usize)) -> Result<()> {
        let fits = |start: usize, len: usize, end: usize| len > 0 && start.checked_add(len).is_some_and(|e| e <= end);
        if fits(self.x, self.width, full.0) && fits(self.y, self.height, full.1) {
            return Ok(());
        }
        let Self { x, y, width, height } = self;
        Err(Error::shape(op, format!("window {width} x {height} at ({x}, {y}) is not inside {} x {}", full.0, full.1)))
    }
}

/// The part `window` of `image` resized to `full` (width, height), bicubic with antialiasing.
///
/// A window that does not lie inside `full` is [`Error::Shape`].
pub fn bicubic(image: &RgbImage, full: (usize, usize), window: Window) -> Result<RgbImage> {
    window.check("resize::bicubic", full)?;
    let columns = Taps::new(image.width(), full.0, window.x, window.width);
    let rows = Taps::new(image.height(), full.1, window.y, window.height);
    // Only the input rows that the second pass reads go through the first.
    let (first, last) = rows.extent();
    let narrow = horizontal(image, first, last, &columns);
    RgbImage::new(window.width, window.height, vertical(&narrow, first, window.width * 3, &rows))
}

/// The part `window` of `labels` resized to `full` (width, height), nearest neighbour.
///
/// A window that does not lie inside `full` is [`Error::Shape`].
pub fn nearest(labels: &LabelMap, full: (usize, usize), window: Window) -> Result<LabelMap> {
    window.check("resize::nearest", full)?;
    let columns = nearest_indices(labels.width(), full.0, window.x, window.width);
    let rows = nearest_indices(labels.height(), full.1, window.y, window.height);
    let mut ids = Vec::with_capacity(window.width * window.height);
    for &y in &rows {
        let row = labels.row(y);
        ids.extend(columns.iter().map(|&x| row[x]));
    }
    LabelMap::new(window.width, window.height, ids)
}

/// Pillow's index rule: floor((i + 1/2) in / out), where the positions are summed up step by step (which rounds
/// differently from the product).
fn nearest_indices(input: usize, output: usize, start: usize, len: usize) -> Vec<usize> {
    let step = input as f64 / output as f64;
    let mut position = step * 0.5;
    let mut indices = Vec::with_capacity(len);
    for i in 0..start + len {
        if i >= start {
            indices.push((position as usize).min(input - 1));
        }
        position += step;
    }
    indices
}

/// The weights of a range of output pixels along one axis. Every pixel has the same number of taps (zeros fill up).
struct Taps {
    count: usize,
    starts: Vec<usize>,
    /// `[outputs, count]`.
    weights: Vec<i32>,
}

impl Taps {
    fn new(input: usize, output: usize, start: usize, len: usize) -> Self {
        if input == output {
            return Self { count: 1, starts: (start..start + len).collect(), weights: vec![1 << PRECISION; len] };
        }
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let inverse = 1.0 / stretch;
        let count = (support.ceil() as usize * 2 + 1).min(input);
        let mut starts = Vec::with_capacity(len);
        let mut weights = vec![0; len * count];
        let mut exact = vec![0.0; count];
        for (i, weights) in weights.chunks_exact_mut(count).enumerate() {
            let center = ((start + i) as f64 + 0.5) * scale;
            // `as` truncates towards zero and clamps below, as the C casts and tests do.
            let first = (center - support + 0.5) as usize;
            let last = ((center + support + 0.5) as usize).min(input);
            let exact = &mut exact[..last - first];
            let mut sum = 0.0;
            for (tap, weight) in exact.iter_mut().enumerate() {
                *weight = cubic(((tap + first) as f64 - center + 0.5) * inverse);
                sum += *weight;
            }
            // Shifted to the left at the right border, so that `count` taps stay inside.
            let shifted = first.min(input - count);
            for (tap, weight) in exact.iter().enumerate() {
                let weight = weight / sum * f64::from(1 << PRECISION);
                weights[first - shifted + tap] = (weight + if weight < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            starts.push(shifted);
        }
        Self { count, starts, weights }
    }

    /// First input position, and one past the last.
    fn extent(&self) -> (usize, usize) {
        let first = self.starts.iter().copied().min().unwrap_or(0);
        let last = self.starts.iter().copied().max().unwrap_or(0);
        (first, last + self.count)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts.iter().copied().zip(self.weights.chunks_exact(self.count))
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn round(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

/// First pass over the input rows `first..last`: `[last - first, outputs, 3]`.
fn horizontal(image: &RgbImage, first: usize, last: usize, taps: &Taps) -> Vec<u8> {
    let width = taps.starts.len() * 3;
    let mut out = vec![0; (last - first) * width];
    for (y, out) in (first..last).zip(out.chunks_exact_mut(width)) {
        let (row, _) = image.row(y).as_chunks::<3>();
        for ((start, weights), out) in taps.iter().zip(out.as_chunks_mut::<3>().0) {
            let mut sum = [HALF; 3];
            for (pixel, &weight) in row[start..start + weights.len()].iter().zip(weights) {
                for c in 0..3 {
                    sum[c] += i32::from(pixel[c]) * weight;
                }
            }
            *out = sum.map(round);
        }
    }
    out
}

/// Second pass: `rows` holds the first pass's rows from input row `first` on, each `width` bytes.
fn vertical(rows: &[u8], first: usize, width: usize, taps: &Taps) -> Vec<u8> {
    let mut out = vec![0; taps.starts.len() * width];
    let mut sums = vec![0_i32; width];
    for ((start, weights), out) in taps.iter().zip(out.chunks_exact_mut(width)) {
        sums.fill(HALF);
        let rows = &rows[(start - first) * width..];
        for (row, &weight) in rows.chunks_exact(width).zip(weights) {
            for (sum, &pixel) in sums.iter_mut().zip(row) {
                *sum += i32::from(pixel) * weight;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = round(sum);
        }
    }
    out
}
