//! Prediction from low-resolution logits: bilinear upsampling (align_corners = true), softmax maximum and argmax in
//! one pass, for evaluation and for the static pseudo labels (docs/method.md, "Static pseudo labels"). No
//! gradient, no logits of full resolution.

mod cpu;
pub(crate) mod cuda;

use super::{cross_entropy::check_classes, upsample_bilinear::Resize};
use crate::{DType, Error, Result, Tensor, with_float, with_real};

const OP: &str = "predict";

/// What [`predict`] is to compute besides the labels.
#[derive(Clone, Copy, Debug, Default)]
pub struct PredictSpec<'a> {
    /// Whether the largest probability of each pixel is wanted.
    pub confidence: bool,
    /// A probability t(c) for each class: asks which pixels have P(c) >= t(c) for some c.
    pub thresholds: Option<&'a [f32]>,
}

/// A prediction at full resolution.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The first most probable class, u8 `[N,H,W]`.
    pub labels: Tensor,
    /// Its probability, f32 `[N,H,W]`.
    pub confidence: Option<Tensor>,
    /// 1 where some class reaches its threshold, else 0; u8 `[N,H,W]`.
    pub reaches: Option<Tensor>,
}

/// Predicts the classes of the pixels of `[N,height,width]` from logits `[N,h,w,C]`, f32, f64 or bf16.
///
/// The labels are those of [`argmax`](fn@super::argmax) over [`upsample_bilinear`](fn@super::upsample_bilinear).
///
/// Errors: logits without four dimensions, an extent of 0, no class or more than 255, thresholds that are not one a
/// class, a dtype that is no float.
///
/// ```
/// use bicl::{Device, Tensor, ops::{self, PredictSpec}};
/// let logits = Tensor::from_vec(vec![2.0f32, 0.0, 0.0, 6.0], &[1, 1, 2, 2], &Device::cpu())?;
/// let prediction = ops::predict(&logits, 1, 5, PredictSpec { confidence: true, thresholds: None })?;
/// assert_eq!(prediction.labels.to_vec::<u8>()?, [0, 0, 1, 1, 1]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn predict(logits: &Tensor, height: usize, width: usize, spec: PredictSpec<'_>) -> Result<Prediction> {
    let resize = Resize::new(OP, logits, height, width)?;
    check_classes(OP, resize.channels)?;
    if let Some(thresholds) = spec.thresholds.filter(|thresholds| thresholds.len() != resize.channels) {
        let (got, want) = (thresholds.len(), resize.channels);
        return Err(Error::shape(OP, format!("{got} thresholds for {want} classes; give one a class")));
    }
    if !logits.device().is_cpu() {
        return with_float!(logits.dtype(), OP, T => cuda::prediction::<T>(logits, &resize, spec));
    }
    if logits.dtype() == DType::Bf16 {
        return on_cpu(&logits.to_dtype(DType::F32)?, &resize, spec);
    }
    on_cpu(logits, &resize, spec)
}

/// Some rows of a prediction; what is not wanted is empty.
struct Rows {
    labels: Vec<u8>,
    confidence: Vec<f32>,
    reaches: Vec<u8>,
}

fn on_cpu(logits: &Tensor, resize: &Resize, spec: PredictSpec<'_>) -> Result<Prediction> {
    let PredictSpec { confidence, thresholds } = spec;
    let rows = with_real!(logits.dtype(), OP, T => cpu::predict::<T>(logits, resize, confidence, thresholds))?;
    let shape = [resize.images, resize.rows.output, resize.columns.output];
    let device = logits.device();
    let join = |part: fn(&Rows) -> &Vec<u8>| {
        let all: Vec<u8> = rows.iter().flat_map(|rows| part(rows).iter().copied()).collect();
        Tensor::from_vec(all, &shape, device)
    };
    let values = || -> Vec<f32> { rows.iter().flat_map(|rows| rows.confidence.iter().copied()).collect() };
    Ok(Prediction {
        labels: join(|rows| &rows.labels)?,
        confidence: confidence.then(|| Tensor::from_vec(values(), &shape, device)).transpose()?,
        reaches: thresholds.map(|_| join(|rows| &rows.reaches)).transpose()?,
    })
}
