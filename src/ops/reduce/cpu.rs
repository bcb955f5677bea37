//! Sum on the CPU: pieces in f32 lanes, their sums in f64.

use rayon::prelude::*;

use crate::{Result, Tensor, tensor::Real};

/// Elements whose sum is one term of the outer sum.
const PIECE: usize = 4096;
/// Independent partial sums in a piece, so that the loop vectorises and rounding errors stay small.
const LANES: usize = 32;

pub(super) fn forward<T: Real>(x: &Tensor, factor: f64) -> Result<Tensor> {
    let pieces: Vec<f64> = x.as_slice::<T>()?.par_chunks(PIECE).map(sum_of_piece).collect();
    let total: f64 = pieces.iter().sum();
    Tensor::from_vec(vec![T::of(total * factor)], &[], x.device())
}

fn sum_of_piece<T: Real>(piece: &[T]) -> f64 {
    let mut lanes = [T::zero(); LANES];
    let rows = piece.chunks_exact(LANES);
    let rest = rows.remainder();
    for row in rows {
        for (lane, &x) in lanes.iter_mut().zip(row) {
            *lane += x;
        }
    }
    lanes.iter().chain(rest).map(|&lane| lane.wide()).sum()
}
