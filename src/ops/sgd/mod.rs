//! Stochastic gradient descent with momentum and weight decay (docs/method.md, "Optimisation").
//!
//! PyTorch's rule, in place: g' = g + decay * p;  m = momentum * m + g';  p = p - rate * m. With m = 0 before the
//! first step this is also PyTorch's first step, m = g'.

mod cpu;
pub(crate) mod cuda;

use super::found_inf;
use crate::{DType, Error, Result, Tensor, with_real};

const OP: &str = "sgd";

/// One parameter's share of a step.
pub struct SgdItem<'a> {
    /// The parameter.
    pub value: &'a mut Tensor,
    /// Its momentum buffer, of the same shape; zeros before the first step.
    pub momentum: &'a mut Tensor,
    /// Its gradient, of the same shape: of its dtype, or bf16 where there is a copy.
    pub gradient: &'a Tensor,
    /// Written too: the new value in bf16, with which the next step computes.
    pub copy: Option<&'a mut Tensor>,
    /// Learning rate of this parameter over the step's.
    pub multiplier: f64,
    /// Weight decay of this parameter (an L2 term added to the gradient).
    pub weight_decay: f64,
}

/// What all parameters of a step share.
#[derive(Clone, Copy)]
pub struct SgdSpec<'a> {
    /// The momentum's factor.
    pub momentum: f64,
    /// The learning rate, f64 `[1]`: in memory, so that a captured step can be replayed with another.
    pub rate: &'a Tensor,
    /// Losses, f32 of any shape: where one is NaN or infinite, nothing is changed.
    pub found_inf: Option<&'a Tensor>,
}

/// One step for all `items`, f32 or f64, in place. On kernels it is one launch for 128 of them. A tensor whose memory is
/// shared is copied first: drop the tape before the step.
///
/// Errors: shapes, dtypes or devices that differ within an item or from the first one's; another dtype.
pub fn sgd_step(items: &mut [SgdItem<'_>], spec: &SgdSpec<'_>) -> Result<()> {
    let Some(first) = items.first() else { return Ok(()) };
    let (device, dtype) = (first.value.device().clone(), first.value.dtype());
    spec.rate.expect_shape(&[1], OP, "the rate")?;
    found_inf::check(OP, spec.found_inf, &device)?;
    for item in items.iter() {
        check(item)?;
        if item.value.device() != &device || item.value.dtype() != dtype {
            return Err(Error::shape(OP, "parameters of one device and dtype go together; make two steps of them"));
        }
    }
    if !device.is_cpu() {
        return with_real!(dtype, OP, T => cuda::step::<T>(items, spec));
    }
    if found_inf::found_inf(spec.found_inf)? {
        return Ok(());
    }
    let rate = spec.rate.item()?;
    for item in items {
        with_real!(dtype, OP, T => cpu::step::<T>(item, spec.momentum, rate))?;
    }
    Ok(())
}

fn check(item: &SgdItem<'_>) -> Result<()> {
    let (value, copy) = (&*item.value, item.copy.as_deref());
    let expect = |other: &Tensor, name: &str, dtypes: &[DType]| -> Result<()> {
        other.expect_shape(value.shape(), OP, name)?;
        value.expect_same_device(other, OP)?;
        if !dtypes.contains(&other.dtype()) {
            let (got, want) = (other.dtype(), dtypes[0]);
            return Err(Error::shape(OP, format!("{name} has dtype {got}, and should have {want}; convert it")));
        }
        Ok(())
    };
    let dtype = value.dtype();
    expect(item.momentum, "the momentum", &[dtype])?;
    let narrow = if copy.is_some() { DType::Bf16 } else { dtype };
    expect(item.gradient, "the gradient", &[dtype, narrow])?;
    copy.map_or(Ok(()), |copy| expect(copy, "the copy", &[DType::Bf16]))
}
