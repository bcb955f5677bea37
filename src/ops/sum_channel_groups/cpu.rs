//! Sums of channel groups on the CPU, pixel by pixel.

use rayon::prelude::*;

use super::OP;
use crate::{
    Result, Tensor,
    tensor::{Element, Real},
};

/// Pixels that one task handles.
const PIXELS: usize = 512;

pub(super) fn forward<T: Real>(x: &Tensor, groups: usize) -> Result<Tensor> {
    let [n, h, w, total] = x.dims(OP)?;
    let channels = total / groups;
    let mut y = Tensor::empty(&[n, h, w, channels], T::DTYPE, x.device())?;
    if y.is_empty() {
        return Ok(y);
    }
    let x = x.as_slice::<T>()?.par_chunks(PIXELS * total);
    y.as_mut_slice::<T>()?.par_chunks_mut(PIXELS * channels).zip(x).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(total)) {
            y.copy_from_slice(&x[..channels]);
            for group in x.chunks_exact(channels).skip(1) {
                y.iter_mut().zip(group).for_each(|(y, &x)| *y += x);
            }
        }
    });
    Ok(y)
}

pub(super) fn backward<T: Element>(dy: &Tensor, groups: usize) -> Result<Tensor> {
    let [n, h, w, channels] = dy.dims(OP)?;
    let mut dx = Tensor::empty(&[n, h, w, groups * channels], T::DTYPE, dy.device())?;
    if dx.is_empty() {
        return Ok(dx);
    }
    let dy = dy.as_slice::<T>()?.par_chunks(PIXELS * channels);
    dx.as_mut_slice::<T>()?.par_chunks_mut(PIXELS * groups * channels).zip(dy).for_each(|(dx, dy)| {
        for (dx, dy) in dx.chunks_exact_mut(groups * channels).zip(dy.chunks_exact(channels)) {
            dx.chunks_exact_mut(channels).for_each(|group| group.copy_from_slice(dy));
        }
    });
    Ok(dx)
}
