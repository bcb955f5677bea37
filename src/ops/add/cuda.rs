//! Launch of `kernels/add.cu`.

use half::bf16;

use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "add";
    /// y = a + b.
    fn add_forward<T in f32 | f64 | bf16>(a: In<T>, b: In<T>, y: Out<T>, count: Val<i32>);
    /// y = max(a + b, 0).
    fn add_relu_forward<T in f32 | f64 | bf16>(a: In<T>, b: In<T>, y: Out<T>, count: Val<i32>);
}

pub(super) fn forward<T: Element>(a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    let mut y = a.empty_like()?;
    let launch = Launch::linear(super::OP, a.len())?;
    // SAFETY: the caller checked that both operands have one shape; the launch covers its `count` elements.
    unsafe {
        match relu {
            false => add_forward::<T>(a.device(), launch, a, b, &mut y, a.len() as i32)?,
            true => add_relu_forward::<T>(a.device(), launch, a, b, &mut y, a.len() as i32)?,
        }
    }
    Ok(y)
}
