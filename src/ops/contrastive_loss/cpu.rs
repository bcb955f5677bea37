//! The contrastive loss on the CPU. One term is one walk over labels and features in fixed strips of feature rows; both are
//! composed of the single operations.

use rayon::prelude::*;

use super::{BOTH, Contrast, ContrastSpec, OP, Saved, Term};
use crate::{
    Error, Result, Tensor,
    autograd::Var,
    ops::{
        self, DomainPair, LabelSampling, Prototypes,
        calibration::DomainPrototypes,
        composition::Composition,
        cosine::{Extents, Gradients, gradients, similarities, unit_rows},
        label_sampling::EACH,
        partial_sums::CELLS,
        resize_labels::first_of_cell,
    },
    tensor::Real,
};

/// What a strip adds to its pair.
struct Sums<T> {
    loss: f64,
    mass: u64,
    b: Vec<T>,
}

pub(super) fn forward<T: Real>(inputs: [&Tensor; 5], term: Term) -> Result<(Tensor, Saved)> {
    let [features, vectors, counts, labels, overlap] = inputs;
    let Term { extents: e, temperature, tracked, .. } = term;
    let device = features.device();
    let empty = |shape: &[usize]| Tensor::zeros(shape, T::DTYPE, device);
    // Without a backward pass only a strip's own part is needed; a zero pitch says so.
    let saved = if tracked { e.pairs * e.cells() } else { 0 };
    let (mut inverse, mut a) = (empty(&[saved])?, empty(&[saved])?);
    let mut g = Tensor::empty(&[saved, e.classes], T::DTYPE, device)?;
    let (mut b, mut scale) = (empty(&[e.pairs, e.classes])?, empty(&[e.pairs])?);
    let mut total = 0.0;
    {
        let mut unit = vec![T::zero(); vectors.len()];
        unit_rows(vectors.as_slice::<T>()?, e.depth, &mut unit);
        let (features, labels) = (features.as_slice::<T>()?, labels.as_slice::<u8>()?);
        let (counts, overlap) = (counts.as_slice::<u32>()?, overlap.as_slice::<u8>()?);
        let (inverse, a, g) = (inverse.as_mut_slice::<T>()?, a.as_mut_slice::<T>()?, g.as_mut_slice::<T>()?);
        let (b, scale) = (b.as_mut_slice::<T>()?, scale.as_mut_slice::<T>()?);
        let cell_of_x: Vec<u32> = (0..term.columns).map(|x| (x * e.width / term.columns) as u32).collect();
        let strip_rows = (CELLS / e.width.max(1)).max(1);
        let pitch = strip_rows * e.width;
        for pair in (0..e.pairs).filter(|_| e.cells() > 0) {
            let of_pair = Pair {
                term,
                features: &features[pair * e.cells() * e.depth..][..e.cells() * e.depth],
                unit: &unit[pair * e.classes * e.depth..][..e.classes * e.depth],
                labels: &labels[pair * term.rows * term.columns..][..term.rows * term.columns],
                present: counts[pair * e.classes..][..e.classes].iter().map(|&n| n > 0).collect(),
                weighted: overlap[pair * e.classes..][..e.classes].iter().map(|&w| w > 0).collect(),
                cell_of_x: &cell_of_x,
            };
            let strips = e.height.div_ceil(strip_rows);
            let run = |scratch: &mut Scratch<T>, strip: usize, saved: Option<SavedStrip<T>>| {
                let rows = strip * strip_rows..((strip + 1) * strip_rows).min(e.height);
                of_pair.strip(rows, scratch, saved)
            };
            let sums: Vec<Sums<T>> = if tracked {
                let range = pair * e.cells()..(pair + 1) * e.cells();
                inverse[range.clone()]
                    .par_chunks_mut(pitch)
                    .zip(a[range.clone()].par_chunks_mut(pitch))
                    .zip(g[range.start * e.classes..range.end * e.classes].par_chunks_mut(pitch * e.classes))
                    .enumerate()
                    .map_init(Scratch::new, |scratch, (strip, ((inverse, a), g))| {
                        run(scratch, strip, Some(SavedStrip { inverse, a, g }))
                    })
                    .collect()
            } else {
                (0..strips).into_par_iter().map_init(Scratch::new, |s, strip| run(s, strip, None)).collect()
            };
            let mass: u64 = sums.iter().map(|sums| sums.mass).sum();
            if mass == 0 {
                continue;
            }
            total += sums.iter().map(|sums| sums.loss).sum::<f64>() / mass as f64;
            scale[pair] = T::of(1.0 / (temperature * mass as f64 * e.pairs as f64));
            for sums in &sums {
                b[pair * e.classes..].iter_mut().zip(&sums.b).for_each(|(b, &part)| *b += part);
            }
        }
    }
    let loss = Tensor::full(&[], total / e.pairs.max(1) as f64, T::DTYPE, device)?;
    let (features, vectors) = (features.clone(), vectors.clone());
    Ok((loss, Saved { features, vectors, inverse, g, a, b: Some(b), scale }))
}

pub(super) fn backward<T: Real>(
    saved: &Saved,
    features: &Tensor,
    dloss: &Tensor,
    extents: Extents,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let dloss = T::of(dloss.item()?);
    let b = saved.b.as_ref().ok_or_else(|| Error::Internal(format!("{OP}: b was not saved")))?;
    let scale: Vec<T> = saved.scale.as_slice::<T>()?.iter().map(|&scale| scale * dloss).collect();
    let from = Gradients {
        extents,
        features: features.as_slice::<T>()?,
        vectors: saved.vectors.as_slice()?,
        inverse: saved.inverse.as_slice()?,
        g: saved.g.as_slice()?,
        a: saved.a.as_slice()?,
        b: b.as_slice()?,
        scale: &scale,
    };
    let mut df = wanted[0].then(|| features.empty_like()).transpose()?;
    let mut drho = wanted[1].then(|| Tensor::zeros(saved.vectors.shape(), T::DTYPE, features.device())).transpose()?;
    gradients(&from, df.as_mut(), drho.as_mut())?;
    Ok([df, drho])
}

/// A strip's part of what the backward pass needs.
struct SavedStrip<'a, T> {
    inverse: &'a mut [T],
    a: &'a mut [T],
    g: &'a mut [T],
}

/// A thread's buffers, reused from strip to strip.
struct Scratch<T> {
    unit: Vec<T>,
    counts: Vec<u32>,
    s: Vec<T>,
    inverse: Vec<T>,
    terms: Vec<T>,
}

impl<T> Scratch<T> {
    fn new() -> Self {
        Self { unit: Vec::new(), counts: Vec::new(), s: Vec::new(), inverse: Vec::new(), terms: Vec::new() }
    }
}

/// One pair's inputs.
struct Pair<'a, T> {
    term: Term,
    features: &'a [T],
    unit: &'a [T],
    labels: &'a [u8],
    present: Vec<bool>,
    weighted: Vec<bool>,
    cell_of_x: &'a [u32],
}

impl<T: Real> Pair<'_, T> {
    /// w(c) n(p,c) of the cells in `rows` of the feature map, into `counts` [rows, w, C].
    fn count(&self, rows: std::ops::Range<usize>, counts: &mut Vec<u32>) {
        let Term { extents: e, rows: height, columns, .. } = self.term;
        counts.clear();
        counts.resize(rows.len() * e.width * e.classes, 0);
        let first_row = |row| first_of_cell(row, e.height, height);
        for (counts, row) in counts.chunks_exact_mut(e.width * e.classes).zip(rows) {
            let labels = &self.labels[first_row(row) * columns..first_row(row + 1) * columns];
            for labels in labels.chunks_exact(columns.max(1)) {
                for (&label, &cell) in labels.iter().zip(self.cell_of_x) {
                    if usize::from(label) < e.classes {
                        counts[cell as usize * e.classes + usize::from(label)] += 1;
                    }
                }
            }
        }
        for counts in counts.chunks_exact_mut(e.classes) {
            for (count, _) in counts.iter_mut().zip(&self.weighted).filter(|(_, weighted)| !**weighted) {
                *count = 0;
            }
        }
    }

    fn strip(
        &self,
        rows: std::ops::Range<usize>,
        scratch: &mut Scratch<T>,
        mut saved: Option<SavedStrip<T>>,
    ) -> Sums<T> {
        let Extents { width, depth, classes, .. } = self.term.extents;
        let Scratch { unit, counts, s, inverse, terms } = scratch;
        let cells = rows.len() * width;
        let features = &self.features[rows.start * width * depth..][..cells * depth];
        self.count(rows, counts);
        s.resize(cells * classes, T::zero());
        inverse.resize(cells, T::zero());
        terms.resize(classes, T::zero());
        similarities(features, self.unit, &self.present, inverse, unit, s);
        if let Some(saved) = &mut saved {
            saved.inverse.copy_from_slice(inverse);
        }
        let over_tau = T::of(1.0 / self.term.temperature);
        let mut sums = Sums { loss: 0.0, mass: 0, b: vec![T::zero(); classes] };
        for (p, (s, counts)) in s.chunks_exact(classes).zip(counts.chunks_exact(classes)).enumerate() {
            let mass: u64 = counts.iter().map(|&n| u64::from(n)).sum();
            if mass == 0 {
                if let Some(saved) = &mut saved {
                    saved.a[p] = T::zero();
                    saved.g[p * classes..][..classes].fill(T::zero());
                }
                continue;
            }
            sums.mass += mass;
            // exp((s - largest) / tau) is in (0, 1], whatever the temperature; NaN passes through the sum.
            let largest = s.iter().copied().fold(-T::infinity(), T::max);
            let mut sum = T::zero();
            for (term, &s) in terms.iter_mut().zip(s) {
                *term = ((s - largest) * over_tau).exp();
                sum += *term;
            }
            let log_sum = sum.ln();
            for (&n, &s) in counts.iter().zip(s).filter(|(n, _)| **n > 0) {
                sums.loss += f64::from(n) * (log_sum - (s - largest) * over_tau).wide();
            }
            let Some(saved) = &mut saved else { continue };
            let share = T::of(mass as f64) / sum;
            let mut along = T::zero();
            let g = &mut saved.g[p * classes..][..classes];
            for (class, g) in g.iter_mut().enumerate() {
                let slope = terms[class] * share - T::of(f64::from(counts[class]));
                *g = if self.present[class] { slope } else { T::zero() };
                along += *g * s[class];
                sums.b[class] += *g * s[class];
            }
            saved.a[p] = along;
        }
        sums
    }
}

/// A domain's labels as the contrastive terms read them.
struct Labels {
    /// u8 [N,h k,w k], or of the images' size: those that a feature pixel answers for.
    pixels: Tensor,
    /// u8 [N,h,w]: those at the middle of each feature pixel, where labels are read in place.
    middles: Option<Tensor>,
}

impl Labels {
    fn new(labels: &Tensor, features: &Var, sampling: LabelSampling) -> Result<Self> {
        let [_, h, w, _] = features.value().dims(BOTH)?;
        Ok(match sampling {
            LabelSampling::Nearest => Self { pixels: labels.clone(), middles: None },
            LabelSampling::Aligned => Self {
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
        let [_, h, w, _] = features.value().dims(BOTH)?;
        match &self.middles {
            Some(middles) => Ok(middles.clone()),
            None => ops::resize_labels_nearest(&self.pixels, h, w),
        }
    }
}

/// Both terms, composed of the single operations and recorded as one.
pub(super) fn both(
    features: &DomainPair,
    [source_labels, static_labels]: [&Tensor; 2],
    calibration: Option<&Tensor>,
    spec: &ContrastSpec,
) -> Result<Contrast> {
    let composition = Composition::new(BOTH, features.vars())?;
    let [source, target] = &features.with(composition.vars())?.parts()?;
    let pool = |features: &Var, labels: &Labels| -> Result<Prototypes> {
        ops::masked_average_pool_scoped(features, &labels.cells(features)?, spec.classes, spec.scope)
    };
    let of_source = Labels::new(source_labels, source, spec.sampling)?;
    let mut of_target = Labels::new(static_labels, target, spec.sampling)?;
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
    let total = total.map(|total| composition.record(BOTH, total)).transpose()?;
    Ok(Contrast { total, forward, backward, dynamic_labels, prototypes })
}
