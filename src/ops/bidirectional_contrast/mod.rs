//! Both contrastive terms of a step of adaptation, and all that they are made of: prototypes of both domains, their
//! calibration, label transfer, hybrid labels, overlap (docs/method.md, "Prototypes" to "Hybrid pseudo labels").
//!
//! The CPU composes it of the single operations (`composed.rs`), whose pages have the equations. Kernels take both domains in
//! one launch wherever neither needs the other's result (`fused.rs`), and no label map is made that is read only once.

mod composed;
mod fused;

use super::{DomainPair, LabelPlaces, PrototypeScope, calibration::DomainPrototypes};
use crate::{DType, Error, Result, Tensor, autograd::Var, with_float};

const OP: &str = "bidirectional_contrast";

/// What is computed.
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
    /// Where labels are read.
    pub places: LabelPlaces,
}

/// What [`bidirectional_contrast`] computes; scalars of shape [], in the prototypes' dtype.
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
/// Errors: shapes, dtypes or devices that do not fit; classes outside 1..=255; a temperature that is not a positive number.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{self, ContrastSpec, DomainPair, LabelPlaces, PrototypeScope}};
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
///     places: LabelPlaces::Nearest,
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
    let [pairs, height, width, depth] = features.dims(OP)?;
    let first = features.vars()[0].value();
    let [_, rows, columns] = labels[0].dims(OP)?;
    for labels in labels {
        labels.expect_shape(&[pairs, rows, columns], OP, "the labels")?;
        first.expect_same_device(labels, OP)?;
        if labels.dtype() != DType::U8 {
            return Err(Error::DType { op: OP, got: labels.dtype(), want: "u8 for the labels" });
        }
    }
    if first.is_empty() || labels[0].is_empty() {
        let (features, labels) = (first.shape(), labels[0].shape());
        return Err(Error::shape(OP, format!("features {features:?} or labels {labels:?} are empty")));
    }
    let classes = spec.classes;
    if classes == 0 || classes > 255 {
        return Err(Error::shape(OP, format!("{classes} classes; there must be 1 to 255")));
    }
    // Kernels index both domains with 31 bits.
    let count = [2, pairs, height, width, depth.max(classes)].iter().try_fold(1usize, |n, &m| n.checked_mul(m));
    if count.is_none_or(|count| count > i32::MAX as usize) || 2 * labels[0].len() > i32::MAX as usize {
        let (features, labels) = (first.shape(), labels[0].shape());
        return Err(Error::shape(OP, format!("features {features:?} and labels {labels:?} exceed 2^31 - 1 elements")));
    }
    super::contrastive_loss::check_temperature(OP, spec.temperature)?;
    if let Some(xi) = calibration {
        xi.expect_shape(&[classes, depth], OP, "the calibration")?;
        first.expect_same_device(xi, OP)?;
        if xi.dtype() != first.dtype().accumulator() {
            return Err(Error::DType { op: OP, got: xi.dtype(), want: "the prototypes' type for the calibration" });
        }
    }
    if first.device().is_cpu() {
        return composed::contrast(&features.parts()?, labels, calibration, spec);
    }
    with_float!(first.dtype(), OP, T => fused::contrast::<T>(features, labels, calibration, spec))
}
