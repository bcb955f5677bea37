//! Launches of `kernels/reduce.cu`.

use half::bf16;

use super::OP;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "reduce";
    /// Sums of pieces.
    fn reduce_pieces<T in f32 | f64 | bf16>(x: In<T>, partial: Out<T::Accumulator>, count: Val<i32>);
    /// y = factor times the sum of the pieces' sums.
    fn reduce_finish<T in f32 | f64>(partial: In<T>, y: Out<T>, factor: Val<f64>, count: Val<i32>);
    /// dx = factor * dy, dy a scalar.
    fn reduce_broadcast<T in f32 | f64 | bf16>(
        dy: In<T::Accumulator>, dx: Out<T>, factor: Val<f64>, count: Val<i32>
    );
}

/// Elements of a piece, as in the kernel file.
const PIECE: usize = 4096;

pub(super) fn forward<T: Element>(x: &Tensor, factor: f64) -> Result<Tensor> {
    // The kernels index with 32 bits.
    Launch::linear(OP, x.len())?;
    let pieces = x.len().div_ceil(PIECE);
    let accumulator = x.dtype().accumulator();
    let mut partial = Tensor::empty(&[pieces.max(1)], accumulator, x.device())?;
    let mut y = Tensor::empty(&[], accumulator, x.device())?;
    let launch = Launch::blocks(OP, pieces, 256)?;
    // SAFETY: one block a piece of the `count` elements, for which `partial` has room; then one block over the pieces.
    unsafe {
        reduce_pieces::<T>(x.device(), launch, x, &mut partial, x.len() as i32)?;
        let launch = Launch::blocks(OP, 1, 256)?;
        reduce_finish::<T::Accumulator>(x.device(), launch, &partial, &mut y, factor, pieces as i32)?;
    }
    Ok(y)
}

pub(super) fn backward<T: Element>(dy: &Tensor, shape: &[usize], factor: f64) -> Result<Tensor> {
    let mut dx = Tensor::empty(shape, T::DTYPE, dy.device())?;
    let launch = Launch::linear(OP, dx.len())?;
    let count = dx.len() as i32;
    // SAFETY: dy is a scalar; dx holds `count` elements, which the launch covers.
    unsafe { reduce_broadcast::<T>(dy.device(), launch, dy, &mut dx, factor, count)? };
    Ok(dx)
}
