//! Class-wise domain bias of the prototypes (docs/method.md, "Calibration").
//!
//! ```text
//! xi(c) <- m xi(c) + (1-m) mean_n ( rho_T(n,c) - rho_S(n,c) )     over the pairs n in which both prototypes exist
//! ```
//!
//! A class without such a pair keeps its xi. Averaging over a step's pairs keeps one decay by m a step, whatever the
//! batch. No gradient.

pub(crate) mod cuda;

use super::{Prototypes, domain_pair::Halves, found_inf};
use crate::{Error, Result, Tensor, tensor::Real, with_real};

const OP: &str = "calibration";

/// [N,C,d] from prototypes [N,C,d] and [C,d], which must be f32 or f64 alike.
fn check(xi: &Tensor, prototypes: &Tensor) -> Result<[usize; 3]> {
    let [pairs, classes, depth] = prototypes.dims(OP)?;
    xi.expect_shape(&[classes, depth], OP, "xi")?;
    xi.expect_same_device(prototypes, OP)?;
    check_dtypes(xi, prototypes)?;
    if prototypes.len() > i32::MAX as usize {
        return Err(Error::shape(OP, format!("prototypes {:?} exceed 2^31 - 1 elements", prototypes.shape())));
    }
    Ok([pairs, classes, depth])
}

fn check_dtypes(xi: &Tensor, prototypes: &Tensor) -> Result<()> {
    if xi.dtype() == prototypes.dtype() {
        return Ok(());
    }
    let (xi, prototypes) = (xi.dtype(), prototypes.dtype());
    Err(Error::shape(OP, format!("xi of dtype {xi} and prototypes of dtype {prototypes}; convert one")))
}

/// Reference: the CPU composes [`super::bidirectional_contrast`] of it.
/// The calibrated prototypes rho_S + xi `[N,C,d]` of `prototypes_s` `[N,C,d]` with `xi` `[C,d]`, f32 or f64. What stands in
/// the row of an absent class has no meaning: it stays absent.
///
/// Errors: shapes, dtypes or devices that do not fit.
///
/// ```
/// use bicl::{Device, Tensor, ops};
/// let device = Device::cpu();
/// let xi = Tensor::from_vec(vec![0.5f32, -1.0], &[2, 1], &device)?;
/// let prototypes = Tensor::from_vec(vec![1.0f32, 2.0], &[1, 2, 1], &device)?;
/// assert_eq!(ops::calibrate(&xi, &prototypes)?.to_vec::<f32>()?, [1.5, 1.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn calibrate(xi: &Tensor, prototypes_s: &Tensor) -> Result<Tensor> {
    check(xi, prototypes_s)?;
    if prototypes_s.is_empty() {
        return prototypes_s.duplicate();
    }
    let mut calibrated = prototypes_s.empty_like()?;
    if xi.device().is_cpu() {
        with_real!(xi.dtype(), OP, T => add::<T>(xi, prototypes_s, &mut calibrated))?;
    } else {
        with_real!(xi.dtype(), OP, T => cuda::add::<T>(xi, prototypes_s, &mut calibrated))?;
    }
    Ok(calibrated)
}

/// The prototypes of both domains in a step, without their gradients: what moves the calibration once the step is known to be
/// sound.
#[derive(Clone)]
pub struct DomainPrototypes {
    /// [N,C,d] each.
    vectors: Halves,
    /// u32 [N,C] each.
    counts: Halves,
    /// N, C, d.
    extents: [usize; 3],
}

impl DomainPrototypes {
    /// Those of source and target, of one shape.
    pub(crate) fn new(source: &Prototypes, target: &Prototypes) -> Result<Self> {
        Ok(Self {
            vectors: Halves::two([source.vectors.value(), target.vectors.value()]),
            counts: Halves::two([&source.counts, &target.counts]),
            extents: source.vectors.value().dims(OP)?,
        })
    }

    /// Those of one tensor for both: [2,N,C,d], and counts u32 [2,N,C].
    pub(crate) fn of_both(vectors: &Tensor, counts: &Tensor) -> Self {
        // The caller made them so.
        let extents = std::array::from_fn(|axis| vectors.shape()[axis + 1]);
        Self { vectors: Halves::one(vectors), counts: Halves::one(counts), extents }
    }

    /// Moves xi `[C,d]` as [`update_calibration`] does; nothing where one of the `losses` (f32) is NaN or infinite.
    ///
    /// Errors: shapes, dtypes or devices that do not fit; a momentum outside 0..=1.
    pub fn update_calibration(&self, xi: &mut Tensor, momentum: f64, losses: Option<&Tensor>) -> Result<()> {
        let [_, classes, depth] = self.extents;
        let vectors = &self.vectors.first;
        xi.expect_shape(&[classes, depth], OP, "xi")?;
        xi.expect_same_device(vectors, OP)?;
        check_dtypes(xi, vectors)?;
        found_inf::check(OP, losses, xi.device())?;
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::Config(format!("calibration momentum {momentum} must lie in 0..=1, such as 0.99")));
        }
        if !xi.device().is_cpu() {
            return with_real!(xi.dtype(), OP, T => cuda::update::<T>(xi, self, momentum, losses));
        }
        if !found_inf::found_inf(losses)? {
            with_real!(xi.dtype(), OP, T => update::<T>(xi, self, momentum))?;
        }
        Ok(())
    }
}

/// Reference: a step calls [`DomainPrototypes::update_calibration`].
/// Moves `xi` `[C,d]` towards the difference of the prototypes of target and source `[N,C,d]` with `momentum` m, for the
/// classes of which some pair has both (counts u32 `[N,C]` above 0).
///
/// Errors: shapes, dtypes or devices that do not fit; a momentum outside 0..=1.
pub fn update_calibration(
    xi: &mut Tensor,
    rho_s: &Tensor,
    counts_s: &Tensor,
    rho_t: &Tensor,
    counts_t: &Tensor,
    momentum: f64,
) -> Result<()> {
    let extents @ [pairs, classes, _] = check(xi, rho_s)?;
    check(xi, rho_t)?;
    rho_t.expect_shape(rho_s.shape(), OP, "the target's prototypes")?;
    for counts in [counts_s, counts_t] {
        counts.expect_shape(&[pairs, classes], OP, "the counts")?;
        counts.expect_same_device(xi, OP)?;
    }
    let (vectors, counts) = (Halves::two([rho_s, rho_t]), Halves::two([counts_s, counts_t]));
    DomainPrototypes { vectors, counts, extents }.update_calibration(xi, momentum, None)
}

fn add<T: Real>(xi: &Tensor, prototypes: &Tensor, calibrated: &mut Tensor) -> Result<()> {
    let (xi, prototypes) = (xi.as_slice::<T>()?, prototypes.as_slice::<T>()?);
    let sums = prototypes.iter().zip(xi.iter().cycle());
    calibrated.as_mut_slice::<T>()?.iter_mut().zip(sums).for_each(|(sum, (&rho, &xi))| *sum = rho + xi);
    Ok(())
}

fn update<T: Real>(xi: &mut Tensor, from: &DomainPrototypes, momentum: f64) -> Result<()> {
    let [pairs, classes, depth] = from.extents;
    let ([rho_s, rho_t], [counts_s, counts_t]) = (from.vectors.slices::<T>()?, from.counts.slices::<u32>()?);
    let (keep, take) = (T::of(momentum), T::of(1.0 - momentum));
    for (class, xi) in xi.as_mut_slice::<T>()?.chunks_exact_mut(depth.max(1)).enumerate() {
        let rows = (0..pairs).map(|pair| pair * classes + class);
        let rows: Vec<usize> = rows.filter(|&row| counts_s[row] > 0 && counts_t[row] > 0).collect();
        if rows.is_empty() {
            continue;
        }
        for (k, xi) in xi.iter_mut().enumerate() {
            let sum: T = rows.iter().map(|row| rho_t[row * depth + k] - rho_s[row * depth + k]).sum();
            *xi = keep * *xi + take * (sum / T::of(rows.len() as f64));
        }
    }
    Ok(())
}
