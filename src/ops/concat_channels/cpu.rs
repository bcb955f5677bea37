//! Concatenation on the CPU: copies of whole channel runs.

use rayon::prelude::*;

use crate::{Result, Tensor, tensor::Element};

/// Pixels that one task copies.
const PIXELS: usize = 512;

pub(super) fn forward<T: Element>(parts: &[&Tensor], shape: &[usize; 4]) -> Result<Tensor> {
    let mut y = Tensor::empty(shape, T::DTYPE, parts[0].device())?;
    let total = shape[3];
    let parts: Vec<(usize, &[T])> =
        parts.iter().map(|part| Ok((part.shape()[3], part.as_slice::<T>()?))).collect::<Result<_>>()?;
    if y.is_empty() {
        return Ok(y);
    }
    y.as_mut_slice::<T>()?.par_chunks_mut(PIXELS * total).enumerate().for_each(|(task, y)| {
        for (i, pixel) in y.chunks_exact_mut(total).enumerate() {
            let mut rest = pixel;
            for &(channels, part) in &parts {
                let (run, after) = rest.split_at_mut(channels);
                run.copy_from_slice(&part[(task * PIXELS + i) * channels..][..channels]);
                rest = after;
            }
        }
    });
    Ok(y)
}

pub(super) fn slice<T: Element>(x: &Tensor, from: usize, channels: usize) -> Result<Tensor> {
    let [n, h, w, total] = x.dims(super::OP)?;
    let mut y = Tensor::empty(&[n, h, w, channels], T::DTYPE, x.device())?;
    if y.is_empty() {
        return Ok(y);
    }
    let x = x.as_slice::<T>()?;
    y.as_mut_slice::<T>()?.par_chunks_mut(PIXELS * channels).enumerate().for_each(|(task, y)| {
        for (i, run) in y.chunks_exact_mut(channels).enumerate() {
            run.copy_from_slice(&x[(task * PIXELS + i) * total + from..][..channels]);
        }
    });
    Ok(y)
}
