//! Softmax cross entropy: the mean over the pixels whose label is not 255 of
//! `-ln softmax(x)[label]` = ln(sum_c exp(x_c - m)) - (x_label - m), with m = max_c x_c. docs/method.md, "Total loss".
//!
//! Over no pixel it is 0 with zero gradient, never NaN.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Error, Result, Tensor, autograd::Var, with_float, with_real};

const OP: &str = "cross_entropy";

/// The label of pixels that do not count.
pub(crate) const IGNORE: u8 = 255;

/// Reference of the first term of [`fn@super::segmentation_loss`].
/// Mean cross entropy (a scalar of shape `[]`) of logits `[N,H,W,C]`, f32, f64 or bf16, against labels u8 `[N,H,W]`.
///
/// The loss has the logits' dtype, f32 for bf16 logits. On the CPU a label that is neither below C nor 255 is an
/// error; kernels leave such a pixel out like one labelled 255.
///
/// Errors: shapes that do not fit, more than 255 classes, a label out of range.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let logits = Tape::new(&device).constant(Tensor::from_vec(vec![1.0f32; 6], &[1, 1, 2, 3], &device)?);
/// let labels = Tensor::from_vec(vec![2u8, 255], &[1, 1, 2], &device)?;
/// let loss = ops::cross_entropy(&logits, &labels)?.value().item()?;
/// assert!((loss - 3f64.ln()).abs() < 1e-6);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn cross_entropy(logits: &Var, labels: &Tensor) -> Result<Var> {
    let x = logits.value();
    let [n, h, w, classes] = x.dims(OP)?;
    check_classes(OP, classes)?;
    labels.expect_shape(&[n, h, w], OP, "labels")?;
    x.expect_same_device(labels, OP)?;
    if !x.device().is_cpu() {
        let (loss, labelled) = with_float!(x.dtype(), OP, T => cuda::forward::<T>(x, labels, classes))?;
        let (x, labels) = (x.clone(), labels.clone());
        return Var::record(OP, loss, [logits], move |seed, _| {
            let dx = cuda_backward(&x, &labels, &labelled, classes, &seed)?;
            Ok([Some(dx)])
        });
    }
    let count = count_labels(OP, labels, classes)?;
    let wide = if x.dtype() == DType::Bf16 { x.to_dtype(DType::F32)? } else { x.clone() };
    let loss = with_real!(wide.dtype(), OP, T => cpu::forward::<T>(&wide, labels, classes, count))?;
    let (labels, dtype) = (labels.clone(), x.dtype());
    Var::record(OP, loss, [logits], move |gradient, _| {
        let dx = with_real!(wide.dtype(), OP, T => cpu::backward::<T>(&wide, &labels, classes, count, &gradient))?;
        Ok([Some(dx.to_dtype(dtype)?)])
    })
}

fn cuda_backward(x: &Tensor, labels: &Tensor, labelled: &Tensor, classes: usize, seed: &Tensor) -> Result<Tensor> {
    with_float!(x.dtype(), OP, T => cuda::backward::<T>(x, labels, labelled, classes, seed))
}

/// Errors unless labels u8 can name the classes, with 255 left for pixels to ignore.
pub(crate) fn check_classes(op: &'static str, classes: usize) -> Result<()> {
    if (1..=usize::from(IGNORE)).contains(&classes) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{classes} classes; 8-bit labels allow 1 to 255")))
}

/// How many labels (in host memory) are not 255; a label that names no class is an error.
pub(crate) fn count_labels(op: &'static str, labels: &Tensor, classes: usize) -> Result<usize> {
    let mut histogram = [0usize; 256];
    for &label in labels.as_slice::<u8>()? {
        histogram[usize::from(label)] += 1;
    }
    let stranger = (classes..usize::from(IGNORE)).find(|&label| histogram[label] > 0);
    if let Some(label) = stranger {
        let classes = classes - 1;
        return Err(Error::shape(op, format!("label {label} is neither a class (0 to {classes}) nor 255 (ignore)")));
    }
    Ok(labels.len() - histogram[usize::from(IGNORE)])
}
