//! Launch of `kernels/scale.cu`.

use half::bf16;

use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "scale";
    /// y = factor * x.
    fn scale<T in f32 | f64 | bf16>(x: In<T>, y: Out<T>, factor: Val<f64>, count: Val<i32>);
}

pub(super) fn scaled<T: Element>(x: &Tensor, factor: f64) -> Result<Tensor> {
    let mut y = x.empty_like()?;
    let launch = Launch::linear(super::OP, x.len())?;
    // SAFETY: both tensors hold `count` elements, which the launch covers.
    unsafe { scale::<T>(x.device(), launch, x, &mut y, factor, x.len() as i32)? };
    Ok(y)
}
