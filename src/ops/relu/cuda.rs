//! Launches of `kernels/relu.cu`.

use half::bf16;

use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "relu";
    /// y = max(x, 0).
    fn relu_forward<T in f32 | f64 | bf16>(x: In<T>, y: Out<T>, count: Val<i32>);
    /// dx = dy where y > 0, else 0.
    fn relu_backward<T in f32 | f64 | bf16>(y: In<T>, dy: In<T>, dx: Out<T>, count: Val<i32>);
}

pub(super) fn forward<T: Element>(x: &Tensor) -> Result<Tensor> {
    let mut y = x.empty_like()?;
    let launch = Launch::linear(super::OP, x.len())?;
    // SAFETY: both tensors hold `count` elements, which the launch covers.
    unsafe { relu_forward::<T>(x.device(), launch, x, &mut y, x.len() as i32)? };
    Ok(y)
}

pub(super) fn backward<T: Element>(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let mut dx = y.empty_like()?;
    let launch = Launch::linear(super::OP, y.len())?;
    // SAFETY: all tensors hold `count` elements (the tape checks the gradient's shape), which the launch covers.
    unsafe { relu_backward::<T>(y.device(), launch, y, dy, &mut dx, y.len() as i32)? };
    Ok(dx)
}
