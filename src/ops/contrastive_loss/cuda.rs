//! Launches of `kernels/contrastive_loss.cu`, and both terms in as few launches as their data need. Forward, with what each waits
//! for:
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

use half::bf16;

use super::{BOTH, Contrast, ContrastSpec, OP, Saved, Term};
use crate::{
    DType, Result, Tensor,
    autograd::Var,
    device::Launch,
    kernels,
    ops::{
        DomainPair,
        calibration::DomainPrototypes,
        cosine::{
            Extents,
            cuda::{DeviceGradients, PooledFrom, row_norms, tile_launch, tiles},
        },
        domain_pair::Halves,
        label_sampling::{DeviceLabelSampling, LabelSampling},
        masked_average_pool::{
            Pools,
            cuda::{Pooled, Pooling, pool},
        },
        transfer_labels::cuda::{TransferFrom, transfer},
    },
    tensor::{Element, In, OptIn, OptOut, Out, Val},
};

/// As `LossProblem` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct LossProblem {
    directions: i32,
    pairs: i32,
    depth: i32,
    classes: i32,
    sampling: DeviceLabelSampling,
    temperature: f32,
    temperature_f64: f64,
    weights: [f64; 2],
}

kernels! { "contrastive_loss";
    /// Similarities, their gradients, and sums, by tiles of 64 pixels.
    fn contrastive_tiles<T in f32 | f64 | bf16>(
        features: In<T>, other_features: OptIn<T>, vectors: In<T::Accumulator>, vector_inverse: In<T::Accumulator>,
        counts: In<u32>, labels: In<u8>, other_labels: OptIn<u8>, dynamic: OptIn<u8>, overlap: In<u8>,
        inverse: Out<T::Accumulator>, g: Out<T::Accumulator>, a: Out<T::Accumulator>, tile_loss: Out<T::Accumulator>,
        tile_mass: Out<u32>, term: Val<LossProblem>);
    /// The loss and the scales from the tiles' sums.
    fn contrastive_finish<T in f32 | f64>(
        tile_loss: In<T>, tile_mass: In<u32>, total: Out<T>, of_first: OptOut<T>, of_second: OptOut<T>, scale: Out<T>,
        term: Val<LossProblem>);
}

/// The pixels of one domain or of both, and the prototypes that they are held against: of the same domain where there is
/// one, of the other where there are two.
struct Directions<'a> {
    pub extents: Extents,
    /// 1 or 2.
    pub count: usize,
    pub features: &'a Halves,
    pub labels: &'a Halves,
    /// u8 [N,h,w], for the second domain where its labels have none.
    pub dynamic: Option<&'a Tensor>,
    pub sampling: DeviceLabelSampling,
    /// [D,N,C,d].
    pub vectors: &'a Tensor,
    /// Their inverse norms [D,N,C].
    pub vector_inverse: &'a Tensor,
    /// u32 [D,N,C].
    pub counts: &'a Tensor,
    /// u8 [N,C].
    pub overlap: &'a Tensor,
    pub temperature: f64,
    /// Of the directions, in the total.
    pub weights: [f64; 2],
}

/// What [`Directions::forward`] computes.
struct Losses {
    /// The weighted sum, of shape [].
    pub total: Tensor,
    /// Each direction's loss, unweighted, where there are two.
    pub each: Option<[Tensor; 2]>,
    pub saved: SavedCosines,
}

/// What the backward pass needs, with a leading extent for the directions: see [`Saved`].
struct SavedCosines {
    pub inverse: Tensor,
    pub g: Tensor,
    pub a: Tensor,
    pub scale: Tensor,
}

impl Directions<'_> {
    pub fn forward<T: Element>(&self) -> Result<Losses> {
        let (e, device, images) = (self.extents, self.vectors.device(), self.count * self.extents.pairs);
        let empty = |shape: &[usize]| Tensor::empty(shape, T::Accumulator::DTYPE, device);
        let (mut inverse, mut a) = (empty(&[images, e.cells()])?, empty(&[images, e.cells()])?);
        let mut g = empty(&[images, e.cells(), e.classes])?;
        let (mut scale, mut total, mut tile_loss) = (empty(&[images])?, empty(&[])?, empty(&[images, tiles(e)])?);
        let mut tile_mass = Tensor::empty(&[images, tiles(e)], DType::U32, device)?;
        let mut each = if self.count == 2 { Some([empty(&[])?, empty(&[])?]) } else { None };
        let extents = [self.count, e.pairs, e.depth, e.classes].map(|extent| extent as i32);
        let [directions, pairs, depth, classes] = extents;
        let (temperature, temperature_f64) = (self.temperature as f32, self.temperature);
        let (sampling, weights) = (self.sampling, self.weights);
        let term = LossProblem { directions, pairs, depth, classes, sampling, temperature, temperature_f64, weights };
        let launch = tile_launch(OP, e)?;
        // SAFETY: the operation checked all shapes; a block a tile, for each direction.
        unsafe {
            contrastive_tiles::<T>(
                device,
                Launch { grid: [launch.grid[0], self.count as u32, 1], ..launch },
                &self.features.first,
                self.features.second.as_ref(),
                self.vectors,
                self.vector_inverse,
                self.counts,
                &self.labels.first,
                self.labels.second.as_ref(),
                self.dynamic,
                self.overlap,
                &mut inverse,
                &mut g,
                &mut a,
                &mut tile_loss,
                &mut tile_mass,
                term,
            )?;
        }
        let (of_first, of_second) = match &mut each {
            Some([first, second]) => (Some(first), Some(second)),
            None => (None, None),
        };
        // SAFETY: one block walks over all tiles' sums.
        unsafe {
            contrastive_finish::<T::Accumulator>(
                device,
                Launch::blocks(OP, 1, 256)?,
                &tile_loss,
                &tile_mass,
                &mut total,
                of_first,
                of_second,
                &mut scale,
                term,
            )?;
        }
        Ok(Losses { total, each, saved: SavedCosines { inverse, g, a, scale } })
    }
}

pub(super) fn forward<T: Element>(inputs: [&Tensor; 5], term: Term) -> Result<(Tensor, Saved)> {
    let [features, vectors, counts, labels, overlap] = inputs;
    let e = term.extents;
    let directions = Directions {
        extents: e,
        count: 1,
        features: &Halves::one(features),
        labels: &Halves::one(labels),
        dynamic: None,
        sampling: LabelSampling::Nearest.for_device([term.rows, term.columns], [e.height, e.width]),
        vectors,
        vector_inverse: &row_norms::<T::Accumulator>(OP, vectors)?,
        counts,
        overlap,
        temperature: term.temperature,
        weights: [1.0, 0.0],
    };
    let Losses { total, saved: SavedCosines { inverse, g, a, scale }, .. } = directions.forward::<T>()?;
    let (features, vectors) = (features.clone(), vectors.clone());
    Ok((total, Saved { features, vectors, inverse, g, a, b: None, scale }))
}

pub(super) fn backward<T: Element>(
    saved: &Saved,
    dloss: &Tensor,
    extents: Extents,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let Saved { features, vectors, inverse, g, a, scale, .. } = saved;
    let (features, vector_inverse) = (&Halves::one(features), &row_norms::<T::Accumulator>(OP, vectors)?);
    let (directions, scale) = (1, Some((scale, dloss)));
    let from = DeviceGradients { extents, directions, features, vectors, vector_inverse, inverse, g, a, scale };
    from.wanted::<T>(OP, wanted)
}

/// The prototypes of both domains and where the labels of their pixels came from; kept for the backward pass.
struct Domains {
    extents: Extents,
    features: Halves,
    labels: Halves,
    sampling: DeviceLabelSampling,
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

/// Both terms, in the launches that the head of this file lists.
pub(super) fn both<T: Element>(
    features: &DomainPair,
    labels: [&Tensor; 2],
    calibration: Option<&Tensor>,
    spec: &ContrastSpec,
) -> Result<Contrast> {
    let domains = Domains::new::<T>(features, labels, calibration, spec)?;
    let prototypes = DomainPrototypes::of_both(&domains.vectors, &domains.counts);
    let dynamic_labels = domains.dynamic.clone();
    // By the domain of the pixels: the source's are those of the backward term.
    let weights = [spec.backward_weight, spec.forward_weight];
    if weights == [0.0; 2] {
        return Ok(Contrast { total: None, forward: None, backward: None, dynamic_labels, prototypes });
    }
    let Losses { total, each, saved } = domains.losses::<T>(spec.temperature, weights)?;
    let [backward, forward] = each.map_or([None, None], |each| each.map(Some));
    let parents: Vec<&Var> = features.vars().iter().collect();
    let total = Var::record_many(BOTH, total, &parents, move |dloss, _| {
        Ok(domains.gradients::<T>(&saved, &dloss)?.into_gradients())
    })?;
    Ok(Contrast {
        total: Some(total),
        forward: forward.filter(|_| spec.forward_weight != 0.0),
        backward: backward.filter(|_| spec.backward_weight != 0.0),
        dynamic_labels,
        prototypes,
    })
}

impl Domains {
    /// All that precedes the losses.
    fn new<T: Element>(
        features: &DomainPair,
        labels: [&Tensor; 2],
        calibration: Option<&Tensor>,
        spec: &ContrastSpec,
    ) -> Result<Self> {
        let shape @ [pairs, height, width, depth] = features.dims(BOTH)?;
        let [_, rows, columns] = labels[0].dims(BOTH)?;
        let (features, classes) = (features.halves(), spec.classes);
        let (device, dtype) = (features.first.device(), T::Accumulator::DTYPE);
        let extents = Extents { pairs, height, width, depth, classes };
        let pools = Pools::new(shape, classes, spec.scope);
        let sampling = spec.sampling.for_device([rows, columns], [height, width]);
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
        let from = Pooling { features: source, skip: 0, labels: labels[0], dynamic, sampling, domain: 0, pools };
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
            Pooling { features: target, skip, labels: of_target, dynamic: dynamic_labels, sampling, domain: 1, pools };
        let to = Pooled {
            vectors: &mut vectors,
            counts: &mut counts,
            inverse: Some(&mut inverse),
            shared: Some(&mut overlap),
            calibrated: None,
        };
        pool::<T>(&from, to)?;
        Ok(Self { extents, features, labels, sampling, pools, dynamic, vectors, inverse, counts, overlap })
    }

    fn losses<T: Element>(&self, temperature: f64, weights: [f64; 2]) -> Result<Losses> {
        let directions = Directions {
            extents: self.extents,
            count: 2,
            features: &self.features,
            labels: &self.labels,
            dynamic: self.dynamic.as_ref(),
            sampling: self.sampling,
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
        let drho = gradients.vectors::<T>(BOTH)?;
        let pooled = PooledFrom {
            counts: &self.counts,
            labels: &self.labels,
            dynamic: self.dynamic.as_ref(),
            sampling: self.sampling,
            copies: self.pools.copies,
        };
        gradients.features::<T>(BOTH, Some((&drho, &pooled)))
    }
}
