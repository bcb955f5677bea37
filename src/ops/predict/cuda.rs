//! Launch of `kernels/predict.cu`.

use half::bf16;

use super::{OP, PredictSpec, Prediction};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::upsample_bilinear::{Resize, cuda::DeviceResize},
    tensor::{Element, In, OptIn, OptOut, Out, Val},
};

kernels! { "predict";
    /// Labels, and what else is wanted.
    fn predict<T in f32 | f64 | bf16>(
        x: In<T>, labels: Out<u8>, confidence: OptOut<f32>, thresholds: OptIn<f32>, reaches: OptOut<u8>,
        resize: Val<DeviceResize>, count: Val<i32>);
}

pub(super) fn prediction<T: Element>(logits: &Tensor, resize: &Resize, spec: PredictSpec<'_>) -> Result<Prediction> {
    let device = logits.device();
    let shape = [resize.images, resize.rows.output, resize.columns.output];
    let empty = |dtype| Tensor::empty(&shape, dtype, device);
    let mut labels = empty(DType::U8)?;
    let mut confidence = spec.confidence.then(|| empty(DType::F32)).transpose()?;
    let mut reaches = spec.thresholds.map(|_| empty(DType::U8)).transpose()?;
    let thresholds = spec.thresholds.map(|values| Tensor::from_slice(values, &[values.len()], device)).transpose()?;
    let (launch, count) = (Launch::linear(OP, labels.len())?, labels.len() as i32);
    let resize = resize.for_device(OP)?;
    // SAFETY: the tensors have the shapes of `resize`, thresholds one value a class; the launch covers the pixels.
    unsafe {
        let (confidence, reaches) = (confidence.as_mut(), reaches.as_mut());
        let thresholds = thresholds.as_ref();
        predict::<T>(device, launch, logits, &mut labels, confidence, thresholds, reaches, resize, count)?;
    }
    Ok(Prediction { labels, confidence, reaches })
}
