//! Launches of `kernels/max_pool2d.cu`.

use half::bf16;

use super::{OP, Pooling};
use crate::{
    DType, Error, Result, Tensor,
    device::{Launch, PACK_BYTES},
    kernels,
    tensor::{Element, In, Out, Val},
};

/// As `Pool` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Pool {
    extents: [i32; 5],
    kernel: [i32; 2],
    stride: [i32; 2],
    padding: [i32; 2],
    packed: i32,
}

kernels! { "max_pool2d";
    /// Maxima and their places.
    fn max_pool_forward<T in f32 | f64 | bf16>(
        x: In<T>, y: Out<T>, places: Out<u8>, pool: Val<Pool>, count: Val<i32>);
    /// dx gathers dy at the maxima.
    fn max_pool_backward<T in f32 | f64 | bf16>(
        dy: In<T>, places: In<u8>, dx: Out<T>, pool: Val<Pool>, count: Val<i32>);
}

impl Pooling {
    /// For a kernel on elements of `size` bytes, whose indices have 31 bits; and how many channels each of its threads has.
    fn for_device(&self, size: usize) -> Result<(Pool, usize)> {
        for shape in [self.input_shape(), self.output_shape()] {
            Launch::linear(OP, shape.iter().product())?;
        }
        // A stride beyond the input acts like one of the input's extent; window ends must not overflow.
        let room = i32::MAX as usize / 4;
        if self.height.max(self.width) > room || self.stride.iter().any(|&stride| stride > room) {
            return Err(Error::shape(OP, format!("input {} x {}: too large for a kernel", self.height, self.width)));
        }
        let extents = [self.height, self.width, self.channels, self.out_height, self.out_width];
        let pair = |pair: [usize; 2]| pair.map(|value| value as i32);
        let (kernel, stride, padding) = (pair(self.kernel), pair(self.stride), pair(self.padding));
        let width = if self.channels.is_multiple_of(PACK_BYTES / size) { PACK_BYTES / size } else { 1 };
        let (extents, packed) = (extents.map(|extent| extent as i32), i32::from(width > 1));
        Ok((Pool { extents, kernel, stride, padding, packed }, width))
    }
}

pub(super) fn forward<T: Element>(x: &Tensor, problem: &Pooling) -> Result<(Tensor, Tensor)> {
    let shape = problem.output_shape();
    let mut y = Tensor::empty(&shape, T::DTYPE, x.device())?;
    let mut places = Tensor::empty(&shape, DType::U8, x.device())?;
    let (pool, width) = problem.for_device(size_of::<T>())?;
    let threads = y.len() / width;
    let launch = Launch::linear(OP, threads)?;
    // SAFETY: the tensors have the problem's shapes; the launch covers y, `width` channels a thread.
    unsafe { max_pool_forward::<T>(x.device(), launch, x, &mut y, &mut places, pool, threads as i32)? };
    Ok((y, places))
}

pub(super) fn backward<T: Element>(dy: &Tensor, places: &Tensor, problem: &Pooling) -> Result<Tensor> {
    let mut dx = Tensor::empty(&problem.input_shape(), T::DTYPE, dy.device())?;
    let (pool, width) = problem.for_device(size_of::<T>())?;
    let threads = dx.len() / width;
    let launch = Launch::linear(OP, threads)?;
    // SAFETY: the tensors have the problem's shapes (the tape checks the gradient's); the launch covers dx, `width` channels
    // a thread.
    unsafe { max_pool_backward::<T>(dy.device(), launch, dy, places, &mut dx, pool, threads as i32)? };
    Ok(dx)
}
