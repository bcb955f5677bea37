//! Launches of `kernels/upsample_bilinear.cu`.

use half::bf16;

use super::{OP, Resize};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

/// As `Resize` of `kernels/include/bilinear.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct DeviceResize {
    images: i32,
    height: i32,
    width: i32,
    channels: i32,
    out_height: i32,
    out_width: i32,
}

impl Resize {
    /// For a kernel, which indexes both tensors with 31 bits.
    pub fn for_device(&self, op: &'static str) -> Result<DeviceResize> {
        // The axes were checked to fit; their products need a check of their own.
        for shape in [self.input_shape(), self.output_shape()] {
            Launch::linear(op, shape.iter().product())?;
        }
        let [images, height, width, channels] = self.input_shape().map(|extent| extent as i32);
        let [_, out_height, out_width, _] = self.output_shape().map(|extent| extent as i32);
        Ok(DeviceResize { images, height, width, channels, out_height, out_width })
    }
}

kernels! { "upsample_bilinear";
    /// y = x resized.
    fn upsample_forward<T in f32 | f64 | bf16>(x: In<T>, y: Out<T>, resize: Val<DeviceResize>, count: Val<i32>);
    /// dx = the transpose, of dy.
    fn upsample_backward<T in f32 | f64 | bf16>(dy: In<T>, dx: Out<T>, resize: Val<DeviceResize>, count: Val<i32>);
}

pub(super) fn forward<T: Element>(x: &Tensor, resize: &Resize) -> Result<Tensor> {
    let mut y = Tensor::empty(&resize.output_shape(), T::DTYPE, x.device())?;
    let (launch, count) = (Launch::linear(OP, y.len())?, y.len() as i32);
    // SAFETY: both tensors have the shapes of `resize`; the launch covers y.
    unsafe { upsample_forward::<T>(x.device(), launch, x, &mut y, resize.for_device(OP)?, count)? };
    Ok(y)
}

pub(super) fn backward<T: Element>(dy: &Tensor, resize: &Resize) -> Result<Tensor> {
    let mut dx = Tensor::empty(&resize.input_shape(), T::DTYPE, dy.device())?;
    let (launch, count) = (Launch::linear(OP, dx.len())?, dx.len() as i32);
    // SAFETY: both tensors have the shapes of `resize` (the tape checks the gradient's); the launch covers dx.
    unsafe { upsample_backward::<T>(dy.device(), launch, dy, &mut dx, resize.for_device(OP)?, count)? };
    Ok(dx)
}
