//! The fused loss on the CPU. A parallel task owns a band, the label rows between two rows of logits, and yields its
//! part of the sums and of the gradients of those two rows; the parts are added in the bands' order.

use rayon::prelude::*;

use super::{
    Scales,
    math::{Elementary, LANES, Vectorized, vectorized},
};
use crate::{
    Result, Tensor,
    ops::{
        cross_entropy::IGNORE,
        upsample_bilinear::{Resize, lerp},
    },
};

type Lanes<T> = [T; LANES];

/// Rows whose sums are kept in the float type before they go to f64.
const ROWS_A_SUM: usize = 16;

/// Sums over all pixels of cross entropy and entropy, and the gradient of the logits where it is wanted.
pub(super) struct Sums {
    pub cross_entropy: f64,
    pub entropy: f64,
    pub gradient: Option<Tensor>,
}

/// What a band contributes; `gradient` holds [2][w,C]: its two rows of logits.
struct Part<T> {
    cross_entropy: f64,
    entropy: f64,
    gradient: Vec<T>,
}

pub(super) fn loss<T: Elementary>(
    logits: &Tensor,
    labels: &Tensor,
    resize: &Resize,
    scales: Scales,
    tracked: bool,
) -> Result<Sums> {
    let (x, y) = (logits.as_slice::<T>()?, labels.as_slice::<u8>()?);
    let columns = resize.columns.positions::<T>();
    let bands = resize.images * resize.rows.input;
    let of_band = |scratch: &mut Scratch<T>, index| {
        let work = BandWork { x, labels: y, resize, columns: &columns, scales, tracked, scratch, index };
        vectorized(work)
    };
    let parts: Vec<Part<T>> = (0..bands).into_par_iter().map_init(Scratch::default, of_band).collect();
    let cross_entropy = parts.iter().map(|part| part.cross_entropy).sum();
    let entropy = parts.iter().map(|part| part.entropy).sum();
    let gradient = if tracked { Some(add_parts(logits, &parts, resize)?) } else { None };
    Ok(Sums { cross_entropy, entropy, gradient })
}

/// Row y of an image's gradient: the lower row of band y plus the upper row of band y - 1.
fn add_parts<T: Elementary>(logits: &Tensor, parts: &[Part<T>], resize: &Resize) -> Result<Tensor> {
    let mut gradient = logits.empty_like()?;
    let pitch = resize.columns.input * resize.channels;
    let rows = gradient.as_mut_slice::<T>()?.par_chunks_mut(pitch);
    rows.enumerate().for_each(|(row, gradient)| {
        gradient.copy_from_slice(&parts[row].gradient[..pitch]);
        if row % resize.rows.input > 0 {
            for (g, &upper) in gradient.iter_mut().zip(&parts[row - 1].gradient[pitch..]) {
                *g += upper;
            }
        }
    });
    Ok(gradient)
}

/// Buffers that a thread uses again for each band.
struct Scratch<T> {
    low: Vec<Lanes<T>>,
    high: Vec<Lanes<T>>,
    tile: Tile<T>,
}

/// One tile of `LANES` pixels, class by class.
struct Tile<T> {
    /// x - max, and its exponential.
    shifted: Vec<Lanes<T>>,
    exponential: Vec<Lanes<T>>,
    /// Gradients of the two rows of logits at full width.
    low: Vec<Lanes<T>>,
    high: Vec<Lanes<T>>,
    cross_entropy: Lanes<T>,
    entropy: Lanes<T>,
}

impl<T: Elementary> Default for Scratch<T> {
    fn default() -> Self {
        let zero = [T::zero(); LANES];
        let tile = Tile {
            shifted: Vec::new(),
            exponential: Vec::new(),
            low: Vec::new(),
            high: Vec::new(),
            cross_entropy: zero,
            entropy: zero,
        };
        Self { low: Vec::new(), high: Vec::new(), tile }
    }
}

struct BandWork<'a, T> {
    x: &'a [T],
    labels: &'a [u8],
    resize: &'a Resize,
    columns: &'a [(usize, usize, T)],
    scales: Scales,
    tracked: bool,
    scratch: &'a mut Scratch<T>,
    index: usize,
}

impl<T: Elementary> Vectorized for BandWork<'_, T> {
    type Output = Part<T>;

    #[inline(always)]
    fn run(self) -> Part<T> {
        let Self { x, labels, resize, columns, scales, tracked, scratch, index } = self;
        let (classes, width) = (resize.channels, columns.len());
        let pitch = if tracked { resize.columns.input * classes } else { 0 };
        let mut part = Part { cross_entropy: 0.0, entropy: 0.0, gradient: vec![T::zero(); 2 * pitch] };
        let band = resize.band(index);
        if band.rows.is_empty() {
            return part;
        }
        resize.widen(x, band.image, band.below, columns, &mut scratch.low);
        resize.widen(x, band.image, band.above, columns, &mut scratch.high);
        let tile = &mut scratch.tile;
        let zero = [T::zero(); LANES];
        tile.shifted.resize(classes, zero);
        tile.exponential.resize(classes, zero);
        let tiles = scratch.low.chunks_exact(classes).zip(scratch.high.chunks_exact(classes));
        for ((at, (low, high)), columns) in (0..width).step_by(LANES).zip(tiles).zip(columns.chunks(LANES)) {
            tile.low.clear();
            tile.low.resize(classes, zero);
            tile.high.clear();
            tile.high.resize(classes, zero);
            let valid = columns.len();
            for i in band.rows.clone() {
                let s = resize.rows.position::<T>(i).2;
                let mut row = [u32::from(IGNORE); LANES];
                let source = &labels[(band.image * resize.rows.output + i) * width + at..][..valid];
                for (label, &source) in row.iter_mut().zip(source) {
                    *label = u32::from(source);
                }
                tile.pixels(low, high, s, &row, valid, &scales, tracked);
                if (i + 1 - band.rows.start).is_multiple_of(ROWS_A_SUM) || i + 1 == band.rows.end {
                    part.cross_entropy += tile.cross_entropy.iter().map(|x| x.wide()).sum::<f64>();
                    part.entropy += tile.entropy.iter().map(|x| x.wide()).sum::<f64>();
                    (tile.cross_entropy, tile.entropy) = (zero, zero);
                }
            }
            if tracked {
                let (low, high) = part.gradient.split_at_mut(pitch);
                narrow(&tile.low, columns, low);
                narrow(&tile.high, columns, high);
            }
        }
        part
    }
}

impl<T: Elementary> Tile<T> {
    /// One row of the tile: the logits between `low` and `high` at fraction `s`, their losses, their gradients.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn pixels(
        &mut self,
        low: &[Lanes<T>],
        high: &[Lanes<T>],
        s: T,
        labels: &[u32; LANES],
        valid: usize,
        scales: &Scales,
        tracked: bool,
    ) {
        let zero = [T::zero(); LANES];
        let mut max = [T::neg_infinity(); LANES];
        for ((x, low), high) in self.shifted.iter_mut().zip(low).zip(high) {
            for l in 0..LANES {
                x[l] = lerp(low[l], high[l], s);
                max[l] = if x[l] > max[l] { x[l] } else { max[l] };
            }
        }
        let (mut sum, mut first, mut chosen) = (zero, zero, zero);
        for (class, (x, e)) in self.shifted.iter_mut().zip(&mut self.exponential).enumerate() {
            for l in 0..LANES {
                x[l] -= max[l];
                e[l] = x[l].exp_negative();
                sum[l] += e[l];
                first[l] += e[l] * x[l];
                chosen[l] = if labels[l] == class as u32 { x[l] } else { chosen[l] };
            }
        }
        let (on_label, on_entropy) = (T::of(scales.cross_entropy), T::of(scales.entropy));
        let (mut inverse, mut mean, mut a, mut b) = (zero, zero, zero, zero);
        for l in 0..LANES {
            inverse[l] = T::one() / sum[l];
            mean[l] = first[l] * inverse[l];
            let log = sum[l].ln_above_one();
            let labelled = labels[l] != u32::from(IGNORE);
            self.cross_entropy[l] += if labelled { log - chosen[l] } else { T::zero() };
            self.entropy[l] += if l < valid { log - mean[l] } else { T::zero() };
            a[l] = if labelled { on_label } else { T::zero() };
            b[l] = if l < valid { on_entropy } else { T::zero() };
        }
        if !tracked {
            return;
        }
        let gradients = self.low.iter_mut().zip(&mut self.high);
        for (class, ((low, high), (x, e))) in gradients.zip(self.shifted.iter().zip(&self.exponential)).enumerate() {
            for l in 0..LANES {
                let own = if labels[l] == class as u32 { a[l] } else { T::zero() };
                let g = e[l] * inverse[l] * (a[l] - b[l] * (x[l] - mean[l])) - own;
                low[l] += (T::one() - s) * g;
                high[l] += s * g;
            }
        }
    }
}

/// Adds a tile's gradients at full width to the pixels that they were interpolated from.
#[inline(always)]
fn narrow<T: Elementary>(tile: &[Lanes<T>], columns: &[(usize, usize, T)], row: &mut [T]) {
    let classes = tile.len();
    for (lane, &(left, right, t)) in columns.iter().enumerate() {
        for (class, tile) in tile.iter().enumerate() {
            row[left * classes + class] += (T::one() - t) * tile[lane];
            row[right * classes + class] += t * tile[lane];
        }
    }
}
