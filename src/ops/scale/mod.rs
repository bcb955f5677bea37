//! A tensor times a number: y = factor * x.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Result, Tensor, autograd::Var};

const OP: &str = "scale";

/// Reference: a plain second use of a value, in tests of gradients.
/// y = factor * x, of any shape, f32, f64 or bf16. The gradient is factor * dy.
///
/// Errors: a dtype that is no float.
pub fn scale(x: &Var, factor: f64) -> Result<Var> {
    Var::record(OP, scaled(x.value(), factor)?, [x], move |dy, _| Ok([Some(scaled(&dy, factor)?)]))
}

/// factor * x.
pub(super) fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::scaled::<T>(x, factor),
        bf16 => scaled(&x.to_dtype(DType::F32)?, factor)?.to_dtype(DType::Bf16),
        cpu => cpu::scaled::<T>(x, factor),
    })
}
