//! The step on the CPU.

use half::bf16;
use rayon::prelude::*;

use super::SgdItem;
use crate::{DType, Result, tensor::Real};

const CHUNK: usize = 1 << 14;

pub(super) fn step<T: Real>(item: &mut SgdItem<'_>, momentum: f64, rate: f64) -> Result<()> {
    let (momentum, rate, decay) = (T::of(momentum), T::of(rate * item.multiplier), T::of(item.weight_decay));
    let (values, buffers) = (item.value.as_mut_slice::<T>()?, item.momentum.as_mut_slice::<T>()?);
    let gradient = item.gradient.to_dtype(T::DTYPE)?;
    let gradients = gradient.as_slice::<T>()?;
    values.par_chunks_mut(CHUNK).zip(buffers.par_chunks_mut(CHUNK)).zip(gradients.par_chunks(CHUNK)).for_each(
        |((values, buffers), gradients)| {
            for ((p, m), &g) in values.iter_mut().zip(buffers).zip(gradients) {
                *m = momentum * *m + (g + decay * *p);
                *p -= rate * *m;
            }
        },
    );
    if let Some(copy) = &mut item.copy {
        let narrow = item.value.to_dtype(DType::Bf16)?;
        copy.as_mut_slice::<bf16>()?.copy_from_slice(narrow.as_slice()?);
    }
    Ok(())
}
