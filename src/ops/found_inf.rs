//! A step that must not be taken where a loss is NaN or infinite: kernels/include/found_inf.cuh, and the CPU's part.

use crate::{DType, Device, Error, Result, Tensor};

/// Errors unless the losses are f32 on `device`.
pub(super) fn check(op: &'static str, losses: Option<&Tensor>, device: &Device) -> Result<()> {
    match losses {
        Some(losses) if losses.dtype() != DType::F32 => {
            Err(Error::DType { op, got: losses.dtype(), want: "f32 for found_inf" })
        }
        Some(losses) if losses.device() != device => {
            let (left, right) = (device.to_string(), losses.device().to_string());
            Err(Error::DeviceMismatch { op, left, right })
        }
        _ => Ok(()),
    }
}

/// Whether an element is NaN or infinite, on the CPU.
pub(super) fn found_inf(losses: Option<&Tensor>) -> Result<bool> {
    losses.map_or(Ok(false), |losses| Ok(losses.as_slice::<f32>()?.iter().any(|loss| !loss.is_finite())))
}
