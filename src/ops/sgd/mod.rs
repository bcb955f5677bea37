//! Stochastic gradient descent with momentum and weight decay (METHOD.md, "Optimisation"), and the check that
//! gradients are finite.
//!
//! PyTorch's rule, in place: g' = g + decay * p;  m = momentum * m + g';  p = p - rate * m. With m = 0 before the
//! first step this is also PyTorch's first step, m = g'.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Error, Result, Tensor, with_real};

const OP: &str = "sgd";
const FINITE: &str = "all_finite";

/// One parameter's share of a step.
pub struct SgdItem<'a> {
    /// The parameter.
    pub value: &'a mut Tensor,
    /// Its momentum buffer, of the same shape; zeros before the first step.
    pub momentum: &'a mut Tensor,
    /// Its gradient, of the same shape.
    pub gradient: &'a Tensor,
    /// Learning rate of this parameter.
    pub learning_rate: f64,
    /// Weight decay of this parameter (an L2 term added to the gradient).
    pub weight_decay: f64,
}

/// One step for all `items` with the common `momentum` factor, f32 or f64, in place. A tensor whose memory is
/// shared is copied first: drop the tape before the step.
///
/// Errors: shapes, dtypes or devices that differ within an item; another dtype.
pub fn sgd_step(items: &mut [SgdItem<'_>], momentum: f64) -> Result<()> {
    for item in items.iter() {
        for (other, name) in [(&*item.momentum, "the momentum"), (item.gradient, "the gradient")] {
            other.expect_shape(item.value.shape(), OP, name)?;
            item.value.expect_same_device(other, OP)?;
            if other.dtype() != item.value.dtype() {
                let (got, want) = (other.dtype(), item.value.dtype());
                return Err(Error::shape(OP, format!("{name} has dtype {got}, the parameter {want}; convert one")));
            }
        }
    }
    for item in items {
        if !item.value.device().is_cpu() {
            with_real!(item.value.dtype(), OP, T => cuda::step::<T>(item, momentum))?;
            continue;
        }
        with_real!(item.value.dtype(), OP, T => cpu::step::<T>(item, momentum))?;
    }
    Ok(())
}

/// Whether no element of any of the tensors (f32, f64 or bf16) is NaN or infinite.
///
/// Errors: a dtype that is no float; tensors on different devices.
pub fn all_finite(tensors: &[&Tensor]) -> Result<bool> {
    let Some(first) = tensors.first() else { return Ok(true) };
    for tensor in tensors {
        first.expect_same_device(tensor, FINITE)?;
        if !tensor.dtype().is_float() {
            return Err(Error::DType { op: FINITE, got: tensor.dtype(), want: "f32, f64 or bf16" });
        }
    }
    if !first.device().is_cpu() {
        return cuda::finite(tensors);
    }
    for tensor in tensors {
        let finite = match tensor.dtype() {
            DType::Bf16 => cpu::all_finite::<f32>(&tensor.to_dtype(DType::F32)?),
            dtype => with_real!(dtype, FINITE, T => cpu::all_finite::<T>(tensor)),
        };
        if !finite? {
            return Ok(false);
        }
    }
    Ok(true)
}
