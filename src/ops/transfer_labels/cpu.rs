//! Label transfer on the CPU.

use rayon::prelude::*;

use crate::{
    DType, Result, Tensor,
    ops::{
        cosine::{Extents, similarities, unit_rows},
        partial_sums::CELLS,
    },
    tensor::Real,
};

const IGNORE: u8 = 255;

pub(super) fn transfer<T: Real>(
    features: &Tensor,
    prototypes: &Tensor,
    present: &Tensor,
    e: Extents,
    [temperature, threshold]: [f64; 2],
) -> Result<Tensor> {
    let mut labels = Tensor::empty(&[e.pairs, e.height, e.width], DType::U8, features.device())?;
    if labels.is_empty() {
        return Ok(labels);
    }
    let (features, present) = (features.as_slice::<T>()?, present.as_slice::<u8>()?);
    let mut unit = vec![T::zero(); prototypes.len()];
    unit_rows(prototypes.as_slice::<T>()?, e.depth, &mut unit);
    let (over_tau, threshold) = (T::of(1.0 / temperature), T::of(threshold));
    for (pair, labels) in labels.as_mut_slice::<u8>()?.chunks_exact_mut(e.cells()).enumerate() {
        let present: Vec<bool> = present[pair * e.classes..][..e.classes].iter().map(|&is| is > 0).collect();
        let unit = &unit[pair * e.classes * e.depth..][..e.classes * e.depth];
        labels.par_chunks_mut(CELLS).enumerate().for_each_init(Vec::new, |scratch, (chunk, labels)| {
            let m = labels.len();
            let features = &features[(pair * e.cells() + chunk * CELLS) * e.depth..][..m * e.depth];
            let mut s = vec![T::zero(); m * e.classes];
            similarities(features, unit, &present, &mut vec![T::zero(); m], scratch, &mut s);
            for (label, s) in labels.iter_mut().zip(s.chunks_exact(e.classes)) {
                *label = assign(s, &present, over_tau, threshold);
            }
        });
    }
    Ok(labels)
}

/// The class of one pixel from its similarities.
fn assign<T: Real>(s: &[T], present: &[bool], over_tau: T, threshold: T) -> u8 {
    let mut best: Option<usize> = None;
    for (class, &value) in s.iter().enumerate().filter(|&(class, _)| present[class]) {
        if best.is_none_or(|best| value > s[best]) {
            best = Some(class);
        }
    }
    let Some(best) = best else { return IGNORE };
    let sum: T = s.iter().map(|&other| ((other - s[best]) * over_tau).exp()).sum();
    // The best term is exp(0) = 1; NaN compares as false.
    if sum.recip() > threshold { best as u8 } else { IGNORE }
}

pub(super) fn hybrid(
    fixed: &Tensor,
    dynamic: &Tensor,
    [rows, columns, height, width]: [usize; 4],
    hybrid: &mut Tensor,
) -> Result<()> {
    let (fixed, dynamic) = (fixed.as_slice::<u8>()?, dynamic.as_slice::<u8>()?);
    let cell_of_x: Vec<usize> = (0..columns).map(|x| x * width / columns).collect();
    let pitch = columns.max(1);
    hybrid.as_mut_slice::<u8>()?.par_chunks_mut(pitch).zip(fixed.par_chunks(pitch)).enumerate().for_each(
        |(line, (hybrid, fixed))| {
            let (pair, y) = (line / rows, line % rows);
            let dynamic = &dynamic[(pair * height + y * height / rows) * width..][..width];
            for ((hybrid, &fixed), &cell) in hybrid.iter_mut().zip(fixed).zip(&cell_of_x) {
                *hybrid = if fixed == IGNORE { dynamic[cell] } else { fixed };
            }
        },
    );
    Ok(())
}
