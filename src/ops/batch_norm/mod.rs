//! Batch normalisation over the pixels of NHWC images, optionally fused with a residual sum and ReLU:
//!
//!   y = relu( (x - mean_c) / sqrt(variance_c + epsilon) * scale_c + shift_c + residual )
//!
//! (Ioffe, Szegedy, "Batch Normalization", 2015, with the biased variance; docs/method.md, "Optimisation".)
//! With g = dy where the ReLU passed, r = 1 / sqrt(variance + epsilon), h = (x - mean) r and M pixels:
//!
//!   d shift = sum g      d scale = sum g h      d residual = g
//!   d x = scale r (g - d shift / M - h d scale / M)   with the batch's statistics
//!   d x = scale r g                                   with running statistics
//!
//! The pass is bound by memory, so it keeps and reads as little as it can: without a residual the ReLU's mask is
//! recomputed from x; with fixed statistics and a constant scale and shift, y alone is kept and x is not.
//! Images may come in groups, source and target for one, which the batch's statistics then treat as batches of their own; the
//! gradients of scale and shift add up over them.
//! Sums run over fixed pieces of the rows, combined in a fixed order, whatever the number of threads.

mod cpu;
mod cpu_backward;
pub(crate) mod cuda;

use super::BatchNormPartialStats;
use crate::{
    DType, Error, Result, Tensor,
    autograd::{Contribution, Fused, GradientEpilogue, Var},
    with_float,
};

const OP: &str = "batch_norm";

/// Which statistics normalise.
#[derive(Clone, Copy, Debug)]
pub enum BatchNormMode<'a> {
    /// The batch's own, through which the gradient flows.
    Batch {
        /// Added to the variance.
        epsilon: f64,
        /// How many runs of N / `groups` images have statistics of their own; 1 for one batch.
        groups: usize,
    },
    /// Given ones, constant for the gradient.
    Running {
        /// `[C]`, f32 (f64 for f64 images).
        mean: &'a Tensor,
        /// `[C]`, f32 (f64 for f64 images).
        variance: &'a Tensor,
        /// Added to the variance.
        epsilon: f64,
    },
}

/// What is done beside the normalisation, in the same pass.
#[derive(Clone, Copy)]
pub struct BatchNormSpec<'a> {
    /// Which statistics normalise.
    pub mode: BatchNormMode<'a>,
    /// `[N,H,W,C]`, added after scale and shift.
    pub residual: Option<&'a Var>,
    /// Whether a rectified linear unit follows.
    pub relu: bool,
    /// Moments of x that its convolution took, for the batch's statistics:
    /// [`conv2d_with_moments`](crate::ops::conv2d_with_moments).
    pub moments: Option<&'a BatchNormPartialStats>,
}

/// The image and the statistics behind it.
pub struct BatchNormOutput {
    /// `[N,H,W,C]`, of the input's dtype.
    pub y: Var,
    /// Mean of each channel, `[C]`: the batch's, or the one that was given. `[groups,C]` where there are several.
    pub mean: Tensor,
    /// Variance of each channel, of the mean's shape: the batch's, unbiased (division by M - 1), with which running statistics are
    /// updated; or the one that was given.
    pub variance: Tensor,
}

/// Normalises `x` `[N,H,W,C]` (f32, f64 or bf16) with `scale` and `shift` `[C]`, both f32 (f64 for f64 images).
///
/// Errors: shapes, dtypes or devices that do not fit; moments of another image; images that do not divide into the
/// groups; batch statistics over fewer than two values a channel, which have no unbiased variance.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{BatchNormMode, batch_norm}};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let x = tape.variable(Tensor::from_vec(vec![1.0f32, 3.0], &[1, 1, 2, 1], &device)?);
/// let one = tape.constant(Tensor::from_vec(vec![1.0f32], &[1], &device)?);
/// let zero = tape.constant(Tensor::from_vec(vec![0.0f32], &[1], &device)?);
/// let output = batch_norm(&x, &one, &zero, BatchNormMode::Batch { epsilon: 0.0, groups: 1 })?;
/// assert_eq!(output.y.value().to_vec::<f32>()?, [-1.0, 1.0]);
/// assert_eq!((output.mean.item()?, output.variance.item()?), (2.0, 2.0));
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn batch_norm(x: &Var, scale: &Var, shift: &Var, mode: BatchNormMode<'_>) -> Result<BatchNormOutput> {
    batch_norm_with(x, scale, shift, &BatchNormSpec { mode, residual: None, relu: false, moments: None })
}

/// As [`batch_norm`], with a residual and a rectified linear unit in the same pass.
pub fn batch_norm_with(x: &Var, scale: &Var, shift: &Var, spec: &BatchNormSpec<'_>) -> Result<BatchNormOutput> {
    let image = x.value();
    let rows = check(image, &image.dims(OP)?, scale.value(), shift.value(), spec)?;
    let (statistics, variance) = match spec.mode {
        BatchNormMode::Batch { epsilon, groups } => {
            let images = image.shape()[0];
            if groups == 0 || !images.is_multiple_of(groups) {
                return Err(Error::shape(OP, format!("{images} images do not divide into {groups} groups")));
            }
            if rows / groups < 2 {
                let message = format!("batch statistics need two values a channel, x is {:?}", image.shape());
                return Err(Error::shape(OP, message + "; use a larger batch or running statistics"));
            }
            let Moments { mean, biased, unbiased } = moments_from(image, groups, spec.moments)?;
            (Statistics { mean, variance: biased, epsilon, groups, from_batch: true }, unbiased)
        }
        BatchNormMode::Running { mean, variance, epsilon } => {
            let (mean, variance) = (mean.clone(), variance.clone());
            (Statistics { mean, variance: variance.clone(), epsilon, groups: 1, from_batch: false }, variance)
        }
    };
    let affine = Affine { statistics, scale: scale.value().clone(), shift: shift.value().clone() };
    let y = normalise(image, spec.residual.map(Var::value), &affine, spec.relu)?;
    let mean = affine.statistics.mean.clone();

    let needs_x = affine.statistics.from_batch || scale.is_tracked();
    // The mask of the ReLU: from y if x is not kept or does not tell it, else from x.
    let needs_y = spec.relu && (spec.residual.is_some() || !needs_x);
    let saved = Saved {
        x: needs_x.then(|| image.clone()),
        y: needs_y.then(|| y.clone()),
        affine,
        relu: spec.relu,
        has_residual: spec.residual.is_some(),
    };
    let mut parents = vec![x, scale, shift];
    parents.extend(spec.residual);
    let epilogue = saved.sums_epilogue(&y);
    let y = Var::record_fusing(OP, y, &parents, epilogue, move |dy, fused, requests| {
        let pieces = match fused {
            Some(Fused::Sums(pieces)) => Some(pieces),
            Some(Fused::Masked) | None => None,
        };
        let wanted: Vec<bool> = requests.iter().map(|request| request.wanted).collect();
        let gradients = saved.backward(dy, pieces.as_ref(), &wanted)?;
        Ok(gradients.into_iter().map(|gradient| gradient.map(Contribution::from)).collect())
    })?;
    Ok(BatchNormOutput { y, mean, variance })
}

/// The shape of vectors over the channels, one for each group.
fn statistics_shape(groups: usize, channels: usize) -> Vec<usize> {
    if groups == 1 { vec![channels] } else { vec![groups, channels] }
}

/// What normalises, [C] each, or [groups,C].
#[derive(Clone)]
pub(super) struct Statistics {
    pub mean: Tensor,
    /// Biased where it is the batch's.
    pub variance: Tensor,
    pub epsilon: f64,
    pub groups: usize,
    pub from_batch: bool,
}

#[derive(Clone)]
pub(super) struct Affine {
    pub statistics: Statistics,
    pub scale: Tensor,
    pub shift: Tensor,
}

impl Affine {
    /// Mean, variance, scale and shift.
    pub fn vectors(&self) -> [&Tensor; 4] {
        [&self.statistics.mean, &self.statistics.variance, &self.scale, &self.shift]
    }
}

struct Moments {
    mean: Tensor,
    biased: Tensor,
    unbiased: Tensor,
}

/// What the backward pass needs: x for the sums, and x or y for a ReLU's mask.
pub(super) struct Saved {
    pub x: Option<Tensor>,
    pub y: Option<Tensor>,
    pub affine: Affine,
    pub relu: bool,
    pub has_residual: bool,
}

/// Sums over a group's pixels, [C] each or [groups,C]: of g, and of g h.
struct Sums {
    shift: Tensor,
    scale: Tensor,
    /// Over all groups, where there are several.
    total: Option<Total>,
}

/// Gradients of shift and scale, [C].
struct Total {
    shift: Tensor,
    scale: Tensor,
}

/// Which sums and images the backward pass computes.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub x: bool,
    pub residual: bool,
}

/// Checks everything for an image of the given extents, `x` or what is made of it; the number of pixels.
pub(super) fn check(
    x: &Tensor,
    image: &[usize; 4],
    scale: &Tensor,
    shift: &Tensor,
    spec: &BatchNormSpec<'_>,
) -> Result<usize> {
    let &[n, h, w, channels] = image;
    if channels == 0 {
        return Err(Error::shape(OP, format!("x {image:?} has no channels")));
    }
    let mut vectors = vec![(scale, "scale"), (shift, "shift")];
    if let BatchNormMode::Running { mean, variance, .. } = spec.mode {
        vectors.extend([(mean, "the running mean"), (variance, "the running variance")]);
    }
    for (vector, name) in vectors {
        vector.expect_shape(&[channels], OP, name)?;
        x.expect_same_device(vector, OP)?;
        if vector.dtype() != x.dtype().accumulator() {
            let (got, want) = (vector.dtype(), x.dtype().accumulator());
            return Err(Error::shape(OP, format!("{name} is {got}; with x in {} it must be {want}", x.dtype())));
        }
    }
    if let Some(residual) = spec.residual.map(Var::value) {
        residual.expect_shape(image, OP, "the residual")?;
        x.expect_same_device(residual, OP)?;
        if residual.dtype() != x.dtype() {
            return Err(Error::shape(
                OP,
                format!("the residual is {}, x {}; convert one", residual.dtype(), x.dtype()),
            ));
        }
    }
    Ok(n * h * w)
}

fn widened(tensor: &Option<Tensor>) -> Result<Option<Tensor>> {
    tensor.as_ref().map(|tensor| tensor.to_dtype(DType::F32)).transpose()
}

/// From what the convolution before took, or by a pass over x.
fn moments_from(x: &Tensor, groups: usize, pieces: Option<&BatchNormPartialStats>) -> Result<Moments> {
    let Some(pieces) = pieces else { return moments(x, groups) };
    let [n, h, w, channels] = x.dims(OP)?;
    pieces.expect(groups, n * h * w / groups, channels)?;
    x.expect_same_device(&pieces.partial, OP)?;
    with_float!(x.dtype(), OP, T => cuda::join_pieces::<T>(x, groups, pieces))
}

/// Computes the statistics of x and drops them: for the convolution before, whose ways differ in what they leave to do here.
pub(super) fn try_statistics(x: &Tensor, groups: usize, pieces: Option<&BatchNormPartialStats>) -> Result<()> {
    moments_from(x, groups, pieces).map(drop)
}

fn moments(x: &Tensor, groups: usize) -> Result<Moments> {
    dispatch!(x, OP, T => {
        kernels => cuda::moments::<T>(x, groups),
        bf16 => moments(&x.to_dtype(DType::F32)?, groups),
        cpu => cpu::moments::<T>(x, groups),
    })
}

pub(super) fn normalise(x: &Tensor, residual: Option<&Tensor>, affine: &Affine, relu: bool) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::normalise::<T>(x, residual, affine, relu),
        bf16 => {
            let residual = widened(&residual.cloned())?;
            normalise(&x.to_dtype(DType::F32)?, residual.as_ref(), affine, relu)?.to_dtype(DType::Bf16)
        },
        cpu => cpu::normalise::<T>(x, residual, affine, relu),
    })
}

impl Saved {
    /// By the batch's statistics: the mask and the sums, on a device whose kernels can take them.
    fn sums_epilogue(&self, y: &Tensor) -> Option<GradientEpilogue> {
        let x = self.x.as_ref().filter(|_| self.affine.statistics.from_batch)?;
        self.epilogue(y, Some(x.clone()), false)
    }

    /// By given statistics, with a constant scale and shift, there are no sums: the mask, and the scale too where no residual
    /// wants the gradient without it.
    pub fn mask_epilogue(&self, y: &Tensor) -> Option<GradientEpilogue> {
        let scaled = !self.has_residual;
        if scaled || self.relu { self.epilogue(y, None, scaled) } else { None }
    }

    fn epilogue(&self, y: &Tensor, x: Option<Tensor>, scaled: bool) -> Option<GradientEpilogue> {
        let device = y.device();
        if device.is_cpu() {
            return None;
        }
        // To read the mask costs warpgroups less than to work it out: y lies beside x, and is on its way while they multiply.
        let read = self.relu && device.has_warpgroup_products() && y.dtype() == DType::Bf16;
        let y = if read { Some(y.clone()) } else { self.y.clone() };
        let Affine { statistics, scale, shift } = self.affine.clone();
        let Statistics { mean, variance, epsilon, groups, .. } = statistics;
        Some(GradientEpilogue { x, y, relu: self.relu, mean, variance, scale, shift, groups, epsilon, scaled })
    }

    /// `pieces`: sums that whoever wrote dy took on the way; dy is g then.
    fn backward(mut self, dy: Tensor, pieces: Option<&Tensor>, wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (want_x, want_scale, want_shift) = (wanted[0], wanted[1], wanted[2]);
        let want_residual = self.has_residual && wanted[3];
        let through_statistics = want_x && self.affine.statistics.from_batch;
        let sums = match pieces {
            Some(pieces) => {
                (self.relu, self.y) = (false, None);
                Some(with_float!(dy.dtype(), OP, T => cuda::join_sums::<T>(&self, &dy, pieces))?)
            }
            None => (want_scale || want_shift || through_statistics).then(|| self.sums(&dy)).transpose()?,
        };
        let images = Wanted { x: want_x, residual: want_residual };
        let (dx, dresidual) = match want_x || want_residual {
            true => self.images(dy, sums.as_ref().filter(|_| through_statistics), images)?,
            false => (None, None),
        };
        let (dscale, dshift) = match sums {
            Some(Sums { total: Some(total), .. }) => (Some(total.scale), Some(total.shift)),
            Some(Sums { scale, shift, total: None }) => (Some(scale), Some(shift)),
            None => (None, None),
        };
        let mut gradients = vec![dx, dscale.filter(|_| want_scale), dshift.filter(|_| want_shift)];
        if self.has_residual {
            gradients.push(dresidual);
        }
        Ok(gradients)
    }

    /// The same in f32, for the CPU, which does not compute in bf16.
    fn widened(&self) -> Result<Self> {
        let affine = self.affine.clone();
        let (relu, has_residual) = (self.relu, self.has_residual);
        Ok(Self { x: widened(&self.x)?, y: widened(&self.y)?, affine, relu, has_residual })
    }

    fn sums(&self, dy: &Tensor) -> Result<Sums> {
        dispatch!(dy, OP, T => {
            kernels => cuda::sums::<T>(self, dy),
            bf16 => self.widened()?.sums(&dy.to_dtype(DType::F32)?),
            cpu => cpu_backward::sums::<T>(self, dy),
        })
    }

    /// Gradients of x and of the residual by given statistics.
    pub fn images_by_given(&self, dy: Tensor, wanted: Wanted) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.images(dy, None, wanted)
    }

    /// Gradients of x (through the statistics where `sums` is given) and of the residual.
    fn images(&self, dy: Tensor, sums: Option<&Sums>, wanted: Wanted) -> Result<(Option<Tensor>, Option<Tensor>)> {
        dispatch!(dy, OP, T => {
            kernels => cuda::images::<T>(self, dy, sums, wanted),
            bf16 => {
                let (dx, dresidual) = self.widened()?.images(dy.to_dtype(DType::F32)?, sums, wanted)?;
                let narrow = |image: Option<Tensor>| image.map(|image| image.to_dtype(DType::Bf16)).transpose();
                Ok((narrow(dx)?, narrow(dresidual)?))
            },
            cpu => cpu_backward::images::<T>(self, dy, sums, wanted),
        })
    }
}
