//! Non-parametric label transfer and hybrid labels (docs/method.md, "Dynamic pseudo labels" and "Hybrid pseudo labels").
//!
//! ```text
//! pi(p,c) = exp(s(p,c)/tau) / sum_k exp(s(p,k)/tau);   y(p) = argmax_c pi(p,c) where max_c pi > threshold, else 255
//! ```
//!
//! As everywhere in the method s = -1 for an absent class: it counts in the denominator, over all C classes, but is
//! never assigned. Of equal classes the lowest wins. No gradient.

mod cpu;
pub(crate) mod cuda;

use super::cosine::{Extents, check_temperature, cuda::row_norms};
use crate::{DType, Error, Result, Tensor, tensor::Element};

const OP: &str = "transfer_labels";

/// Reference: the CPU composes [`super::bidirectional_contrast`] of it.
/// Labels u8 `[N,h,w]` of features `[N,h,w,d]` by their similarity with prototypes `[N,C,d]` (in f32 for features in bf16,
/// else in their dtype), of which those with `present` u8 `[N,C]` not 0 exist. The method hands in calibrated
/// prototypes, see [`calibrate`](super::calibrate).
///
/// Errors: shapes, dtypes or devices that do not fit; a temperature that is not a positive number.
///
/// ```
/// use bicl::{Device, Tensor, ops};
/// let device = Device::cpu();
/// let features = Tensor::from_vec(vec![9.0f32, 0.0, 1.0, 1.0], &[1, 1, 2, 2], &device)?;
/// let prototypes = Tensor::from_vec(vec![1.0f32, 0.0, 0.0, 1.0], &[1, 2, 2], &device)?;
/// let present = Tensor::from_vec(vec![1u8, 1], &[1, 2], &device)?;
/// let labels = ops::transfer_labels(&features, &prototypes, &present, 0.1, 0.8)?;
/// assert_eq!(labels.to_vec::<u8>()?, [0, 255]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn transfer_labels(
    features: &Tensor,
    prototypes: &Tensor,
    present: &Tensor,
    temperature: f64,
    threshold: f64,
) -> Result<Tensor> {
    let extents = Extents::check(OP, features, prototypes, present)?;
    if present.dtype() != DType::U8 {
        return Err(Error::DType { op: OP, got: present.dtype(), want: "u8 for the presence" });
    }
    check_temperature(OP, temperature)?;
    let cutoffs = [temperature, threshold];
    dispatch!(features, OP, T => {
        kernels => {
            let inverse = &row_norms::<<T as Element>::Accumulator>(OP, prototypes)?;
            cuda::transfer::<T>(features, 0, &cuda::TransferFrom { prototypes, inverse, present }, extents, cutoffs)
        },
        bf16 => transfer_labels(&features.to_dtype(DType::F32)?, prototypes, present, temperature, threshold),
        cpu => cpu::transfer::<T>(features, prototypes, present, extents, cutoffs),
    })
}

/// Labels u8 `[N,H,W]`: the static label where it is not 255, else the dynamic one, u8 `[N,h,w]`, of the feature cell
/// (floor(y * h / H), floor(x * w / W)) that nearest-neighbour upsampling assigns.
///
/// Errors: shapes, dtypes or devices that do not fit.
///
/// ```
/// use bicl::{Device, Tensor, ops};
/// let device = Device::cpu();
/// let fixed = Tensor::from_vec(vec![7u8, 255, 255, 255], &[1, 1, 4], &device)?;
/// let dynamic = Tensor::from_vec(vec![2u8, 3], &[1, 1, 2], &device)?;
/// assert_eq!(ops::hybrid_labels(&fixed, &dynamic)?.to_vec::<u8>()?, [7, 2, 3, 3]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn hybrid_labels(fixed: &Tensor, dynamic: &Tensor) -> Result<Tensor> {
    const OP: &str = "hybrid_labels";
    let [pairs, rows, columns] = fixed.dims(OP)?;
    let [dynamic_pairs, height, width] = dynamic.dims(OP)?;
    if pairs != dynamic_pairs || (height * width == 0 && !fixed.is_empty()) {
        let (fixed, dynamic) = (fixed.shape(), dynamic.shape());
        return Err(Error::shape(OP, format!("static labels {fixed:?} do not fit dynamic ones {dynamic:?}")));
    }
    fixed.expect_same_device(dynamic, OP)?;
    let mut hybrid = Tensor::empty(fixed.shape(), DType::U8, fixed.device())?;
    if !fixed.device().is_cpu() {
        cuda::hybrid_labels(fixed, dynamic, [rows, columns, height, width], &mut hybrid)?;
        return Ok(hybrid);
    }
    cpu::hybrid(fixed, dynamic, [rows, columns, height, width], &mut hybrid)?;
    Ok(hybrid)
}
