//! One direction of the pixel-prototype contrastive loss (docs/method.md, "The two contrastive terms").
//!
//! Every label pixel q inside one feature cell p shares the same similarities, so with n(p,c) the number of label
//! pixels of class c in cell p, and z(p,c) = s(p,c) / tau over all C classes (s = -1 for absent ones):
//!
//! ```text
//! L       = sum_p sum_c w(c) n(p,c) ( log sum_k exp z(p,k) - z(p,c) ) / M,     M = sum_p m(p),  m(p) = sum_c w(c) n(p,c)
//! dL/ds   = ( m(p) softmax_c z(p,c) - w(c) n(p,c) ) / (tau M)                  0 for absent classes
//! ```
//!
//! The result is the mean of L over the pairs; a pair with M = 0 contributes 0 and gets zero gradients. Nothing of the
//! labels' resolution is stored: the forward pass keeps dL/ds up to its scale, at the features' resolution.

mod cpu;
pub(crate) mod cuda;

use super::{Prototypes, cosine::Extents};
use crate::{DType, Error, Result, Tensor, autograd::Var, with_float, with_real};

const OP: &str = "contrastive_loss";

/// What the forward pass hands to the backward pass; see `ops/cosine/mod.rs`. All in the accumulator's dtype.
struct Saved {
    features: Tensor,
    vectors: Tensor,
    /// 1 / max(|f|, 1e-12) [N,h,w].
    inverse: Tensor,
    /// m softmax - w n [N,h,w,C], 0 for absent classes.
    g: Tensor,
    /// sum_c g s [N,h,w].
    a: Tensor,
    /// sum_p g s [N,C], of the CPU; kernels have it as <S, v rho>.
    b: Option<Tensor>,
    /// 1 / (tau M N) [N], 0 where M = 0.
    scale: Tensor,
}

/// The extents of one call and the temperature.
#[derive(Clone, Copy)]
struct Problem {
    extents: Extents,
    /// Rows H and columns W of the labels.
    rows: usize,
    columns: usize,
    temperature: f64,
    /// Whether a backward pass may follow.
    tracked: bool,
}

/// The loss, of shape `[]`, of features `[N,h,w,d]` of one domain against the prototypes of the other.
///
/// `labels` u8 `[N,H,W]` are those of the features' domain at any resolution; pixels whose label is no class (255) are
/// left out, and so are classes for which `overlap` u8 `[N,C]` is 0 (see [`class_overlap`](super::class_overlap)).
/// Gradients reach the features and the prototypes.
///
/// Errors: shapes, dtypes or devices that do not fit; a temperature that is not a positive number.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let labels = Tensor::from_vec(vec![0u8, 1], &[1, 1, 2], &device)?;
/// let source = tape.variable(Tensor::from_vec(vec![1.0f32, 0.0, 0.0, 1.0], &[1, 1, 2, 2], &device)?);
/// let target = tape.variable(Tensor::from_vec(vec![2.0f32, 0.0, 0.0, 3.0], &[1, 1, 2, 2], &device)?);
/// let prototypes = ops::masked_average_pool(&source, &labels, 2)?;
/// let overlap = prototypes.present()?;
/// let loss = ops::contrastive_loss(&target, &labels, &prototypes, &overlap, 1.0)?;
/// let expected = (1.0 + (-1.0f64).exp()).ln(); // similarities 1 and 0
/// assert!((loss.value().item()? - expected).abs() < 1e-6);
/// let gradients = tape.backward(&loss)?;
/// assert!(gradients.get(&source).is_some() && gradients.get(&target).is_some());
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn contrastive_loss(
    features: &Var,
    labels: &Tensor,
    prototypes: &Prototypes,
    overlap: &Tensor,
    temperature: f64,
) -> Result<Var> {
    let extents = Extents::of(OP, features, prototypes)?;
    let [pairs, rows, columns] = labels.dims(OP)?;
    if pairs != extents.pairs || (extents.cells() == 0 && !labels.is_empty()) {
        let (labels, features) = (labels.shape(), features.value().shape());
        return Err(Error::shape(OP, format!("labels {labels:?} do not fit features {features:?}")));
    }
    overlap.expect_shape(&[pairs, extents.classes], OP, "the overlap")?;
    for mask in [labels, overlap] {
        features.value().expect_same_device(mask, OP)?;
        if mask.dtype() != DType::U8 {
            return Err(Error::DType { op: OP, got: mask.dtype(), want: "u8 for labels and overlap" });
        }
    }
    if labels.len() > i32::MAX as usize {
        return Err(Error::shape(OP, format!("labels {:?} exceed 2^31 - 1 elements", labels.shape())));
    }
    check_temperature(OP, temperature)?;
    let vectors = &prototypes.vectors;
    let tracked = features.is_tracked() || vectors.is_tracked();
    let problem = Problem { extents, rows, columns, temperature, tracked };
    let inputs = [features.value(), vectors.value(), &prototypes.counts, labels, overlap];
    let (loss, saved) = forward(inputs, problem)?;
    Var::record(OP, loss, [features, vectors], move |dloss, wanted| backward(&saved, &dloss, extents, wanted))
}

/// An error unless the temperature is a positive number.
pub(super) fn check_temperature(op: &'static str, temperature: f64) -> Result<()> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!("{op}: temperature {temperature} must be a positive number, such as 0.1")))
}

/// Of `[features, vectors, counts, labels, overlap]`.
fn forward(inputs: [&Tensor; 5], problem: Problem) -> Result<(Tensor, Saved)> {
    let [features, vectors, counts, labels, overlap] = inputs;
    if !features.device().is_cpu() {
        return with_float!(features.dtype(), OP, T => cuda::forward::<T>(inputs, problem));
    }
    if features.dtype() == DType::Bf16 {
        let features = features.to_dtype(DType::F32)?;
        let (loss, saved) = forward([&features, vectors, counts, labels, overlap], problem)?;
        return Ok((loss, Saved { features: inputs[0].clone(), ..saved }));
    }
    with_real!(features.dtype(), OP, T => cpu::forward::<T>(inputs, problem))
}

fn backward(saved: &Saved, dloss: &Tensor, extents: Extents, wanted: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
    let features = &saved.features;
    if !features.device().is_cpu() {
        return with_float!(features.dtype(), OP, T => cuda::backward::<T>(saved, dloss, extents, wanted));
    }
    if features.dtype() == DType::Bf16 {
        let wide = features.to_dtype(DType::F32)?;
        let [df, drho] = cpu::backward::<f32>(saved, &wide, dloss, extents, wanted)?;
        return Ok([df.map(|df| df.to_dtype(DType::Bf16)).transpose()?, drho]);
    }
    with_real!(features.dtype(), OP, T => cpu::backward::<T>(saved, features, dloss, extents, wanted))
}
