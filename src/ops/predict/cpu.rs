//! Prediction on the CPU: a parallel task owns the rows between two rows of logits.

use rayon::prelude::*;

use super::Rows;
use crate::{
    Result, Tensor,
    ops::{
        segmentation_loss::math::{Elementary, LANES, Vectorized, vectorized},
        upsample_bilinear::{Resize, lerp},
    },
};

/// The bands' rows, in order: together the whole prediction.
pub(super) fn predict<T: Elementary>(
    logits: &Tensor,
    resize: &Resize,
    confidence: bool,
    thresholds: Option<&[f32]>,
) -> Result<Vec<Rows>> {
    let x = logits.as_slice::<T>()?;
    let columns = resize.columns.positions::<T>();
    let of_band = |index| vectorized(BandWork { x, resize, columns: &columns, confidence, thresholds, index });
    Ok((0..resize.images * resize.rows.input).into_par_iter().map(of_band).collect())
}

struct BandWork<'a, T> {
    x: &'a [T],
    resize: &'a Resize,
    columns: &'a [(usize, usize, T)],
    confidence: bool,
    thresholds: Option<&'a [f32]>,
    index: usize,
}

impl<T: Elementary> Vectorized for BandWork<'_, T> {
    type Output = Rows;

    #[inline(always)]
    fn run(self) -> Rows {
        let Self { x, resize, columns, confidence, thresholds, index } = self;
        let band = resize.band(index);
        let (classes, width) = (resize.channels, columns.len());
        let pixels = band.rows.len() * width;
        let mut rows = Rows {
            labels: vec![0; pixels],
            confidence: if confidence { vec![0.0; pixels] } else { Vec::new() },
            reaches: if thresholds.is_some() { vec![0; pixels] } else { Vec::new() },
        };
        if pixels == 0 {
            return rows;
        }
        let (mut low, mut high) = (Vec::<[T; LANES]>::new(), Vec::<[T; LANES]>::new());
        resize.widen(x, band.image, band.below, columns, &mut low);
        resize.widen(x, band.image, band.above, columns, &mut high);
        let mut values = vec![[T::zero(); LANES]; classes];
        let tiles = low.chunks_exact(classes).zip(high.chunks_exact(classes));
        for (start, (low, high)) in (0..width).step_by(LANES).zip(tiles) {
            let valid = LANES.min(width - start);
            for (row, i) in band.rows.clone().enumerate() {
                let at = row * width + start;
                let s = resize.rows.position::<T>(i).2;
                let mut max = [T::neg_infinity(); LANES];
                let mut best = [0u32; LANES];
                for (class, ((x, low), high)) in values.iter_mut().zip(low).zip(high).enumerate() {
                    for l in 0..LANES {
                        x[l] = lerp(low[l], high[l], s);
                        let wins = x[l] > max[l] || (x[l].is_nan() && !max[l].is_nan());
                        max[l] = if wins { x[l] } else { max[l] };
                        best[l] = if wins { class as u32 } else { best[l] };
                    }
                }
                for (label, &best) in rows.labels[at..at + valid].iter_mut().zip(&best) {
                    *label = best as u8;
                }
                if !confidence && thresholds.is_none() {
                    continue;
                }
                let mut sum = [T::zero(); LANES];
                for x in &mut values {
                    for l in 0..LANES {
                        x[l] = (x[l] - max[l]).exp_negative();
                        sum[l] += x[l];
                    }
                }
                let inverse = sum.map(|sum| T::one() / sum);
                if confidence {
                    for (out, &inverse) in rows.confidence[at..at + valid].iter_mut().zip(&inverse) {
                        *out = inverse.wide() as f32;
                    }
                }
                if let Some(thresholds) = thresholds {
                    let mut reached = [0u8; LANES];
                    for (x, &threshold) in values.iter().zip(thresholds) {
                        let threshold = T::of(f64::from(threshold));
                        for l in 0..LANES {
                            reached[l] |= u8::from(x[l] * inverse[l] >= threshold);
                        }
                    }
                    rows.reaches[at..at + valid].copy_from_slice(&reached[..valid]);
                }
            }
        }
        rows
    }
}
