//! Launches of `kernels/batch_norm.cu`.

use half::bf16;

use super::super::BatchNormPartialStats;
use super::{Affine, Moments, OP, Saved, Sums, Total, Wanted, statistics_shape};
use crate::{
    Error, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, OptIn, OptOut, Out, Val},
};

/// `BatchNormParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    /// Of one group.
    rows: i32,
    channels: i32,
    /// Rows of a chunk in reductions; distance between a thread's rows in elementwise kernels, where it depends on the card.
    span: i32,
    flags: i32,
    epsilon: f64,
    groups: i32,
    padding: i32,
}

kernels! { "batch_norm";
    /// Mean and squared deviations of chunks of rows.
    fn batch_norm_moments<T in f32 | f64 | bf16>(x: In<T>, partial: Out<T::Accumulator>, p: Val<Params>);
    /// Mean and variances from the chunks.
    fn batch_norm_moments_finish<T in f32 | f64>(
        partial: In<T>, mean: Out<T>, biased: Out<T>, unbiased: Out<T>, p: Val<Params>
    );
    /// y.
    fn batch_norm_forward<T in f32 | f64 | bf16>(
        x: In<T>, residual: OptIn<T>, mean: In<T::Accumulator>, variance: In<T::Accumulator>,
        scale: In<T::Accumulator>, shift: In<T::Accumulator>, y: Out<T>, p: Val<Params>
    );
    /// Sums of g and of g (x - mean) over chunks of rows.
    fn batch_norm_sums<T in f32 | f64 | bf16>(
        x: OptIn<T>, y: OptIn<T>, dy: In<T>, mean: In<T::Accumulator>, variance: In<T::Accumulator>,
        scale: In<T::Accumulator>, shift: In<T::Accumulator>, partial: Out<T::Accumulator>, p: Val<Params>
    );
    /// Gradients of scale and shift from the chunks, by group and over all groups.
    fn batch_norm_sums_finish<T in f32 | f64>(
        partial: In<T>, variance: In<T>, dscale: Out<T>, dshift: Out<T>, total_scale: OptOut<T>, total_shift: OptOut<T>,
        p: Val<Params>
    );
    /// Gradients of x and of the residual.
    fn batch_norm_backward<T in f32 | f64 | bf16>(
        x: OptIn<T>, y: OptIn<T>, dy: In<T>, mean: In<T::Accumulator>, variance: In<T::Accumulator>,
        scale: In<T::Accumulator>, shift: In<T::Accumulator>, dscale: OptIn<T::Accumulator>,
        dshift: OptIn<T::Accumulator>, dx: OptOut<T>, dresidual: OptOut<T>, p: Val<Params>
    );
}

const VECTOR: i32 = 1;
const RELU: i32 = 2;
const THREADS: usize = 256;
/// Channels and threads of a block that joins chunks.
const TILE: usize = 8;
const MOST_THREADS: usize = 1024;
/// Blocks that fill a large GPU several times over; fixed, so that sums do not depend on the card.
const BLOCKS: usize = 1024;
/// Rows that a thread of a reduction serves at least.
const ROWS_EACH: usize = 4;
/// Rows that a thread of an elementwise kernel loads together, and blocks of such that a multiprocessor holds.
const ROWS_HELD: usize = 4;
const RESIDENT_BLOCKS: usize = 4;

/// How a group of `rows` pixels is spread over threads; where sums are taken it depends on the shape and the dtype alone.
struct Plan {
    rows: usize,
    channels: usize,
    /// Runs of images with statistics of their own.
    images: usize,
    /// Groups of channels that one thread of a reduction serves together.
    groups: usize,
    flags: i32,
    epsilon: f64,
}

impl Plan {
    /// `images`: how many groups of images with statistics of their own `x` holds.
    fn new(x: &Tensor, images: usize, relu: bool, epsilon: f64) -> Result<Self> {
        let [n, h, w, channels] = x.dims(OP)?;
        // The kernels index rows and elements with 32 bits.
        Launch::linear(OP, x.len())?;
        let width = 16 / x.dtype().size();
        let vector = channels % width == 0;
        let groups = if vector { channels / width } else { channels };
        let flags = if vector { VECTOR } else { 0 } | if relu { RELU } else { 0 };
        if images == 0 || !n.is_multiple_of(images) || images > 65_535 {
            return Err(Error::Internal(format!("batch_norm: {n} images in {images} groups")));
        }
        Ok(Self { rows: n / images * h * w, channels, images, groups, flags, epsilon })
    }

    fn params(&self, span: usize) -> Params {
        let [rows, channels, span, groups] = [self.rows, self.channels, span, self.images].map(|extent| extent as i32);
        Params { rows, channels, span, flags: self.flags, epsilon: self.epsilon, groups, padding: 0 }
    }

    /// Launch of a reduction over rows, its parameters, and the number of chunks of all groups.
    fn reduction(&self) -> (Launch, Params, usize) {
        let width = [8, 16].into_iter().find(|&width| width >= self.groups).unwrap_or(32);
        let height = THREADS / width;
        let tiles = self.groups.div_ceil(width);
        let most = self.rows.div_ceil(height * ROWS_EACH).max(1);
        let span = self.rows.div_ceil((BLOCKS / tiles).clamp(1, most)).max(1);
        let chunks = self.rows.div_ceil(span);
        let grid = [tiles as u32, chunks.max(1) as u32, self.images as u32];
        let launch = Launch { grid, block: [width as u32, height as u32, 1], shared_bytes: 0, cluster: 1 };
        (launch, self.params(span), chunks * self.images)
    }

    /// Joins the chunks of `params`: a block for [`TILE`] channels of a group. With two threads to a chunk, as for f32, each
    /// has about four chunks until there are `most` threads.
    fn finish(&self, params: &Params, most: usize) -> Launch {
        let chunks = (params.rows as usize).div_ceil(params.span as usize);
        let threads = (chunks / 2).next_power_of_two().clamp(THREADS, most);
        Launch {
            grid: [self.channels.div_ceil(TILE) as u32, 1, self.images as u32],
            block: [threads as u32, 1, 1],
            shared_bytes: 0,
            cluster: 1,
        }
    }

    /// The same with all groups in one block, which takes some together.
    fn finish_together(&self, params: &Params) -> Launch {
        let mut launch = self.finish(params, MOST_THREADS / 2);
        launch.grid[2] = 1;
        launch.block[1] = (self.images as u32).clamp(1, MOST_THREADS as u32 / launch.block[0]);
        launch
    }

    /// Launch of a pass over images: as many threads as run at the same time on the card, so that each works out its channels'
    /// parameters once. A thread's channels are 16 bytes of the accumulator.
    fn elementwise(&self, x: &Tensor) -> Result<(Launch, Params)> {
        let width = if self.flags & VECTOR != 0 { 16 / x.dtype().accumulator().size() } else { 1 };
        let groups = self.channels / width;
        let resident = x.device().multiprocessors()? * RESIDENT_BLOCKS * THREADS / self.images;
        let span = (resident / groups).clamp(1, self.rows.div_ceil(ROWS_HELD).max(1));
        let mut launch = Launch::linear(OP, span * groups)?;
        launch.grid[2] = self.images as u32;
        Ok((launch, self.params(span)))
    }
}

pub(super) fn moments<T: Element>(x: &Tensor, groups: usize) -> Result<Moments> {
    let plan = Plan::new(x, groups, false, 0.0)?;
    let device = x.device();
    let (launch, params, chunks) = plan.reduction();
    let accumulator = x.dtype().accumulator();
    let mut partial = Tensor::empty(&[chunks, 2, plan.channels], accumulator, device)?;
    // SAFETY: the grid covers the channel groups and chunks of `params`, for which `partial` has room.
    unsafe { batch_norm_moments::<T>(device, launch, x, &mut partial, params)? };
    finish_moments::<T>(&plan, &partial, params)
}

/// The statistics from pieces that the convolution left.
pub(super) fn join_pieces<T: Element>(x: &Tensor, groups: usize, pieces: &BatchNormPartialStats) -> Result<Moments> {
    let plan = Plan::new(x, groups, false, 0.0)?;
    finish_moments::<T>(&plan, &pieces.partial, plan.params(pieces.piece))
}

/// `partial` holds the chunks of `params.span` rows of every group.
fn finish_moments<T: Element>(plan: &Plan, partial: &Tensor, params: Params) -> Result<Moments> {
    let (device, groups) = (partial.device(), plan.images);
    let vector = || Tensor::empty(&statistics_shape(groups, plan.channels), T::DTYPE.accumulator(), device);
    let (mut mean, mut biased, mut unbiased) = (vector()?, vector()?, vector()?);
    // SAFETY: `partial` holds the chunks of `params`; the vectors have `channels` elements a group, which the grid covers.
    unsafe {
        batch_norm_moments_finish::<T::Accumulator>(
            device,
            plan.finish(&params, MOST_THREADS),
            partial,
            &mut mean,
            &mut biased,
            &mut unbiased,
            params,
        )?;
    }
    Ok(Moments { mean, biased, unbiased })
}

pub(super) fn normalise<T: Element>(
    x: &Tensor,
    residual: Option<&Tensor>,
    affine: &Affine,
    relu: bool,
) -> Result<Tensor> {
    let statistics = &affine.statistics;
    let (launch, params) = Plan::new(x, statistics.groups, relu, statistics.epsilon)?.elementwise(x)?;
    let mut y = x.empty_like()?;
    let (mean, variance) = (&statistics.mean, &statistics.variance);
    // SAFETY: the caller checked that the residual has the shape of x and the vectors one element a channel.
    unsafe {
        batch_norm_forward::<T>(
            x.device(),
            launch,
            x,
            residual,
            mean,
            variance,
            &affine.scale,
            &affine.shift,
            &mut y,
            params,
        )?;
    }
    Ok(y)
}

impl Saved {
    /// A ReLU's mask needs y or x: without either the kernel would take garbage.
    fn check_kept(&self) -> Result<()> {
        match self.relu && self.x.is_none() && self.y.is_none() {
            true => Err(Error::Internal("batch_norm kept neither x nor y".into())),
            false => Ok(()),
        }
    }
}

pub(super) fn sums<T: Element>(saved: &Saved, dy: &Tensor) -> Result<Sums> {
    saved.check_kept()?;
    let Affine { statistics, scale, shift } = &saved.affine;
    let plan = Plan::new(dy, statistics.groups, saved.relu, statistics.epsilon)?;
    let device = dy.device();
    let (launch, params, chunks) = plan.reduction();
    let accumulator = dy.dtype().accumulator();
    let mut partial = Tensor::empty(&[chunks, 2, plan.channels], accumulator, device)?;
    let (mean, variance) = (&statistics.mean, &statistics.variance);
    // SAFETY: x and y, where given, have the shape of dy; the grid covers the channel groups and chunks of `params`,
    // for which `partial` has room.
    unsafe {
        let (x, y) = (saved.x.as_ref(), saved.y.as_ref());
        batch_norm_sums::<T>(device, launch, x, y, dy, mean, variance, scale, shift, &mut partial, params)?;
    }
    finish_sums::<T>(saved, &plan, &partial, params)
}

/// The sums from pieces that a convolution left: [groups,pieces,2,C].
pub(super) fn join_sums<T: Element>(saved: &Saved, dy: &Tensor, pieces: &Tensor) -> Result<Sums> {
    let statistics = &saved.affine.statistics;
    let mut plan = Plan::new(dy, statistics.groups, false, statistics.epsilon)?;
    // Sums need no counts: a piece is a row of one.
    plan.rows = pieces.dims::<4>(OP)?[1];
    finish_sums::<T>(saved, &plan, pieces, plan.params(1))
}

/// `partial` holds the chunks of `params.span` rows of every group.
fn finish_sums<T: Element>(saved: &Saved, plan: &Plan, partial: &Tensor, params: Params) -> Result<Sums> {
    let (device, groups) = (partial.device(), plan.images);
    let accumulator = T::DTYPE.accumulator();
    let variance = &saved.affine.statistics.variance;
    let vector = |groups| Tensor::empty(&statistics_shape(groups, plan.channels), accumulator, device);
    let (mut dscale, mut dshift) = (vector(groups)?, vector(groups)?);
    let mut total = (groups > 1).then(|| Ok::<_, Error>((vector(1)?, vector(1)?))).transpose()?;
    // SAFETY: `partial` holds the chunks of `params`; the vectors have `channels` elements a group, the totals `channels`,
    // which the grid covers.
    unsafe {
        let (scale, shift) = total.as_mut().map(|(scale, shift)| (scale, shift)).unzip();
        batch_norm_sums_finish::<T::Accumulator>(
            device,
            plan.finish_together(&params),
            partial,
            variance,
            &mut dscale,
            &mut dshift,
            scale,
            shift,
            params,
        )?;
    }
    let total = total.map(|(scale, shift)| Total { shift, scale });
    Ok(Sums { shift: dshift, scale: dscale, total })
}

pub(super) fn images<T: Element>(
    saved: &Saved,
    dy: Tensor,
    sums: Option<&Sums>,
    wanted: Wanted,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    saved.check_kept()?;
    if sums.is_some() && saved.x.is_none() {
        return Err(Error::Internal("batch_norm did not keep x".into()));
    }
    // Without ReLU the residual's gradient is dy itself.
    let copies = wanted.residual && !saved.relu;
    if copies && !wanted.x {
        return Ok((None, Some(dy)));
    }
    let Affine { statistics, scale, shift } = &saved.affine;
    let plan = Plan::new(&dy, statistics.groups, saved.relu, statistics.epsilon)?;
    let (launch, params) = plan.elementwise(&dy)?;
    let mut dx = wanted.x.then(|| dy.empty_like()).transpose()?;
    let mut dresidual = (wanted.residual && !copies).then(|| dy.empty_like()).transpose()?;
    let (mean, variance) = (&statistics.mean, &statistics.variance);
    let (dscale, dshift) = (sums.map(|sums| &sums.scale), sums.map(|sums| &sums.shift));
    // SAFETY: all images have the shape of dy and all vectors one element a channel.
    unsafe {
        let (x, y) = (saved.x.as_ref(), saved.y.as_ref());
        batch_norm_backward::<T>(
            dy.device(),
            launch,
            x,
            y,
            &dy,
            mean,
            variance,
            scale,
            shift,
            dscale,
            dshift,
            dx.as_mut(),
            dresidual.as_mut(),
            params,
        )?;
    }
    Ok((dx, if copies { Some(dy) } else { dresidual }))
}
