//! The pixel-prototype contrastive loss (docs/method.md, "The two contrastive terms"): [`bidirectional_contrast`] is both terms of a
//! step with the prototypes, calibration, label transfer, hybrid labels and overlap that they are made of; [`contrastive_loss`]
//! is one term, the reference.
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

use super::{
    DomainPair, LabelSampling, PrototypeScope, Prototypes,
    calibration::DomainPrototypes,
    cosine::{Extents, check_temperature},
};
use crate::{DType, Error, Result, Tensor, autograd::Var, with_float};

/// The name of one term, and of both, in errors.
const OP: &str = "contrastive_loss";
const BOTH: &str = "bidirectional_contrast";

/// The settings of [`bidirectional_contrast`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastSpec {
    /// C.
    pub classes: usize,
    /// Weight of the forward term: target pixels against source prototypes.
    pub forward_weight: f64,
    /// Weight of the backward term: source pixels against target prototypes.
    pub backward_weight: f64,
    /// Temperature tau of the similarities.
    pub temperature: f64,
    /// Probability above which the target gets a label by transfer where it has none; `None` for no such labels.
    pub transfer_threshold: Option<f64>,
    /// Over which images a prototype is averaged.
    pub scope: PrototypeScope,
    /// Where the label of a feature pixel is read.
    pub sampling: LabelSampling,
}

/// The result of [`bidirectional_contrast`]; scalars of shape [], in the prototypes' dtype.
pub struct Contrast {
    /// The weighted sum of the terms; `None` where both weights are 0.
    pub total: Option<Var>,
    /// The forward term, unweighted; `None` where its weight is 0.
    pub forward: Option<Tensor>,
    /// The backward term, unweighted; `None` where its weight is 0.
    pub backward: Option<Tensor>,
    /// The labels by transfer, u8 `[N,h,w]`.
    pub dynamic_labels: Option<Tensor>,
    /// What moves the calibration.
    pub prototypes: DomainPrototypes,
}

/// Both terms for features `[N,h,w,d]` of source and target, whose image n is a pair, with labels u8 `[N,H,W]` of each at any
/// resolution. `calibration` is xi `[C,d]`, which the transfer adds to the source's prototypes. Gradients reach the features,
/// through pixels and prototypes; none passes through labels.
///
/// One operation on every tape. The CPU composes it of the single operations, whose pages have the equations. Kernels take both
/// domains in one launch wherever neither needs the other's result, and make no label map that is read only once.
///
/// Errors: shapes, dtypes or devices that do not fit; classes outside 1..=255; a temperature that is not a positive number.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{self, ContrastSpec, DomainPair, LabelSampling, PrototypeScope}};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let map = |data: [f32; 4]| Tensor::from_vec(data.to_vec(), &[1, 1, 2, 2], &device);
/// let [source, target] = [map([1.0, 0.0, 0.0, 1.0])?, map([2.0, 0.0, 0.0, 3.0])?].map(|map| tape.variable(map));
/// let known = Tensor::from_vec(vec![0u8, 1], &[1, 1, 2], &device)?;
/// let partly = Tensor::from_vec(vec![0u8, 255], &[1, 1, 2], &device)?;
/// let spec = ContrastSpec {
///     classes: 2,
///     forward_weight: 0.1,
///     backward_weight: 0.1,
///     temperature: 1.0,
///     transfer_threshold: Some(0.5),
///     scope: PrototypeScope::Pair,
///     sampling: LabelSampling::Nearest,
/// };
/// let features = DomainPair::Apart([source.clone(), target]);
/// let contrast = ops::bidirectional_contrast(&features, [&known, &partly], None, &spec)?;
/// assert_eq!(contrast.dynamic_labels.expect("transfer is on").to_vec::<u8>()?, [0, 1]);
/// let expected = (1.0 + (-1.0f64).exp()).ln(); // similarities 1 and 0, either way
/// assert!((contrast.forward.expect("its weight is not 0").item()? - expected).abs() < 1e-6);
/// let total = contrast.total.expect("a weight is not 0");
/// assert!(tape.backward(&total)?.get(&source).is_some());
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn bidirectional_contrast(
    features: &DomainPair,
    labels: [&Tensor; 2],
    calibration: Option<&Tensor>,
    spec: &ContrastSpec,
) -> Result<Contrast> {
    let [pairs, height, width, depth] = features.dims(BOTH)?;
    let first = features.vars()[0].value();
    let [_, rows, columns] = labels[0].dims(BOTH)?;
    for labels in labels {
        labels.expect_shape(&[pairs, rows, columns], BOTH, "the labels")?;
        first.expect_same_device(labels, BOTH)?;
        if labels.dtype() != DType::U8 {
            return Err(Error::DType { op: BOTH, got: labels.dtype(), want: "u8 for the labels" });
        }
    }
    if first.is_empty() || labels[0].is_empty() {
        let (features, labels) = (first.shape(), labels[0].shape());
        return Err(Error::shape(BOTH, format!("features {features:?} or labels {labels:?} are empty")));
    }
    let classes = spec.classes;
    if classes == 0 || classes > 255 {
        return Err(Error::shape(BOTH, format!("{classes} classes; there must be 1 to 255")));
    }
    // Kernels index both domains with 31 bits.
    let count = [2, pairs, height, width, depth.max(classes)].iter().try_fold(1usize, |n, &m| n.checked_mul(m));
    if count.is_none_or(|count| count > i32::MAX as usize) || 2 * labels[0].len() > i32::MAX as usize {
        let (features, labels) = (first.shape(), labels[0].shape());
        return Err(Error::shape(
            BOTH,
            format!("features {features:?} and labels {labels:?} exceed 2^31 - 1 elements"),
        ));
    }
    check_temperature(BOTH, spec.temperature)?;
    if let Some(xi) = calibration {
        xi.expect_shape(&[classes, depth], BOTH, "the calibration")?;
        first.expect_same_device(xi, BOTH)?;
        if xi.dtype() != first.dtype().accumulator() {
            return Err(Error::DType { op: BOTH, got: xi.dtype(), want: "the prototypes' type for the calibration" });
        }
    }
    if first.device().is_cpu() {
        return cpu::both(features, labels, calibration, spec);
    }
    with_float!(first.dtype(), BOTH, T => cuda::both::<T>(features, labels, calibration, spec))
}

/// Reference: one of the terms of [`bidirectional_contrast`]. The loss, of shape `[]`, of features `[N,h,w,d]` of one domain against
/// the prototypes of the other.
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
    let term = Term { extents, rows, columns, temperature, tracked };
    let inputs = [features.value(), vectors.value(), &prototypes.counts, labels, overlap];
    let (loss, saved) = forward(inputs, term)?;
    Var::record(OP, loss, [features, vectors], move |dloss, wanted| backward(&saved, &dloss, extents, wanted))
}

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
struct Term {
    extents: Extents,
    /// Rows H and columns W of the labels.
    rows: usize,
    columns: usize,
    temperature: f64,
    /// Whether a backward pass may follow.
    tracked: bool,
}

/// Of `[features, vectors, counts, labels, overlap]`.
fn forward(inputs: [&Tensor; 5], term: Term) -> Result<(Tensor, Saved)> {
    let [features, vectors, counts, labels, overlap] = inputs;
    dispatch!(features, OP, T => {
        kernels => cuda::forward::<T>(inputs, term),
        bf16 => {
            let features = features.to_dtype(DType::F32)?;
            let (loss, saved) = forward([&features, vectors, counts, labels, overlap], term)?;
            Ok((loss, Saved { features: inputs[0].clone(), ..saved }))
        },
        cpu => cpu::forward::<T>(inputs, term),
    })
}

fn backward(saved: &Saved, dloss: &Tensor, extents: Extents, wanted: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
    let features = &saved.features;
    dispatch!(features, OP, T => {
        kernels => cuda::backward::<T>(saved, dloss, extents, wanted),
        bf16 => {
            let wide = features.to_dtype(DType::F32)?;
            let [df, drho] = cpu::backward::<f32>(saved, &wide, dloss, extents, wanted)?;
            Ok([df.map(|df| df.to_dtype(DType::Bf16)).transpose()?, drho])
        },
        cpu => cpu::backward::<T>(saved, features, dloss, extents, wanted),
    })
}
