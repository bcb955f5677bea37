//! The terms composed of the single operations.

use super::{Contrast, ContrastSpec};
use crate::{
    Result, Tensor,
    autograd::Var,
    ops::{self, LabelPlaces, Prototypes, calibration::DomainPrototypes, label_places::EACH},
};

/// A domain's labels as the contrastive terms read them.
struct Labels {
    /// u8 [N,h k,w k], or of the images' size: those that a feature pixel answers for.
    pixels: Tensor,
    /// u8 [N,h,w]: those at the middle of each feature pixel, where labels are read in place.
    middles: Option<Tensor>,
}

impl Labels {
    fn new(labels: &Tensor, features: &Var, places: LabelPlaces) -> Result<Self> {
        let [_, h, w, _] = features.value().dims(super::OP)?;
        Ok(match places {
            LabelPlaces::Nearest => Self { pixels: labels.clone(), middles: None },
            LabelPlaces::Aligned => Self {
                pixels: ops::align_labels(labels, h, w, EACH)?,
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
        let [_, h, w, _] = features.value().dims(super::OP)?;
        match &self.middles {
            Some(middles) => Ok(middles.clone()),
            None => ops::resize_labels_nearest(&self.pixels, h, w),
        }
    }
}

pub(super) fn contrast(
    [source, target]: &[Var; 2],
    [source_labels, static_labels]: [&Tensor; 2],
    calibration: Option<&Tensor>,
    spec: &ContrastSpec,
) -> Result<Contrast> {
    let pool = |features: &Var, labels: &Labels| -> Result<Prototypes> {
        ops::masked_average_pool_scoped(features, &labels.cells(features)?, spec.classes, spec.scope)
    };
    let of_source = Labels::new(source_labels, source, spec.places)?;
    let mut of_target = Labels::new(static_labels, target, spec.places)?;
    let source_prototypes = pool(source, &of_source)?;
    let mut dynamic_labels = None;
    if let Some(threshold) = spec.transfer_threshold {
        let vectors = source_prototypes.vectors.value();
        let calibrated = calibration.map(|xi| ops::calibrate(xi, vectors)).transpose()?;
        let (vectors, present) = (calibrated.as_ref().unwrap_or(vectors), source_prototypes.present()?);
        let dynamic = ops::transfer_labels(target.value(), vectors, &present, spec.temperature, threshold)?;
        of_target = of_target.or(&dynamic)?;
        dynamic_labels = Some(dynamic);
    }
    let target_prototypes = pool(target, &of_target)?;
    let overlap = ops::class_overlap(&source_prototypes.counts, &target_prototypes.counts)?;
    let term = |weight: f64, features: &Var, labels: &Labels, prototypes: &Prototypes| -> Result<Option<Var>> {
        if weight == 0.0 {
            return Ok(None);
        }
        ops::contrastive_loss(features, &labels.pixels, prototypes, &overlap, spec.temperature).map(Some)
    };
    let forward = term(spec.forward_weight, target, &of_target, &source_prototypes)?;
    let backward = term(spec.backward_weight, source, &of_source, &target_prototypes)?;
    let weighted = [(&forward, spec.forward_weight), (&backward, spec.backward_weight)];
    let terms: Vec<(&Var, f64)> =
        weighted.iter().filter_map(|(term, weight)| Some((term.as_ref()?, *weight))).collect();
    let total = if terms.is_empty() { None } else { Some(ops::weighted_sum(&terms)?) };
    let [forward, backward] = [forward, backward].map(|term| term.map(|term| term.value().clone()));
    let prototypes = DomainPrototypes::new(&source_prototypes, &target_prototypes)?;
    Ok(Contrast { total, forward, backward, dynamic_labels, prototypes })
}
