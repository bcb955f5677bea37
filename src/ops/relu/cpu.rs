//! ReLU on the CPU.

use rayon::prelude::*;

use crate::{Result, Tensor, tensor::Real};

const CHUNK: usize = 1 << 15;

pub(super) fn forward<T: Real>(x: &Tensor) -> Result<Tensor> {
    let mut y = x.empty_like()?;
    y.as_mut_slice::<T>()?.par_chunks_mut(CHUNK).zip(x.as_slice::<T>()?.par_chunks(CHUNK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            // Not `x.max(0)`, which would turn NaN into 0.
            *y = if x < T::zero() { T::zero() } else { x };
        }
    });
    Ok(y)
}

pub(super) fn backward<T: Real>(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dx = y.empty_like()?;
    let (y, dy) = (y.as_slice::<T>()?, dy.as_slice::<T>()?);
    dx.as_mut_slice::<T>()?.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(
        |((dx, y), dy)| {
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = if y > T::zero() { dy } else { T::zero() };
            }
        },
    );
    Ok(dx)
}
