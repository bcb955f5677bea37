//! Sums over pixels on the CPU: over fixed chunks of them, then over the chunks in their order, whatever the number of threads.

use rayon::prelude::*;

use crate::tensor::Real;

/// Pixels that a parallel task handles; part of the definition of the summation order.
pub(super) const CELLS: usize = 256;

/// The sum of `partials`, rows of `total.len()`, in their order.
pub(super) fn add_partials<T: Real>(total: &mut [T], partials: &[T]) {
    let length = total.len();
    total.par_chunks_mut(1024).enumerate().for_each(|(chunk, total)| {
        total.fill(T::zero());
        for partial in partials.chunks_exact(length) {
            for (total, &partial) in total.iter_mut().zip(&partial[chunk * 1024..]) {
                *total += partial;
            }
        }
    });
}
