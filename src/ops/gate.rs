//! A step that must not be taken where a loss is NaN or infinite: kernels/include/gate.cuh, and the CPU's part.

use crate::{DType, Device, Error, Result, Tensor};

/// Errors unless it is f32 on `device`.
pub(super) fn check(op: &'static str, gate: Option<&Tensor>, device: &Device) -> Result<()> {
    match gate {
        Some(gate) if gate.dtype() != DType::F32 => {
            Err(Error::DType { op, got: gate.dtype(), want: "f32 for the gate" })
        }
        Some(gate) if gate.device() != device => {
            let (left, right) = (device.to_string(), gate.device().to_string());
            Err(Error::DeviceMismatch { op, left, right })
        }
        _ => Ok(()),
    }
}

/// Whether all elements are finite, on the CPU.
pub(super) fn is_open(gate: Option<&Tensor>) -> Result<bool> {
    gate.map_or(Ok(true), |gate| Ok(gate.as_slice::<f32>()?.iter().all(|loss| loss.is_finite())))
}
