//! The loss of a segmentation: cross entropy and entropy of bilinearly upsampled logits, fused. docs/method.md,
//! "Total loss".
//!
//! total = w_ce CE(up(x), labels) + w_H H(up(x)), where up resizes the logits to the labels' size with align_corners =
//! true, CE is the mean over the pixels whose label is not 255 (0 over none) and H the mean over all pixels.
//! One pass over the low-resolution logits computes both, and the gradient where it is wanted; no tensor of full
//! resolution is stored. With d_c = x_c - max, s = sum_c exp(d_c), p_c = exp(d_c) / s and u = sum_c p_c d_c, a pixel has
//!
//!   CE = ln s - d_label,  H = ln s - u,  dL/dx_c = p_c (a - b (d_c - u)) - a [c = label],
//!
//! with a = w_ce / labelled pixels (0 where the label is 255) and b = w_H / pixels. The pixel's gradient goes to the
//! four logits around it with the weights of the interpolation.

mod cpu;
pub(crate) mod cuda;
pub(crate) mod math;

use super::{
    DomainPair,
    composition::Composition,
    cross_entropy::{check_classes, count_labels},
    domain_pair::Halves,
    upsample_bilinear::Resize,
    weighted_sum,
};
use crate::{DType, Error, Result, Tensor, autograd::Var, with_float, with_real};

const OP: &str = "segmentation_loss";

/// The weights of the two terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentationWeights {
    /// Of the cross entropy.
    pub cross_entropy: f64,
    /// Of the entropy.
    pub entropy: f64,
}

/// What [`segmentation_loss`] computes; scalars of shape [], in the logits' dtype (f32 for bf16 logits).
pub struct SegmentationLoss {
    /// The weighted sum.
    pub total: Var,
    /// Mean cross entropy over the labelled pixels, unweighted.
    pub cross_entropy: Tensor,
    /// Mean entropy over all pixels in nats, unweighted.
    pub entropy: Tensor,
}

/// The weights, over the numbers of pixels that the means are taken over.
#[derive(Clone, Copy, Debug)]
struct Scales {
    cross_entropy: f64,
    entropy: f64,
}

/// Weighted cross entropy and entropy of logits `[N,h,w,C]` (f32, f64 or bf16), upsampled to the size of labels u8
/// `[N,H,W]`, where 255 is ignored. Where the logits are tracked, the same pass computes their gradient.
///
/// On the CPU a label that is neither below C nor 255 is an error; kernels leave such a pixel out of the cross
/// entropy like one labelled 255.
///
/// Errors: shapes that do not fit, more than 255 classes, a label out of range.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{self, SegmentationWeights}};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let logits = tape.variable(Tensor::zeros(&[1, 2, 2, 4], bicl::DType::F32, &device)?);
/// let labels = Tensor::from_vec(vec![1u8; 25], &[1, 5, 5], &device)?;
/// let weights = SegmentationWeights { cross_entropy: 1.0, entropy: 0.5 };
/// let loss = ops::segmentation_loss(&logits, &labels, weights)?;
/// assert!((loss.total.value().item()? - 1.5 * 4f64.ln()).abs() < 1e-6);
/// let gradients = tape.backward(&loss.total)?;
/// assert_eq!(gradients.get(&logits).map(|g| g.shape()), Some(&[1, 2, 2, 4][..]));
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn segmentation_loss(logits: &Var, labels: &Tensor, weights: SegmentationWeights) -> Result<SegmentationLoss> {
    let x = logits.value();
    let [images, _, _, classes] = x.dims(OP)?;
    let [_, height, width] = labels.dims(OP)?;
    check_classes(OP, classes)?;
    labels.expect_shape(&[images, height, width], OP, "labels")?;
    x.expect_same_device(labels, OP)?;
    let resize = Resize::new(OP, x, height, width)?;
    if !x.device().is_cpu() && !labels.is_empty() {
        let logits = &DomainPair::Together(logits.clone());
        let losses = on_kernels(logits, &Halves::one(labels), &resize, &[weights], None)?;
        let [means] = <[[Tensor; 2]; 1]>::try_from(losses.means).map_err(|_| no_means())?;
        let [cross_entropy, entropy] = means;
        return Ok(SegmentationLoss { total: losses.total, cross_entropy, entropy });
    }
    let outcome = on_cpu(x, labels, &resize, weights, logits.is_tracked())?;
    let gradient = outcome.gradient;
    let total = Var::record(OP, outcome.total, [logits], move |seed, _| {
        let gradient = gradient.ok_or_else(no_gradient)?;
        Ok([Some(scale(gradient, &seed)?)])
    })?;
    Ok(SegmentationLoss { total, cross_entropy: outcome.cross_entropy, entropy: outcome.entropy })
}

/// What [`segmentation_losses`] computes; scalars of shape [], in the logits' dtype (f32 for bf16 logits).
pub struct SegmentationLosses {
    /// The weighted sum of all.
    pub total: Var,
    /// Mean cross entropies of source and target, unweighted.
    pub cross_entropy: [Tensor; 2],
    /// Mean entropies of source and target in nats, unweighted.
    pub entropy: [Tensor; 2],
}

/// [`segmentation_loss`] of source and target, each with its labels and weights, and the sum of both totals and of the scalar
/// `plus`, as one operation. Kernels take both domains in the same launches; the CPU composes it of [`segmentation_loss`] and
/// [`weighted_sum`](fn@super::weighted_sum).
///
/// Errors: as [`segmentation_loss`]; domains that differ in shape or dtype; a `plus` of another dtype or shape than [].
pub fn segmentation_losses(
    logits: &DomainPair,
    labels: [&Tensor; 2],
    weights: [SegmentationWeights; 2],
    plus: Option<&Var>,
) -> Result<SegmentationLosses> {
    let shape @ [images, _, _, classes] = logits.dims(OP)?;
    let x = logits.vars()[0].value();
    let [_, height, width] = labels[0].dims(OP)?;
    if x.device().is_cpu() || labels[0].is_empty() {
        let composition = Composition::new(OP, logits.vars().iter().chain(plus))?;
        let (of_domains, plus) = composition.vars().split_at(logits.vars().len());
        let [source, target] = logits.with(of_domains)?.parts()?;
        let source = segmentation_loss(&source, labels[0], weights[0])?;
        let target = segmentation_loss(&target, labels[1], weights[1])?;
        let terms = [&source.total, &target.total].into_iter().chain(plus);
        let total = weighted_sum(&terms.map(|term| (term, 1.0)).collect::<Vec<_>>())?;
        let total = composition.record(OP, total)?;
        let cross_entropy = [source.cross_entropy, target.cross_entropy];
        return Ok(SegmentationLosses { total, cross_entropy, entropy: [source.entropy, target.entropy] });
    }
    check_classes(OP, classes)?;
    for labels in labels {
        labels.expect_shape(&[images, height, width], OP, "labels")?;
        x.expect_same_device(labels, OP)?;
    }
    if let Some(plus) = plus {
        plus.value().expect_shape(&[], OP, "the scalar to add")?;
    }
    let resize = Resize::of(OP, shape, height, width)?;
    let Losses { total, means } = on_kernels(logits, &Halves::two(labels), &resize, &weights, plus)?;
    let [source, target] = <[[Tensor; 2]; 2]>::try_from(means).map_err(|_| no_means())?;
    let ([source_ce, source_entropy], [target_ce, target_entropy]) = (source, target);
    Ok(SegmentationLosses { total, cross_entropy: [source_ce, target_ce], entropy: [source_entropy, target_entropy] })
}

/// What kernels compute.
struct Losses {
    total: Var,
    /// Cross entropy and entropy of each domain.
    means: Vec<[Tensor; 2]>,
}

/// Of one domain for each of `weights`, whose logits and labels have the shapes of `resize`.
fn on_kernels(
    logits: &DomainPair,
    labels: &Halves,
    resize: &Resize,
    weights: &[SegmentationWeights],
    plus: Option<&Var>,
) -> Result<Losses> {
    let (x, elements) = (logits.halves(), resize.input_shape().iter().product());
    let dtype = x.first.dtype();
    let (added, tracked) = (plus.map(Var::value), logits.vars().iter().any(Var::is_tracked));
    let inputs = cuda::Inputs { logits: &x, labels, resize, weights, plus: added, tracked };
    let cuda::Outputs { total, means, parts } = with_float!(dtype, OP, T => cuda::forward::<T>(&inputs))?;
    let parents: Vec<&Var> = logits.vars().iter().chain(plus).collect();
    let with_plus = plus.is_some();
    let total = Var::record_many(OP, total, &parents, move |seed, _| {
        let mut gradients = match parts {
            Some(parts) => {
                let mut dx = x.empty_like()?;
                with_float!(dtype, OP, T => cuda::backward::<T>(&parts, elements, &seed, &mut dx))?;
                dx.into_gradients()
            }
            None => vec![None; if x.second.is_some() { 2 } else { 1 }],
        };
        gradients.extend(with_plus.then_some(Some(seed)));
        Ok(gradients)
    })?;
    Ok(Losses { total, means })
}

fn no_means() -> Error {
    Error::Internal(format!("{OP}: a domain's means are missing"))
}

fn no_gradient() -> Error {
    Error::Internal(format!("{OP}: no gradient was computed"))
}

struct Outcome {
    total: Tensor,
    cross_entropy: Tensor,
    entropy: Tensor,
    gradient: Option<Tensor>,
}

fn on_cpu(
    x: &Tensor,
    labels: &Tensor,
    resize: &Resize,
    weights: SegmentationWeights,
    tracked: bool,
) -> Result<Outcome> {
    if x.dtype() == DType::Bf16 {
        let outcome = on_cpu(&x.to_dtype(DType::F32)?, labels, resize, weights, tracked)?;
        let gradient = outcome.gradient.map(|gradient| gradient.to_dtype(DType::Bf16)).transpose()?;
        return Ok(Outcome { gradient, ..outcome });
    }
    let labelled = count_labels(OP, labels, resize.channels)?.max(1) as f64;
    let pixels = labels.len().max(1) as f64;
    let scales = Scales { cross_entropy: weights.cross_entropy / labelled, entropy: weights.entropy / pixels };
    let sums = with_real!(x.dtype(), OP, T => cpu::loss::<T>(x, labels, resize, scales, tracked))?;
    let (cross_entropy, entropy) = (sums.cross_entropy / labelled, sums.entropy / pixels);
    let total = weights.cross_entropy * cross_entropy + weights.entropy * entropy;
    let scalar = |value| Tensor::full(&[], value, x.dtype(), x.device());
    Ok(Outcome {
        total: scalar(total)?,
        cross_entropy: scalar(cross_entropy)?,
        entropy: scalar(entropy)?,
        gradient: sums.gradient,
    })
}

/// gradient * seed, the seed a scalar.
fn scale(mut gradient: Tensor, seed: &Tensor) -> Result<Tensor> {
    let factor = seed.item()?;
    if factor == 1.0 {
        return Ok(gradient);
    }
    if gradient.dtype() == DType::Bf16 {
        return scale(gradient.to_dtype(DType::F32)?, seed)?.to_dtype(DType::Bf16);
    }
    with_real!(gradient.dtype(), OP, T => {
        let factor = <T as crate::tensor::Real>::of(factor);
        gradient.as_mut_slice::<T>()?.iter_mut().for_each(|g| *g *= factor);
        Ok(gradient)
    })
}
