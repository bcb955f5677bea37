//! Softmax entropy, in natural logarithms: the mean over all pixels of -sum_c p_c ln p_c. docs/method.md, "Total loss".
//!
//! With m = max_c x_c, s = sum_c exp(x_c - m) and u = sum_c p_c (x_c - m) it is ln s - u, and its gradient
//! -p_c (x_c - m - u): no logarithm of a probability, so a probability of 0 does no harm.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Error, Result, autograd::Var, with_float, with_real};

const OP: &str = "entropy";

/// Reference of the second term of [`fn@super::segmentation_loss`].
/// Mean softmax entropy (a scalar of shape `[]`, in nats) of logits `[N,H,W,C]`, f32, f64 or bf16, over all pixels.
///
/// The result has the logits' dtype, f32 for bf16 logits; over no pixel it is 0.
///
/// Errors: logits without four dimensions or without classes, a dtype that is no float.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let logits = Tape::new(&device).constant(Tensor::from_vec(vec![5.0f32; 4], &[1, 1, 1, 4], &device)?);
/// assert!((ops::entropy(&logits)?.value().item()? - 4f64.ln()).abs() < 1e-6);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn entropy(logits: &Var) -> Result<Var> {
    let x = logits.value();
    let [_, _, _, classes] = x.dims(OP)?;
    if classes == 0 {
        return Err(Error::shape(OP, format!("logits of shape {:?} hold no classes", x.shape())));
    }
    if !x.device().is_cpu() {
        let loss = with_float!(x.dtype(), OP, T => cuda::forward::<T>(x, classes))?;
        let x = x.clone();
        return Var::record(OP, loss, [logits], move |seed, _| {
            let dx = with_float!(x.dtype(), OP, T => cuda::backward::<T>(&x, classes, &seed))?;
            Ok([Some(dx)])
        });
    }
    let wide = if x.dtype() == DType::Bf16 { x.to_dtype(DType::F32)? } else { x.clone() };
    let loss = with_real!(wide.dtype(), OP, T => cpu::forward::<T>(&wide, classes))?;
    let dtype = x.dtype();
    Var::record(OP, loss, [logits], move |gradient, _| {
        let dx = with_real!(wide.dtype(), OP, T => cpu::backward::<T>(&wide, classes, &gradient))?;
        Ok([Some(dx.to_dtype(dtype)?)])
    })
}
