//! Sum on the CPU.

use rayon::prelude::*;

use crate::{Result, Tensor, tensor::Real};

const CHUNK: usize = 1 << 15;

pub(super) fn forward<T: Real>(a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    let mut y = a.empty_like()?;
    let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
    y.as_mut_slice::<T>()?.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(
        |((y, a), b)| {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                let sum = a + b;
                *y = if relu && sum < T::zero() { T::zero() } else { sum };
            }
        },
    );
    Ok(y)
}
