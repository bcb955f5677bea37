//! Launches of `kernels/batch_norm.cu`.

use half::bf16;

use super::{Affine, Moments, OP, Saved, Sums, Wanted};
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
    rows: i32,
    channels: i32,
    /// Rows of a chunk in reductions; distance between a thread's rows in elementwise kernels.
    span: i32,
    flags: i32,
    epsilon: f64,
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
    /// Gradients of scale and shift from the chunks.
    fn batch_norm_sums_finish<T in f32 | f64>(
        partial: In<T>, variance: In<T>, dscale: Out<T>, dshift: Out<T>, p: Val<Params>
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
/// Blocks that fill a large GPU several times over; fixed, so that sums do not depend on the card.
const BLOCKS: usize = 1024;
/// Rows that a thread of an elementwise kernel serves at least.
const ROWS_EACH: usize = 4;

/// How an image of `rows` pixels is spread over threads; depends on the shape and the dtype alone.
struct Plan {
    rows: usize,
    channels: usize,
    /// Groups of channels that one thread serves together.
    groups: usize,
    flags: i32,
    epsilon: f64,
}

impl Plan {
    fn new(x: &Tensor, relu: bool, epsilon: f64) -> Result<Self> {
        let [n, h, w, channels] = x.dims(OP)?;
        // The kernels index rows and elements with 32 bits.
        Launch::linear(OP, x.len())?;
        let width = 16 / x.dtype().size();
        let vector = channels % width == 0;
        let groups = if vector { channels / width } else { channels };
        let flags = if vector { VECTOR } else { 0 } | if relu { RELU } else { 0 };
        Ok(Self { rows: n * h * w, channels, groups, flags, epsilon })
    }

    fn params(&self, span: usize) -> Params {
        let [rows, channels, span] = [self.rows, self.channels, span].map(|extent| extent as i32);
        Params { rows, channels, span, flags: self.flags, epsilon: self.epsilon }
    }

    /// Launch of a reduction over rows, its parameters, and the number of chunks.
    fn reduction(&self) -> (Launch, Params, usize) {
        let width = [8, 16].into_iter().find(|&width| width >= self.groups).unwrap_or(32);
        let height = THREADS / width;
        let tiles = self.groups.div_ceil(width);
        let most = self.rows.div_ceil(height * ROWS_EACH).max(1);
        let span = self.rows.div_ceil((BLOCKS / tiles).clamp(1, most)).max(1);
        let chunks = self.rows.div_ceil(span);
        let grid = [tiles as u32, chunks.max(1) as u32, 1];
        (Launch { grid, block: [width as u32, height as u32, 1], shared_bytes: 0 }, self.params(span), chunks)
    }

    fn finish(&self) -> Launch {
        Launch { grid: [self.channels.div_ceil(32) as u32, 1, 1], block: [32, 8, 1], shared_bytes: 0 }
    }

    fn elementwise(&self) -> Result<(Launch, Params)> {
        let span = self.rows.div_ceil(ROWS_EACH).max(1);
        Ok((Launch::linear(OP, span * self.groups)?, self.params(span)))
    }
}

pub(super) fn moments<T: Element>(x: &Tensor) -> Result<Moments> {
    let plan = Plan::new(x, false, 0.0)?;
    let device = x.device();
    let (launch, params, chunks) = plan.reduction();
    let accumulator = x.dtype().accumulator();
    let mut partial = Tensor::empty(&[chunks, 2, plan.channels], accumulator, device)?;
    // SAFETY: the grid covers the channel groups and chunks of `params`, for which `partial` has room.
    unsafe { batch_norm_moments::<T>(device, launch, x, &mut partial, params)? };
    let vector = || Tensor::empty(&[plan.channels], accumulator, device);
    let (mut mean, mut biased, mut unbiased) = (vector()?, vector()?, vector()?);
    // SAFETY: `partial` holds the chunks of `params`; the vectors have `channels` elements, which the grid covers.
    unsafe {
        batch_norm_moments_finish::<T::Accumulator>(
            device,
            plan.finish(),
            &partial,
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
    let (launch, params) = Plan::new(x, relu, statistics.epsilon)?.elementwise()?;
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
    let plan = Plan::new(dy, saved.relu, statistics.epsilon)?;
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
    let vector = || Tensor::empty(&[plan.channels], accumulator, device);
    let (mut dscale, mut dshift) = (vector()?, vector()?);
    // SAFETY: `partial` holds the chunks of `params`; the vectors have `channels` elements, which the grid covers.
    unsafe {
        batch_norm_sums_finish::<T::Accumulator>(
            device,
            plan.finish(),
            &partial,
            variance,
            &mut dscale,
            &mut dshift,
            params,
        )?;
    }
    Ok(Sums { shift: dshift, scale: dscale })
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
    let (launch, params) = Plan::new(&dy, saved.relu, statistics.epsilon)?.elementwise()?;
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
