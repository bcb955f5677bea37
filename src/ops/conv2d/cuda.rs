//! Launches of the kernels that `heuristic` chooses.

pub(in crate::ops) mod epilogue;
mod few_channels;
mod mma;
mod scheduler;
mod simt;
mod split_k;
mod wgmma;

use super::{
    ConvProblem, MathMode, OP,
    heuristic::{
        Algorithm::{FewChannels, Mma, Simt, Wgmma},
        Choice,
        SimtTile::{Narrow, Wide},
        TuneKey, choose,
    },
    mma_tiling::{self, GemmProblem, MmaTile, PIXELS, Tiling, cut},
    problem::{Direction, extents},
};
use crate::{
    DType, Device, Error, Result, Tensor,
    autograd::{Contribution, GradientRequest},
    device::Launch,
    ops::{
        batch_norm,
        epilogue::{BatchNormBackwardEpilogue, BatchNormEpilogue, BatchNormPartialStats},
    },
    tensor::{Declaration, Element},
};
use epilogue::{DataGradientEpilogue, ForwardEpilogue};

/// What the kernel files declare.
pub(crate) fn declarations() -> Vec<Declaration> {
    [
        simt::declarations(),
        mma::declarations(),
        split_k::declarations(),
        few_channels::declarations(),
        wgmma::declarations(),
    ]
    .concat()
}

/// Threads of a block of the tiled kernels (CONV_THREADS, MMA_THREADS).
const THREADS: u32 = 128;

/// `tiles` blocks, for each of `layers` in z.
fn tiled(tiles: usize, layers: usize, block: [u32; 3]) -> Result<Launch> {
    if layers > 65_535 {
        return Err(Error::shape(
            OP,
            format!("{layers} phases (stride x stride) exceed the grid; use a smaller stride"),
        ));
    }
    let mut launch = Launch::blocks(OP, tiles, THREADS)?;
    launch.grid[2] = layers as u32;
    Ok(Launch { block, ..launch })
}

/// What a forward pass made.
pub(super) struct Output {
    pub y: Tensor,
    pub moments: Option<BatchNormPartialStats>,
    /// Whether y has gone through the batch norm.
    pub normalized: bool,
}

pub(super) fn forward<T: Element>(
    problem: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    math_mode: MathMode,
    groups: Option<usize>,
    norm: &BatchNormEpilogue<'_>,
) -> Result<Output> {
    let choice = choose(Direction::Forward, problem, T::DTYPE, math_mode, x.device().has_warpgroup_products());
    if let FewChannels(tile) = choice.algorithm {
        return few_channels::forward::<T>(problem, tile, x, w, bias, groups, norm);
    }
    let (direction, dtype) = (Direction::Forward, T::DTYPE);
    let key = TuneKey { direction, problem, dtype, groups, accumulate: false, epilogue: false };
    let choice = key.tuned(x.device(), choice, |choice| {
        let Output { y, moments, .. } = forward_by::<T>(choice, problem, x, w, bias, groups, norm)?;
        // What is left to batch norm counts too.
        groups.map_or(Ok(()), |groups| batch_norm::try_statistics(&y, groups, moments.as_ref()))
    })?;
    forward_by::<T>(choice, problem, x, w, bias, groups, norm)
}

/// The tiling of a forward pass or data gradient with split-K.
fn with_split_k(choice: Choice) -> Option<Tiling> {
    match choice {
        Choice { algorithm: Mma(tile), split_k } if split_k > 1 => Some(Tiling { tile, split_k }),
        _ => None,
    }
}

fn forward_by<T: Element>(
    choice: Choice,
    problem: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
    norm: &BatchNormEpilogue<'_>,
) -> Result<Output> {
    let plain = |y| Ok(Output { y, moments: None, normalized: false });
    if let Wgmma(tiling) = choice.algorithm {
        return wgmma::forward::<T>(tiling, problem, x, w, bias, groups, norm);
    }
    if let Some(tiling) = with_split_k(choice) {
        return plain(split_k::forward::<T>(tiling, problem, x, w, bias)?);
    }
    let (device, p, algorithm) = (x.device(), *problem, choice.algorithm);
    let mut y = Tensor::empty(&problem.output(), T::DTYPE, device)?;
    let Mma(tile) = algorithm else {
        let (m, n) = extents(Direction::Forward, problem);
        let launch = tiled(algorithm.tiles(m, n), 1, [THREADS, 1, 1])?;
        // SAFETY: the tensors have the extents of `problem`, which the caller checked; the grid covers y in tiles.
        unsafe {
            match algorithm {
                Simt(Wide) => simt::conv2d_forward_wide::<T>(device, launch, x, w, bias, &mut y, p)?,
                Simt(Narrow) => simt::conv2d_forward_narrow::<T>(device, launch, x, w, bias, &mut y, p)?,
                Mma(_) | FewChannels(_) | Wgmma(_) => return Err(elsewhere()),
            }
        }
        return plain(y);
    };
    let norm = norm.by_chunks(problem.k as usize, T::DTYPE);
    let (launch, group, mut moments) = by_groups(problem, tile, groups, device)?;
    let epilogue = ForwardEpilogue::new(bias, moments.as_mut().map(|moments| &mut moments.partial), &norm);
    // SAFETY: the tensors have the extents of `problem`, which the caller checked; the grid covers y in tiles, group by group,
    // and the moments have room for each group's pieces; the shared memory is the tile's, and so are the channels that it
    // takes; the residual has y's shape, and the vectors a value for each channel.
    unsafe { mma::conv2d_mma_forward::<T>(device, launch, tile, x, w, &mut y, epilogue, p, group)? };
    Ok(Output { y, moments, normalized: norm.is_some() })
}

/// The launch of a forward pass whose tiles end with each group, the pixels of a group, and room for the groups' moments where
/// they are wanted, channels come in pairs and the tile takes them. Without moments the batch is one group.
fn by_groups(
    problem: &ConvProblem,
    tile: MmaTile,
    groups: Option<usize>,
    device: &Device,
) -> Result<(Launch, i32, Option<BatchNormPartialStats>)> {
    let k = problem.k as usize;
    let groups = groups.filter(|_| k.is_multiple_of(2) && tile != MmaTile::Slim);
    let (layers, pixels) = (groups.unwrap_or(1), pixels(problem));
    let group = pixels / layers;
    let moments =
        groups.map(|groups| BatchNormPartialStats::empty(groups, group, tile.piece(), k, device)).transpose()?;
    let launch = tiled(tile.count(group, k), layers, [THREADS, 1, 1])?;
    Ok((Launch { shared_bytes: tile.shared_bytes(), ..launch }, group as i32, moments))
}

pub(super) fn data_gradient<T: Element>(
    problem: &ConvProblem,
    dy: &Tensor,
    w: &Tensor,
    math_mode: MathMode,
    request: &mut GradientRequest,
) -> Result<Contribution> {
    let choice = choose(Direction::DataGradient, problem, T::DTYPE, math_mode, dy.device().has_warpgroup_products());
    let accumulates = matches!(choice.algorithm, Mma(_) | Wgmma(_));
    let sum = if accumulates { request.take_accumulate(&problem.input()) } else { None };
    let (sum, request) = (sum.as_ref(), &*request);
    let (direction, dtype) = (Direction::DataGradient, T::DTYPE);
    let (accumulate, epilogue) = (sum.is_some(), request.epilogue().is_some());
    let key = TuneKey { direction, problem, dtype, groups: None, accumulate, epilogue };
    let choice =
        key.tuned(dy.device(), choice, |choice| data_gradient_by::<T>(choice, problem, dy, w, sum, request).map(drop))?;
    data_gradient_by::<T>(choice, problem, dy, w, sum, request)
}

/// `accumulate` is for tensor cores alone. The epilogue is applied where the kernel can.
fn data_gradient_by<T: Element>(
    choice: Choice,
    problem: &ConvProblem,
    dy: &Tensor,
    w: &Tensor,
    accumulate: Option<&Tensor>,
    request: &GradientRequest,
) -> Result<Contribution> {
    if let Wgmma(tiling) = choice.algorithm {
        return wgmma::data_gradient::<T>(tiling, problem, dy, w, accumulate, request);
    }
    if let Some(tiling) = with_split_k(choice) {
        return Ok(split_k::data_gradient::<T>(tiling, problem, dy, w, accumulate)?.into());
    }
    let (device, p, algorithm) = (dy.device(), *problem, choice.algorithm);
    let mut dx = Tensor::empty(&problem.input(), T::DTYPE, device)?;
    let phases = problem.stride[0] as usize * problem.stride[1] as usize;
    let Mma(tile) = algorithm else {
        let (m, n) = extents(Direction::DataGradient, problem);
        let launch = tiled(algorithm.tiles(m, n), phases, [THREADS, 1, 1])?;
        // SAFETY: the tensors have the extents of `problem`; the grid covers the largest phase in tiles, and every phase.
        unsafe {
            match algorithm {
                Simt(Wide) => simt::conv2d_data_gradient_wide::<T>(device, launch, dy, w, &mut dx, p)?,
                Simt(Narrow) => simt::conv2d_data_gradient_narrow::<T>(device, launch, dy, w, &mut dx, p)?,
                Mma(_) | FewChannels(_) | Wgmma(_) => return Err(elsewhere()),
            }
        }
        return Ok(dx.into());
    };
    let norm = BatchNormBackwardEpilogue::of(request, &dx);
    // Tiles end with each group of images that has statistics of its own.
    let ([n, h, width, c], [down, across]) = (problem.input(), problem.stride.map(|stride| stride as usize));
    let rows = n / norm.groups * h.div_ceil(down) * width.div_ceil(across);
    let launch = tiled(tile.count(rows, c), norm.groups * phases, [THREADS, 1, 1])?;
    let launch = Launch { shared_bytes: tile.shared_bytes(), ..launch };
    let mut norm = norm.with_room(phases * rows.div_ceil(tile.m()))?;
    let epilogue = DataGradientEpilogue::new(accumulate, &mut norm);
    // SAFETY: the tensors have the extents of `problem`, the epilogue's images those of dx, and its vectors a value for each
    // channel (mean and variance for each group); the grid covers the largest phase of a group in tiles, every phase and every
    // group, for which the sums have room; the shared memory is the tile's, and so are the channels that it takes.
    unsafe { mma::conv2d_mma_data_gradient::<T>(device, launch, tile, dy, w, &mut dx, epilogue, p)? };
    Ok(Contribution { gradient: dx, fused: norm.fused() })
}

pub(super) fn weight_gradient<T: Element>(
    problem: &ConvProblem,
    dy: &Tensor,
    x: &Tensor,
    math_mode: MathMode,
) -> Result<Tensor> {
    let choice = choose(Direction::WeightGradient, problem, T::DTYPE, math_mode, dy.device().has_warpgroup_products());
    let FewChannels(tile) = choice.algorithm else { return tuned_weight_gradient::<T>(choice, problem, dy, x) };
    // The padded problem on the ordinary kernels of the tensor cores.
    let (x, padded) = (few_channels::image::<T>(problem, x)?, few_channels::padded(problem));
    let tiling = GemmProblem::new(Direction::WeightGradient, &padded, T::DTYPE).with_split_k(tile);
    let choice = Choice { algorithm: Mma(tile), split_k: tiling.split_k };
    few_channels::filter_gradient::<T>(problem, &tuned_weight_gradient::<T>(choice, &padded, dy, &x)?)
}

fn tuned_weight_gradient<T: Element>(
    heuristic: Choice,
    problem: &ConvProblem,
    dy: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (direction, dtype) = (Direction::WeightGradient, T::DTYPE);
    let key = TuneKey { direction, problem, dtype, groups: None, accumulate: false, epilogue: false };
    let choice =
        key.tuned(dy.device(), heuristic, |choice| weight_gradient_by::<T>(choice, problem, dy, x).map(drop))?;
    weight_gradient_by::<T>(choice, problem, dy, x)
}

fn weight_gradient_by<T: Element>(choice: Choice, problem: &ConvProblem, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    if let Wgmma(tiling) = choice.algorithm {
        return wgmma::weight_gradient::<T>(tiling, problem, dy, x);
    }
    let (device, p, algorithm) = (dy.device(), *problem, choice.algorithm);
    let (m, n) = extents(Direction::WeightGradient, problem);
    let tiles = algorithm.tiles(m, n);
    let (layers, range) = cut(pixels(problem), choice.split_k, PIXELS);
    let launch = Launch { shared_bytes: algorithm.shared_bytes(), ..tiled(tiles, layers, [THREADS, 1, 1])? };
    let shape = problem.filter();
    let mut sums = partial(layers, &shape, dy)?;
    let (to, range) = (&mut sums, range as i32);
    // SAFETY: the tensors have the extents of `problem`; the grid covers the filter in tiles and the pixels in ranges,
    // one layer of `sums` each; the shared memory is the algorithm's, and so are the channels that it takes.
    unsafe {
        match algorithm {
            Simt(_) if T::DTYPE == DType::F64 => {
                simt::conv2d_weight_gradient_narrow_f64(device, launch, dy, x, to, p, range)?;
            }
            Simt(Wide) => simt::conv2d_weight_gradient_wide::<T>(device, launch, dy, x, to, p, range)?,
            Simt(Narrow) => simt::conv2d_weight_gradient_narrow::<T>(device, launch, dy, x, to, p, range)?,
            Mma(tile) => mma::conv2d_mma_weight_gradient::<T>(device, launch, tile, dy, x, to, p, range)?,
            FewChannels(_) | Wgmma(_) => return Err(elsewhere()),
        }
    }
    reduce::<T>(&sums, &shape, layers)
}

pub(super) fn bias_gradient<T: Element>(problem: &ConvProblem, dy: &Tensor) -> Result<Tensor> {
    let shape = [problem.k as usize];
    let blocks = shape[0].div_ceil(32);
    let (layers, range) = mma_tiling::split_k(blocks, pixels(problem));
    let launch = tiled(blocks, layers, [32, 8, 1])?;
    let mut partial = partial(layers, &shape, dy)?;
    // SAFETY: dy has the extents of `problem`; the grid covers its channels and, in ranges, its pixels, one layer of
    // `partial` each.
    unsafe {
        if T::DTYPE == DType::F64 {
            simt::conv2d_bias_gradient_f64(dy.device(), launch, dy, &mut partial, *problem, range as i32)?;
        } else {
            simt::conv2d_bias_gradient::<T>(dy.device(), launch, dy, &mut partial, *problem, range as i32)?;
        }
    }
    reduce::<T>(&partial, &shape, layers)
}

/// Few channels and warpgroups have launches of their own.
fn elsewhere() -> Error {
    Error::Internal("conv2d: a GEMM was sent to the kernels of another algorithm".into())
}

/// Pixels of the output.
fn pixels(problem: &ConvProblem) -> usize {
    problem.output()[..3].iter().product()
}

/// Workspace for sums over `layers` ranges.
fn partial(layers: usize, shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::empty(&[&[layers], shape].concat(), like.dtype().accumulator(), like.device())
}

/// The sums over ranges, added in order.
pub(in crate::ops) fn reduce<T: Element>(partial: &Tensor, shape: &[usize], layers: usize) -> Result<Tensor> {
    let device = partial.device();
    let mut out = Tensor::empty(shape, T::DTYPE, device)?;
    let launch = Launch::linear(OP, out.len())?;
    let (count, layers) = (out.len() as i32, layers as i32);
    // SAFETY: `partial` holds `layers` times `count` elements, `out` `count`, which the launch covers.
    unsafe {
        if T::DTYPE == DType::F64 {
            simt::conv2d_reduce_f64(device, launch, partial, &mut out, count, layers)?;
        } else {
            simt::conv2d_reduce::<T>(device, launch, partial, &mut out, count, layers)?;
        }
    }
    Ok(out)
}
