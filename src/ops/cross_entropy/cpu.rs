//! Softmax cross entropy on the CPU, in fixed chunks whose sums are added in order.

use rayon::prelude::*;

use super::IGNORE;
use crate::{Result, Tensor, tensor::Real};

/// Pixels a parallel task handles.
const CHUNK: usize = 1 << 10;

/// max(x) and ln(sum(exp(x - max))).
fn log_sum<T: Real>(x: &[T]) -> (T, T) {
    let max = x.iter().fold(T::neg_infinity(), |max, &x| if x > max { x } else { max });
    (max, x.iter().map(|&x| (x - max).exp()).sum::<T>().ln())
}

/// The mean over `count` labelled pixels.
pub(super) fn forward<T: Real>(logits: &Tensor, labels: &Tensor, classes: usize, count: usize) -> Result<Tensor> {
    let (x, y) = (logits.as_slice::<T>()?, labels.as_slice::<u8>()?);
    let sums: Vec<f64> = x
        .par_chunks(CHUNK * classes)
        .zip(y.par_chunks(CHUNK))
        .map(|(x, y)| {
            let pixels = x.chunks_exact(classes).zip(y).filter(|&(_, &label)| label != IGNORE);
            let term = |(x, &label): (&[T], &u8)| {
                let (max, log) = log_sum(x);
                (log - (x[label as usize] - max)).wide()
            };
            pixels.map(term).sum()
        })
        .collect();
    let mean = if count == 0 { 0.0 } else { sums.iter().sum::<f64>() / count as f64 };
    Tensor::from_vec(vec![T::of(mean)], &[], logits.device())
}

/// (softmax(x) - onehot(label)) * gradient / count at labelled pixels, else 0.
pub(super) fn backward<T: Real>(
    logits: &Tensor,
    labels: &Tensor,
    classes: usize,
    count: usize,
    gradient: &Tensor,
) -> Result<Tensor> {
    let mut dx = logits.empty_like()?;
    let (x, y) = (logits.as_slice::<T>()?, labels.as_slice::<u8>()?);
    let scale = gradient.as_slice::<T>()?[0] / T::of(count.max(1) as f64);
    let chunks = dx.as_mut_slice::<T>()?.par_chunks_mut(CHUNK * classes).zip(x.par_chunks(CHUNK * classes));
    chunks.zip(y.par_chunks(CHUNK)).for_each(|((dx, x), y)| {
        for ((dx, x), &label) in dx.chunks_exact_mut(classes).zip(x.chunks_exact(classes)).zip(y) {
            if label == IGNORE {
                dx.fill(T::zero());
                continue;
            }
            let (max, log) = log_sum(x);
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = (x - max - log).exp() * scale;
            }
            dx[label as usize] -= scale;
        }
    });
    Ok(dx)
}
