//! The class of the largest logit at each pixel.

mod cpu;
pub(crate) mod cuda;

use super::cross_entropy::check_classes;
use crate::{DType, Result, Tensor};

const OP: &str = "argmax";

/// Reference: [`fn@super::predict`] takes the class of upsampled logits.
/// The first largest class of logits `[N,H,W,C]` (f32, f64 or bf16; C at most 255) at each pixel: u8 `[N,H,W]`.
///
/// A NaN counts as the largest, as in PyTorch.
///
/// Errors: logits without four dimensions, no class or more than 255, a dtype that is no float.
///
/// ```
/// use bicl::{Device, Tensor, ops};
/// let logits = Tensor::from_vec(vec![0.0f32, 3.0, 3.0, 2.0, 1.0, 0.0], &[1, 1, 2, 3], &Device::cpu())?;
/// assert_eq!(ops::argmax(&logits)?.to_vec::<u8>()?, [1, 0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn argmax(logits: &Tensor) -> Result<Tensor> {
    let [_, _, _, classes] = logits.dims(OP)?;
    check_classes(OP, classes)?;
    dispatch!(logits, OP, T => {
        kernels => cuda::labels::<T>(logits, classes),
        bf16 => argmax(&logits.to_dtype(DType::F32)?),
        cpu => cpu::argmax::<T>(logits, classes),
    })
}
