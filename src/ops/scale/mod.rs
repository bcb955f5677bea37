//! A tensor times a number: y = factor * x.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Result, Tensor, autograd::Var, with_float, with_real};

const OP: &str = "scale";

/// y = factor * x, of any shape, f32, f64 or bf16. The gradient is factor * dy.
///
/// Errors: a dtype that is no float.
pub fn scale(x: &Var, factor: f64) -> Result<Var> {
    Var::record(OP, scaled(x.value(), factor)?, [x], move |dy, _| Ok([Some(scaled(&dy, factor)?)]))
}

/// factor * x.
pub(super) fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return with_float!(x.dtype(), OP, T => cuda::scaled::<T>(x, factor));
    }
    if x.dtype() == DType::Bf16 {
        return scaled(&x.to_dtype(DType::F32)?, factor)?.to_dtype(DType::Bf16);
    }
    with_real!(x.dtype(), OP, T => cpu::scaled::<T>(x, factor))
}
