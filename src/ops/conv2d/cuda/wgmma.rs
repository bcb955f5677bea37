//! The kernels of `kernels/conv2d_sm90.cu`: bf16 by warpgroups, for what `wgmma_tiling::suits`.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::{
    Output,
    epilogue::{DataGradient, DataGradientEpilogue, Forward, ForwardEpilogue},
    scheduler::{Schedule, TileScheduler},
};
use crate::{
    Result, Tensor,
    autograd::{Contribution, GradientRequest},
    device::{Launch, MapAccess, MapSpec},
    kernels,
    ops::{
        conv2d::{
            ConvProblem, OP,
            problem::Direction,
            wgmma_tiling::{K_TILE, STATS_ROWS, WgmmaTile, WgmmaTiling},
        },
        epilogue::{BatchNormBackwardEpilogue, BatchNormEpilogue, BatchNormPartialStats},
    },
    tensor::{Element, MapIn, MapOut, OptMapIn, Out, Val},
};

/// `FixupTile` of kernels/conv2d_sm90.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct FixupTile {
    /// M and N.
    bm: i32,
    bn: i32,
    /// Whether each warpgroup has a tile of its own.
    pingpong: i32,
    /// Blocks of a cluster.
    cluster: i32,
}

kernels! { "conv2d_sm90";
    /// y = x * w, and what its epilogue adds; the residual by its map.
    fn conv2d_wgmma_forward<T in bf16; WgmmaTile in [wide tall square narrow]>(
        x: MapIn<T>, w: MapIn<T>, y: MapOut<T>, residual: OptMapIn<T>, epilogue: Forward<T>, problem: Val<ConvProblem>,
        scheduler: Schedule
    );
    /// dx from dy and w, and what its epilogue adds; its images by their maps.
    fn conv2d_wgmma_data_gradient<T in bf16; WgmmaTile in [wide tall square narrow]>(
        dy: MapIn<T>, w: MapIn<T>, dx: MapOut<T>, accumulate: OptMapIn<T>, x: OptMapIn<T>, y: OptMapIn<T>,
        epilogue: DataGradient<T>, problem: Val<ConvProblem>, scheduler: Schedule
    );
    /// dw from dy and x.
    fn conv2d_wgmma_weight_gradient<T in bf16; WgmmaTile in [wide tall square narrow]>(
        dy: MapIn<T>, x: MapIn<T>, dw: MapOut<T>, problem: Val<ConvProblem>, scheduler: Schedule
    );
    /// dw from the partial sums of its tail, added in the order of the pixels.
    fn conv2d_wgmma_weight_gradient_fixup<T in bf16>(
        dw: Out<T>, problem: Val<ConvProblem>, scheduler: Schedule, tile: Val<FixupTile>
    );
}

/// Whether it is a matrix product of the pixels: 1 x 1, stride 1, no padding.
fn is_pointwise(p: &ConvProblem) -> bool {
    (p.r, p.s, p.stride, p.padding) == (1, 1, [1, 1], [0, 0])
}

fn map(extents: &[i32], boxes: &[usize]) -> MapSpec {
    let extents: Vec<u64> = extents.iter().map(|&extent| extent as u64).collect();
    let strides = (1..extents.len()).map(|i| 2 * extents[..i].iter().product::<u64>()).collect();
    let access = MapAccess::Tiled { extents: boxes.iter().map(|&extent| extent as u32).collect() };
    MapSpec { element: 2, extents, strides, access, swizzled: true }
}

/// Of an image [N, H, W, C], `pixels` and 64 channels at a time: under the windows of a convolution with `p`, or `backward` under
/// those of its data gradient.
fn pixels_map(p: &ConvProblem, backward: bool, pixels: usize) -> MapSpec {
    let [h, w, c] = if backward { [p.p, p.q, p.k] } else { [p.h, p.w, p.c] };
    if is_pointwise(p) {
        return map(&[c, p.n * h * w], &[64, pixels]);
    }
    // Along x, then y.
    let axis = |i: usize| {
        let reach = ([p.r, p.s][i] - 1) * p.dilation[i];
        let (image, windows, step) = match backward {
            false => ([p.h, p.w][i], [p.p, p.q][i], p.stride[i]),
            true => ([p.p, p.q][i], [p.h, p.w][i], 1),
        };
        let lower = if backward { p.padding[i] - reach } else { -p.padding[i] };
        (lower, lower + (windows - 1) * step - (image - 1), step as u32)
    };
    let (x, y) = (axis(1), axis(0));
    let access = MapAccess::Im2col {
        lower: [x.0, y.0],
        upper: [x.1, y.1],
        channels: 64,
        pixels: pixels as u32,
        step: [x.2, y.2],
    };
    MapSpec { access, ..map(&[c, w, h, p.n], &[]) }
}

/// Of the filter, 64 channels and 64 filters at a time.
fn filter_map(p: &ConvProblem) -> MapSpec {
    map(&[p.c, p.r * p.s, p.k], &[64, 1, 64])
}

/// Of an output, by groups of pixels.
fn output_map(channels: i32, group: usize, layers: usize) -> MapSpec {
    map(&[channels, group as i32, layers as i32], &[64, 64, 1])
}

pub(super) fn forward<T: Element>(
    tiling: WgmmaTiling,
    problem: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
    norm: &BatchNormEpilogue<'_>,
) -> Result<Output> {
    let (tile, device, p, k) = (tiling.warpgroups, x.device(), *problem, problem.k as usize);
    let mut y = Tensor::empty(&problem.output(), T::DTYPE, device)?;
    // Tiles end with each group.
    let layers = groups.unwrap_or(1);
    let group = super::pixels(problem) / layers;
    let mut moments =
        groups.map(|groups| BatchNormPartialStats::empty(groups, group, STATS_ROWS, k, device)).transpose()?;
    let k_tiles = problem.r as usize * problem.s as usize * (problem.c as usize).div_ceil(K_TILE);
    let scheduler = TileScheduler::new(tiling, layers, [group, k], k_tiles, device)?;
    let (mut workspace, launch) = (scheduler.workspace(tiling, device)?, scheduler.launch(tiling, device)?);
    let schedule = (scheduler, workspace.as_mut(), scheduler.semaphores(tiling));
    let (xs, ws) = (pixels_map(&p, false, tile.extent().0), filter_map(&p));
    let ys = output_map(p.k, group, layers);
    let residual = norm.residual.map(|residual| (residual, &ys));
    let epilogue = ForwardEpilogue::new(bias, moments.as_mut().map(|moments| &mut moments.partial), norm);
    let (xs, ws, ys) = ((x, &xs), (w, &ws), (&mut y, &ys));
    // SAFETY: the maps stay within their tensors, which have the extents of `problem`, and have the boxes of the tile; the scheduler
    // covers y in tiles, group by group, the moments have room for each group's pieces, and the workspace for the partial sums; the
    // shared memory is the tile's; the residual has y's shape, and the vectors a value for each channel.
    unsafe { conv2d_wgmma_forward::<T>(device, launch, tile, xs, ws, ys, residual, epilogue, p, schedule)? };
    scheduler.describe(device, Direction::Forward, problem, tiling);
    Ok(Output { y, moments, normalized: norm.is_some() })
}

pub(super) fn data_gradient<T: Element>(
    tiling: WgmmaTiling,
    problem: &ConvProblem,
    dy: &Tensor,
    w: &Tensor,
    accumulate: Option<&Tensor>,
    request: &GradientRequest,
) -> Result<Contribution> {
    let (tile, device, p, [n, h, width, c]) = (tiling.warpgroups, dy.device(), *problem, problem.input());
    let mut dx = Tensor::empty(&problem.input(), T::DTYPE, device)?;
    let norm = BatchNormBackwardEpilogue::of(request, &dx).with_mask_from_y();
    // Tiles end with each group of images that has statistics of its own.
    let (layers, group) = (norm.groups, n / norm.groups * h * width);
    let mut norm = norm.with_room(group.div_ceil(STATS_ROWS))?;
    let k_tiles = problem.r as usize * problem.s as usize * (problem.k as usize).div_ceil(K_TILE);
    let scheduler = TileScheduler::new(tiling, layers, [group, c], k_tiles, device)?;
    let (mut workspace, launch) = (scheduler.workspace(tiling, device)?, scheduler.launch(tiling, device)?);
    let schedule = (scheduler, workspace.as_mut(), scheduler.semaphores(tiling));
    let (dys, ws) = (pixels_map(&p, true, tile.extent().0), filter_map(&p));
    let dxs = output_map(p.c, group, layers);
    let [more, x, y] = [accumulate, norm.x, norm.y].map(|image| image.map(|image| (image, &dxs)));
    let epilogue = DataGradientEpilogue::new(accumulate, &mut norm);
    let (dys, ws, dxs) = ((dy, &dys), (w, &ws), (&mut dx, &dxs));
    // SAFETY: as above; the epilogue's images have the extents of dx, its vectors a value for each channel (mean and variance for
    // each group), and its sums have room for each group's pieces.
    unsafe {
        conv2d_wgmma_data_gradient::<T>(device, launch, tile, dys, ws, dxs, more, x, y, epilogue, p, schedule)?;
    }
    scheduler.describe(device, Direction::DataGradient, problem, tiling);
    Ok(Contribution { gradient: dx, fused: norm.fused() })
}

pub(super) fn weight_gradient<T: Element>(
    tiling: WgmmaTiling,
    problem: &ConvProblem,
    dy: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (tile, device, p, shape) = (tiling.warpgroups, dy.device(), *problem, problem.filter());
    let mut dw = Tensor::empty(&shape, T::DTYPE, device)?;
    let (pixels, n) = (super::pixels(problem), shape[1] * shape[2] * shape[3].next_multiple_of(K_TILE));
    let scheduler = TileScheduler::new(tiling, 1, [shape[0], n], pixels.div_ceil(K_TILE), device)?;
    let (mut workspace, launch) = (scheduler.workspace(tiling, device)?, scheduler.launch(tiling, device)?);
    let (dys, xs, dws) = (map(&[p.k, pixels as i32], &[64, K_TILE]), pixels_map(&p, false, K_TILE), filter_map(&p));
    let (dys, xs, dws) = ((dy, &dys), (x, &xs), (&mut dw, &dws));
    // SAFETY: as above; the scheduler covers the filter in tiles.
    unsafe {
        let schedule = (scheduler, workspace.as_mut(), 0);
        conv2d_wgmma_weight_gradient::<T>(device, launch, tile, dys, xs, dws, p, schedule)?;
    }
    scheduler.describe(device, Direction::WeightGradient, problem, tiling);
    if let Some(mut workspace) = workspace {
        let ((bm, bn), pingpong) = (tile.extent(), i32::from(tile.is_pingpong()));
        let [bm, bn, cluster] = [bm, bn, tiling.cluster].map(|extent| extent as i32);
        // 64 x 8 results a block.
        let blocks = tiling.partial_elements() / (64 * 8) * tiling.cluster;
        let mut launch = Launch::blocks(OP, blocks, 128)?;
        launch.grid[1] = scheduler.sk_tiles() as u32;
        let schedule = (scheduler, Some(&mut workspace), 0);
        // SAFETY: the workspace has the partial sums of all units of the scheduler, and dw the extents of
        // `problem`.
        unsafe {
            let shape = FixupTile { bm, bn, pingpong, cluster };
            conv2d_wgmma_weight_gradient_fixup::<T>(device, launch, &mut dw, p, schedule, shape)?;
        }
    }
    Ok(dw)
}
