//! The losses of a step. METHOD.md, "Total loss":
//!
//! L = CE(pred_S, y_S) + 0.3 CE(pred_T, y_F) + 0.4 (H(pred_S) + 0.3 H(pred_T)) + l1 FCL + l2 BCL

use super::{LabelPlaces, MethodConfig};
use crate::{
    Result, Tensor,
    autograd::Var,
    models::Output,
    ops::{self, Prototypes, SegmentationWeights},
};

/// The terms of a step's loss by name, unweighted, for the log.
pub type LossParts = Vec<(&'static str, Tensor)>;

/// What an adaptation step computes.
pub struct AdaptationStep {
    /// The scalar to descend.
    pub loss: Var,
    /// Its terms.
    pub parts: LossParts,
    /// The calibration after this step: xi [C,d].
    pub calibration: Option<Tensor>,
}

/// Cross entropy of labelled images alone: the warm-up.
pub fn source_loss(output: &Output, labels: &Tensor) -> Result<(Var, LossParts)> {
    let weights = SegmentationWeights { cross_entropy: 1.0, entropy: 0.0 };
    let loss = ops::segmentation_loss(&output.logits, labels, weights)?;
    Ok((loss.total, vec![("source_ce", loss.cross_entropy)]))
}

/// The total loss of a batch of source-target pairs.
///
/// `source_labels` and `static_labels` are u8 [N,H,W]; `calibration` is xi [C,d], zero at the start.
pub fn adaptation_step(
    method: &MethodConfig,
    source: &Output,
    source_labels: &Tensor,
    target: &Output,
    static_labels: &Tensor,
    calibration: &Tensor,
) -> Result<AdaptationStep> {
    let contrast = match method.needs_prototypes() {
        true => Some(contrast(method, source, source_labels, target, static_labels, calibration)?),
        false => None,
    };
    let hybrid = contrast.as_ref().filter(|_| method.hybrid_ce).map(|contrast| &contrast.target_labels);
    let target_labels = hybrid.unwrap_or(static_labels);

    let on_source = SegmentationWeights { cross_entropy: 1.0, entropy: method.entropy_weight };
    let on_target = SegmentationWeights {
        cross_entropy: method.target_weight,
        entropy: method.entropy_weight * method.target_weight,
    };
    let source_loss = ops::segmentation_loss(&source.logits, source_labels, on_source)?;
    let target_loss = ops::segmentation_loss(&target.logits, target_labels, on_target)?;
    let mut terms = vec![(&source_loss.total, 1.0), (&target_loss.total, 1.0)];
    let mut parts = vec![
        ("source_ce", source_loss.cross_entropy.clone()),
        ("target_ce", target_loss.cross_entropy.clone()),
        ("source_entropy", source_loss.entropy.clone()),
        ("target_entropy", target_loss.entropy.clone()),
    ];
    if let Some(contrast) = &contrast {
        if let Some(forward) = &contrast.forward {
            terms.push((forward, method.forward_weight));
            parts.push(("forward_contrast", forward.value().clone()));
        }
        if let Some(backward) = &contrast.backward {
            terms.push((backward, method.backward_weight));
            parts.push(("backward_contrast", backward.value().clone()));
        }
    }
    let loss = ops::weighted_sum(&terms)?;
    parts.insert(0, ("loss", loss.value().clone()));
    Ok(AdaptationStep { loss, parts, calibration: contrast.and_then(|contrast| contrast.calibration) })
}

struct Contrast {
    forward: Option<Var>,
    backward: Option<Var>,
    /// Hybrid labels, u8 [N,H,W].
    target_labels: Tensor,
    calibration: Option<Tensor>,
}

/// A domain's labels as the contrastive terms read them.
struct Labels {
    /// u8 [N,h k,w k], or of the images' size: those that a feature pixel answers for.
    pixels: Tensor,
    /// u8 [N,h,w]: those at the middle of each feature pixel, where labels are read in place.
    middles: Option<Tensor>,
}

impl Labels {
    /// Places of a label along each side of a feature pixel: as many as the images have pixels there.
    const EACH: usize = 8;

    fn new(labels: &Tensor, features: &Var, places: LabelPlaces) -> Result<Self> {
        let [_, h, w, _] = features.value().dims("contrast")?;
        Ok(match places {
            LabelPlaces::Nearest => Self { pixels: labels.clone(), middles: None },
            LabelPlaces::Aligned => Self {
                pixels: ops::align_labels(labels, h, w, Self::EACH)?,
                middles: Some(ops::align_labels(labels, h, w, 1)?),
            },
        })
    }

    /// With `dynamic` u8 [N,h,w] where there is none.
    fn or(&self, dynamic: &Tensor) -> Result<Self> {
        let hybrid = |labels: &Tensor| ops::hybrid_labels(labels, dynamic);
        Ok(Self { pixels: hybrid(&self.pixels)?, middles: self.middles.as_ref().map(hybrid).transpose()? })
    }

    /// One for each feature pixel, u8 [N,h,w].
    fn cells(&self, features: &Var) -> Result<Tensor> {
        let [_, h, w, _] = features.value().dims("contrast")?;
        match &self.middles {
            Some(middles) => Ok(middles.clone()),
            None => ops::resize_labels_nearest(&self.pixels, h, w),
        }
    }
}

fn contrast(
    method: &MethodConfig,
    source: &Output,
    source_labels: &Tensor,
    target: &Output,
    static_labels: &Tensor,
    calibration: &Tensor,
) -> Result<Contrast> {
    let (classes, places) = (source.logits.value().dims::<4>("contrast")?[3], method.label_places);
    let pool = |features: &Var, labels: &Labels| -> Result<Prototypes> {
        ops::masked_average_pool_scoped(features, &labels.cells(features)?, classes, method.prototype_scope.into())
    };
    let of_source = Labels::new(source_labels, &source.features, places)?;
    let mut of_target = Labels::new(static_labels, &target.features, places)?;
    let mut target_labels = static_labels.clone();
    let source_prototypes = pool(&source.features, &of_source)?;
    if method.dynamic_labels {
        let prototypes = source_prototypes.vectors.value();
        let calibrated = if method.calibration { &ops::calibrate(calibration, prototypes)? } else { prototypes };
        let dynamic = ops::transfer_labels(
            target.features.value(),
            calibrated,
            &source_prototypes.present()?,
            method.temperature,
            method.transfer_threshold,
        )?;
        of_target = of_target.or(&dynamic)?;
        if method.hybrid_ce {
            target_labels = match places {
                LabelPlaces::Nearest => of_target.pixels.clone(),
                LabelPlaces::Aligned => ops::hybrid_labels(static_labels, &dynamic)?,
            };
        }
    }
    let target_prototypes = pool(&target.features, &of_target)?;
    let overlap = ops::class_overlap(&source_prototypes.counts, &target_prototypes.counts)?;
    let term = |weight: f64, features: &Var, labels: &Labels, prototypes: &Prototypes| -> Result<Option<Var>> {
        if weight == 0.0 {
            return Ok(None);
        }
        ops::contrastive_loss(features, &labels.pixels, prototypes, &overlap, method.temperature).map(Some)
    };
    let forward = term(method.forward_weight, &target.features, &of_target, &source_prototypes)?;
    let backward = term(method.backward_weight, &source.features, &of_source, &target_prototypes)?;
    let calibration = match method.dynamic_labels && method.calibration {
        true => {
            let mut moved = calibration.duplicate()?;
            ops::update_calibration(
                &mut moved,
                source_prototypes.vectors.value(),
                &source_prototypes.counts,
                target_prototypes.vectors.value(),
                &target_prototypes.counts,
                method.calibration_momentum,
            )?;
            Some(moved)
        }
        false => None,
    };
    Ok(Contrast { forward, backward, target_labels, calibration })
}
