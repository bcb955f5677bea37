//! Argmax on the CPU.

use rayon::prelude::*;

use crate::{DType, Result, Tensor, tensor::Real};

/// Pixels a parallel task handles.
const CHUNK: usize = 1 << 12;

pub(super) fn argmax<T: Real>(logits: &Tensor, classes: usize) -> Result<Tensor> {
    let mut labels = Tensor::empty(&logits.shape()[..3], DType::U8, logits.device())?;
    let x = logits.as_slice::<T>()?;
    labels.as_mut_slice::<u8>()?.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK * classes)).for_each(|(labels, x)| {
        for (label, x) in labels.iter_mut().zip(x.chunks_exact(classes)) {
            let mut best = 0;
            for (class, &value) in x.iter().enumerate() {
                if value > x[best] || (value.is_nan() && !x[best].is_nan()) {
                    best = class;
                }
            }
            *label = best as u8;
        }
    });
    Ok(labels)
}
