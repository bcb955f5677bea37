//! Softmax entropy on the CPU, in fixed chunks whose sums are added in order.

use rayon::prelude::*;

use crate::{Result, Tensor, tensor::Real};

/// Pixels a parallel task handles.
const CHUNK: usize = 1 << 10;

/// max(x), s = sum(exp(x - max)) and the mean of x - max under the softmax.
fn moments<T: Real>(x: &[T]) -> (T, T, T) {
    let max = x.iter().fold(T::neg_infinity(), |max, &x| if x > max { x } else { max });
    let (sum, first) = x.iter().fold((T::zero(), T::zero()), |(sum, first), &x| {
        let e = (x - max).exp();
        (sum + e, first + e * (x - max))
    });
    (max, sum, first / sum)
}

pub(super) fn forward<T: Real>(logits: &Tensor, classes: usize) -> Result<Tensor> {
    let x = logits.as_slice::<T>()?;
    let of_chunk = |x: &[T]| -> f64 {
        let entropy = |x| {
            let (_, sum, mean) = moments::<T>(x);
            (sum.ln() - mean).wide()
        };
        x.chunks_exact(classes).map(entropy).sum()
    };
    let sums: Vec<f64> = x.par_chunks(CHUNK * classes).map(of_chunk).collect();
    let pixels = (x.len() / classes).max(1);
    Tensor::from_vec(vec![T::of(sums.iter().sum::<f64>() / pixels as f64)], &[], logits.device())
}

/// -p_c (x_c - max - mean) * gradient / pixels.
pub(super) fn backward<T: Real>(logits: &Tensor, classes: usize, gradient: &Tensor) -> Result<Tensor> {
    let mut dx = logits.empty_like()?;
    let x = logits.as_slice::<T>()?;
    let scale = gradient.as_slice::<T>()?[0] / T::of((x.len() / classes).max(1) as f64);
    let chunks = dx.as_mut_slice::<T>()?.par_chunks_mut(CHUNK * classes).zip(x.par_chunks(CHUNK * classes));
    chunks.for_each(|(dx, x)| {
        for (dx, x) in dx.chunks_exact_mut(classes).zip(x.chunks_exact(classes)) {
            let (max, sum, mean) = moments(x);
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = -(x - max).exp() / sum * (x - max - mean) * scale;
            }
        }
    });
    Ok(dx)
}
