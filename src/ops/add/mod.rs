//! Sum of two tensors of one shape, as at the end of a residual block: y = a + b.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Error, Result, Tensor, autograd::Var, with_float, with_real};

const OP: &str = "add";

/// y = a + b, both of one shape, dtype (f32, f64 or bf16) and device. Both gradients are the output's.
///
/// Errors: shapes, dtypes or devices that differ.
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    let (x, y) = (a.value(), b.value());
    y.expect_shape(x.shape(), OP, "the second operand")?;
    x.expect_same_device(y, OP)?;
    if x.dtype() != y.dtype() {
        return Err(Error::shape(OP, format!("operands of dtype {} and {}; convert one", x.dtype(), y.dtype())));
    }
    Var::record(OP, forward(x, y)?, [a, b], |dy, wanted| Ok(wanted.map(|wanted| wanted.then(|| dy.clone()))))
}

fn forward(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return with_float!(a.dtype(), OP, T => cuda::forward::<T>(a, b));
    }
    if a.dtype() == DType::Bf16 {
        return forward(&a.to_dtype(DType::F32)?, &b.to_dtype(DType::F32)?)?.to_dtype(DType::Bf16);
    }
    with_real!(a.dtype(), OP, T => cpu::forward::<T>(a, b))
}
