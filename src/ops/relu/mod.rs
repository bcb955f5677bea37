//! Rectified linear unit: y = max(x, 0).
//!
//! The gradient passes where y > 0, so the backward pass keeps y (which the next layer keeps anyway), not x.
//! NaN passes through: max(NaN, 0) is NaN here, so that a broken network shows.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Result, Tensor, autograd::Var};

const OP: &str = "relu";

/// Reference: in training a batch norm clips its output itself.
/// y = max(x, 0), of any shape, f32, f64 or bf16.
///
/// Errors: a dtype that is no float.
pub fn relu(x: &Var) -> Result<Var> {
    let y = forward(x.value())?;
    let kept = y.clone();
    Var::record(OP, y, [x], move |dy, _| Ok([Some(backward(&kept, &dy)?)]))
}

pub(super) fn forward(x: &Tensor) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::forward::<T>(x),
        bf16 => forward(&x.to_dtype(DType::F32)?)?.to_dtype(DType::Bf16),
        cpu => cpu::forward::<T>(x),
    })
}

pub(super) fn backward(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    dispatch!(y, OP, T => {
        kernels => cuda::backward::<T>(y, dy),
        bf16 => backward(&y.to_dtype(DType::F32)?, &dy.to_dtype(DType::F32)?)?.to_dtype(DType::Bf16),
        cpu => cpu::backward::<T>(y, dy),
    })
}
