//! Scaling on the CPU.

use rayon::prelude::*;

use crate::{Result, Tensor, tensor::Real};

const CHUNK: usize = 1 << 15;

pub(super) fn scaled<T: Real>(x: &Tensor, factor: f64) -> Result<Tensor> {
    let factor = T::of(factor);
    let mut y = x.empty_like()?;
    y.as_mut_slice::<T>()?.par_chunks_mut(CHUNK).zip(x.as_slice::<T>()?.par_chunks(CHUNK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = factor * x;
        }
    });
    Ok(y)
}
