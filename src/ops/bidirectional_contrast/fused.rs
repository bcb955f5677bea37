//! The terms on kernels, in as few launches as their data need. Forward, with what each waits for:
//!
//! ```text
//! pool_partial, pool_finish           of the source: prototypes, their norms, calibrated ones   (sums over all pixels)
//! transfer_tiles                      the target's dynamic labels                               (source's prototypes)
//! pool_partial, pool_finish           of the target, and the classes that both have             (dynamic labels)
//! contrastive_tiles                   both directions: pixels' similarities, losses, gradients  (prototypes, overlap)
//! contrastive_finish                  losses and their scales                                   (sums over all pixels)
//! ```
//!
//! Backward: `cosine_vectors` and `cosine_vectors_finish` give the gradients of all prototypes (sums over all pixels), then
//! `cosine_features` those of all features, as pixels and through their own prototypes.

use super::{Contrast, ContrastSpec, OP};
use crate::{
    DType, Result, Tensor,
    autograd::Var,
    ops::{
        DomainPair,
        calibration::DomainPrototypes,
        contrastive_loss::cuda::{Directions, Losses, SavedCosines},
        cosine::{
            Extents,
            cuda::{DeviceGradients, PooledFrom},
        },
        domain_pair::Halves,
        label_places::DeviceLabelPlaces,
        masked_average_pool::{
            Pools,
            cuda::{Pooled, Pooling, pool},
        },
        transfer_labels::cuda::{TransferFrom, transfer},
    },
    tensor::Element,
};

/// The prototypes of both domains and where the labels of their pixels came from; kept for the backward pass.
struct State {
    extents: Extents,
    features: Halves,
    labels: Halves,
    places: DeviceLabelPlaces,
    pools: Pools,
    dynamic: Option<Tensor>,
    /// [2,N,C,d].
    vectors: Tensor,
    /// 1 / max(|rho|, 1e-12) [2,N,C].
    inverse: Tensor,
    /// u32 [2,N,C].
    counts: Tensor,
    /// u8 [N,C]: 1 where both domains have the class.
    overlap: Tensor,
}

pub(super) fn contrast<T: Element>(
    features: &DomainPair,
    labels: [&Tensor; 2],
    calibration: Option<&Tensor>,
    spec: &ContrastSpec,
) -> Result<Contrast> {
    let state = State::new::<T>(features, labels, calibration, spec)?;
    let prototypes = DomainPrototypes::of_both(&state.vectors, &state.counts);
    let dynamic_labels = state.dynamic.clone();
    // By the domain of the pixels: the source's are those of the backward term.
    let weights = [spec.backward_weight, spec.forward_weight];
    if weights == [0.0; 2] {
        return Ok(Contrast { total: None, forward: None, backward: None, dynamic_labels, prototypes });
    }
    let Losses { total, each, saved } = state.losses::<T>(spec.temperature, weights)?;
    let [backward, forward] = each.map_or([None, None], |each| each.map(Some));
    let parents: Vec<&Var> = features.vars().iter().collect();
    let total = Var::record_many(OP, total, &parents, move |dloss, _| {
        Ok(state.gradients::<T>(&saved, &dloss)?.into_gradients())
    })?;
    Ok(Contrast {
        total: Some(total),
        forward: forward.filter(|_| spec.forward_weight != 0.0),
        backward: backward.filter(|_| spec.backward_weight != 0.0),
        dynamic_labels,
        prototypes,
    })
}

impl State {
    /// All that precedes the losses.
    fn new<T: Element>(
        features: &DomainPair,
        labels: [&Tensor; 2],
        calibration: Option<&Tensor>,
        spec: &ContrastSpec,
    ) -> Result<Self> {
        let shape @ [pairs, height, width, depth] = features.dims(OP)?;
        let [_, rows, columns] = labels[0].dims(OP)?;
        let (features, classes) = (features.halves(), spec.classes);
        let (device, dtype) = (features.first.device(), T::Accumulator::DTYPE);
        let extents = Extents { pairs, height, width, depth, classes };
        let pools = Pools::new(shape, classes, spec.scope);
        let places = spec.places.for_device([rows, columns], [height, width]);
        let mut vectors = Tensor::empty(&[2, pairs, classes, depth], dtype, device)?;
        let mut inverse = Tensor::empty(&[2, pairs, classes], dtype, device)?;
        let mut counts = Tensor::empty(&[2, pairs, classes], DType::U32, device)?;
        let mut present = Tensor::empty(&[pairs, classes], DType::U8, device)?;
        let mut overlap = present.empty_like()?;

        let calibration = calibration.filter(|_| spec.transfer_threshold.is_some());
        let room = |xi| -> Result<_> {
            let calibrated = Tensor::empty(&[pairs, classes, depth], dtype, device)?;
            Ok((xi, calibrated, Tensor::empty(&[pairs, classes], dtype, device)?))
        };
        let mut calibrated: Option<(&Tensor, Tensor, Tensor)> = calibration.map(room).transpose()?;
        let (source, dynamic) = (&features.first, None);
        let from = Pooling { features: source, skip: 0, labels: labels[0], dynamic, places, domain: 0, pools };
        let to = Pooled {
            vectors: &mut vectors,
            counts: &mut counts,
            inverse: Some(&mut inverse),
            shared: Some(&mut present),
            calibrated: calibrated.as_mut().map(|(xi, calibrated, inverse)| (*xi, calibrated, inverse)),
        };
        pool::<T>(&from, to)?;

        let (target, skip) = features.target(pairs);
        let mut dynamic = None;
        if let Some(threshold) = spec.transfer_threshold {
            // Without calibration the source's prototypes themselves, which stand first in both tensors.
            let (prototypes, inverse) =
                calibrated.as_ref().map_or((&vectors, &inverse), |(_, prototypes, inverse)| (prototypes, inverse));
            let from = TransferFrom { prototypes, inverse, present: &present };
            dynamic = Some(transfer::<T>(target, skip, &from, extents, [spec.temperature, threshold])?);
        }

        let (labels, dynamic_labels) = (Halves::two(labels), dynamic.as_ref());
        let (of_target, _) = labels.target(pairs);
        let from =
            Pooling { features: target, skip, labels: of_target, dynamic: dynamic_labels, places, domain: 1, pools };
        let to = Pooled {
            vectors: &mut vectors,
            counts: &mut counts,
            inverse: Some(&mut inverse),
            shared: Some(&mut overlap),
            calibrated: None,
        };
        pool::<T>(&from, to)?;
        Ok(Self { extents, features, labels, places, pools, dynamic, vectors, inverse, counts, overlap })
    }

    fn losses<T: Element>(&self, temperature: f64, weights: [f64; 2]) -> Result<Losses> {
        let directions = Directions {
            extents: self.extents,
            count: 2,
            features: &self.features,
            labels: &self.labels,
            dynamic: self.dynamic.as_ref(),
            places: self.places,
            vectors: &self.vectors,
            vector_inverse: &self.inverse,
            counts: &self.counts,
            overlap: &self.overlap,
            temperature,
            weights,
        };
        directions.forward::<T>()
    }

    /// Of the features.
    fn gradients<T: Element>(&self, saved: &SavedCosines, dloss: &Tensor) -> Result<Halves> {
        let gradients = DeviceGradients {
            extents: self.extents,
            directions: 2,
            features: &self.features,
            vectors: &self.vectors,
            vector_inverse: &self.inverse,
            inverse: &saved.inverse,
            g: &saved.g,
            a: &saved.a,
            scale: Some((&saved.scale, dloss)),
        };
        let drho = gradients.vectors::<T>(OP)?;
        let pooled = PooledFrom {
            counts: &self.counts,
            labels: &self.labels,
            dynamic: self.dynamic.as_ref(),
            places: self.places,
            copies: self.pools.copies,
        };
        gradients.features::<T>(OP, Some((&drho, &pooled)))
    }
}
