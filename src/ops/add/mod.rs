//! Sum of two tensors of one shape, as at the end of a residual block: y = a + b.

mod cpu;
pub(crate) mod cuda;

use super::relu;
use crate::{DType, Error, Result, Tensor, autograd::Var};

const OP: &str = "add";

/// Reference: in training a batch norm adds its residual itself.
/// y = a + b, both of one shape, dtype (f32, f64 or bf16) and device. Both gradients are the output's.
///
/// Errors: shapes, dtypes or devices that differ.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    let y = checked_sum(a.value(), b.value(), false)?;
    Var::record(OP, y, [a, b], |dy, wanted| Ok(wanted.map(|wanted| wanted.then(|| dy.clone()))))
}

/// Reference: in training a batch norm adds its residual and clips itself.
/// y = max(a + b, 0), as [`add`] followed by [`fn@super::relu`], in one pass. Both gradients are dy where y > 0.
///
/// Errors: shapes, dtypes or devices that differ.
pub fn add_relu(a: &Var, b: &Var) -> Result<Var> {
    let y = checked_sum(a.value(), b.value(), true)?;
    let kept = y.clone();
    Var::record("add_relu", y, [a, b], move |dy, wanted| {
        let gradient = relu::backward(&kept, &dy)?;
        Ok(wanted.map(|wanted| wanted.then(|| gradient.clone())))
    })
}

fn checked_sum(x: &Tensor, y: &Tensor, relu: bool) -> Result<Tensor> {
    y.expect_shape(x.shape(), OP, "the second operand")?;
    x.expect_same_device(y, OP)?;
    if x.dtype() != y.dtype() {
        return Err(Error::shape(OP, format!("operands of dtype {} and {}; convert one", x.dtype(), y.dtype())));
    }
    forward(x, y, relu)
}

fn forward(a: &Tensor, b: &Tensor, relu: bool) -> Result<Tensor> {
    dispatch!(a, OP, T => {
        kernels => cuda::forward::<T>(a, b, relu),
        bf16 => forward(&a.to_dtype(DType::F32)?, &b.to_dtype(DType::F32)?, relu)?.to_dtype(DType::Bf16),
        cpu => cpu::forward::<T>(a, b, relu),
    })
}
