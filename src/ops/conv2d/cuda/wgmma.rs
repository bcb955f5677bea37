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
            wgmma_tiling::{PIECE, SLICE, WgmmaTile, WgmmaTiling},
        },
        epilogue::{NormAfter, NormBefore, PieceMoments},
    },
    tensor::{Element, MapIn, MapOut, OptMapIn, Out, Val},
};

/// `JoinShape` of kernels/conv2d_sm90.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct JoinShape {
    /// Rows and columns of the tile.
    bm: i32,
    bn: i32,
    /// Whether it is of one warpgroup.
    own: i32,
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
    /// dw from the parts of its cut tiles, added in the order of the pixels.
    fn conv2d_wgmma_weight_gradient_join<T in bf16>(
        dw: Out<T>, problem: Val<ConvProblem>, scheduler: Schedule, tile: Val<JoinShape>
    );
}

/// Whether a window is the pixel itself.
fn is_plain(p: &ConvProblem) -> bool {
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
    if is_plain(p) {
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

/// Of what is written, by groups of pixels.
fn result_map(channels: i32, group: usize, layers: usize) -> MapSpec {
    map(&[channels, group as i32, layers as i32], &[64, 64, 1])
}

pub(super) fn forward<T: Element>(
    tiling: WgmmaTiling,
    params: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
    norm: &NormAfter<'_>,
) -> Result<Output> {
    let (tile, device, p, k) = (tiling.warpgroups, x.device(), *params, params.k as usize);
    let mut y = Tensor::empty(&params.output(), T::DTYPE, device)?;
    // Tiles end with each group.
    let layers = groups.unwrap_or(1);
    let group = super::pixels(params) / layers;
    let mut moments = groups.map(|groups| PieceMoments::empty(groups, group, PIECE, k, device)).transpose()?;
    let slices = params.r as usize * params.s as usize * (params.c as usize).div_ceil(SLICE);
    let scheduler = TileScheduler::new(tiling, layers, [group, k], slices, device)?;
    let (mut workspace, launch) = (scheduler.workspace(tiling, device)?, scheduler.launch(tiling, device)?);
    let schedule = (scheduler, workspace.as_mut(), scheduler.semaphores(tiling));
    let (xs, ws) = (pixels_map(&p, false, tile.extent().0), filter_map(&p));
    let ys = result_map(p.k, group, layers);
    let residual = norm.residual.map(|residual| (residual, &ys));
    let epilogue = ForwardEpilogue::new(bias, moments.as_mut().map(|moments| &mut moments.partial), norm);
    let (xs, ws, ys) = ((x, &xs), (w, &ws), (&mut y, &ys));
    // SAFETY: the maps stay within their tensors, which have the extents of `params`, and have the boxes of the tile; the scheduler
    // covers y in tiles, group by group, the moments have room for each group's pieces, and the workspace for the cut tiles; the
    // shared memory is the tile's; the residual has y's shape, and the vectors a value for each channel.
    unsafe { conv2d_wgmma_forward::<T>(device, launch, tile, xs, ws, ys, residual, epilogue, p, schedule)? };
    scheduler.describe(device, Direction::Forward, params, tiling);
    Ok(Output { y, moments, normalized: norm.is_some() })
}

pub(super) fn data_gradient<T: Element>(
    tiling: WgmmaTiling,
    params: &ConvProblem,
    dy: &Tensor,
    w: &Tensor,
    accumulate: Option<&Tensor>,
    request: &GradientRequest,
) -> Result<Contribution> {
    let (tile, device, p, [n, h, width, c]) = (tiling.warpgroups, dy.device(), *params, params.input());
    let mut dx = Tensor::empty(&params.input(), T::DTYPE, device)?;
    let norm = NormBefore::of(request, &dx).with_mask_from_y();
    // Tiles end with each group of images that has statistics of its own.
    let (layers, group) = (norm.groups, n / norm.groups * h * width);
    let mut norm = norm.with_room(group.div_ceil(PIECE))?;
    let slices = params.r as usize * params.s as usize * (params.k as usize).div_ceil(SLICE);
    let scheduler = TileScheduler::new(tiling, layers, [group, c], slices, device)?;
    let (mut workspace, launch) = (scheduler.workspace(tiling, device)?, scheduler.launch(tiling, device)?);
    let schedule = (scheduler, workspace.as_mut(), scheduler.semaphores(tiling));
    let (dys, ws) = (pixels_map(&p, true, tile.extent().0), filter_map(&p));
    let dxs = result_map(p.c, group, layers);
    let [more, x, y] = [accumulate, norm.x, norm.y].map(|image| image.map(|image| (image, &dxs)));
    let epilogue = DataGradientEpilogue::new(accumulate, &mut norm);
    let (dys, ws, dxs) = ((dy, &dys), (w, &ws), (&mut dx, &dxs));
    // SAFETY: as above; the epilogue's images have the extents of dx, its vectors a value for each channel (mean and variance for
    // each group), and its sums have room for each group's pieces.
    unsafe {
        conv2d_wgmma_data_gradient::<T>(device, launch, tile, dys, ws, dxs, more, x, y, epilogue, p, schedule)?;
    }
    scheduler.describe(device, Direction::DataGradient, params, tiling);
    Ok(Contribution { gradient: dx, fused: norm.fused() })
}

pub(super) fn weight_gradient<T: Element>(
    tiling: WgmmaTiling,
    params: &ConvProblem,
    dy: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (tile, device, p, shape) = (tiling.warpgroups, dy.device(), *params, params.filter());
    let mut dw = Tensor::empty(&shape, T::DTYPE, device)?;
    let (pixels, columns) = (super::pixels(params), shape[1] * shape[2] * shape[3].next_multiple_of(SLICE));
    let scheduler = TileScheduler::new(tiling, 1, [shape[0], columns], pixels.div_ceil(SLICE), device)?;
    let (mut workspace, launch) = (scheduler.workspace(tiling, device)?, scheduler.launch(tiling, device)?);
    let (dys, xs, dws) = (map(&[p.k, pixels as i32], &[64, SLICE]), pixels_map(&p, false, SLICE), filter_map(&p));
    let (dys, xs, dws) = ((dy, &dys), (x, &xs), (&mut dw, &dws));
    // SAFETY: as above; the scheduler covers the filter in tiles.
    unsafe {
        let schedule = (scheduler, workspace.as_mut(), 0);
        conv2d_wgmma_weight_gradient::<T>(device, launch, tile, dys, xs, dws, p, schedule)?;
    }
    scheduler.describe(device, Direction::WeightGradient, params, tiling);
    if let Some(mut workspace) = workspace {
        let ((bm, bn), own) = (tile.extent(), i32::from(tile.is_own()));
        let [bm, bn, cluster] = [bm, bn, tiling.cluster].map(|extent| extent as i32);
        // 64 x 8 results a block.
        let pieces = tiling.part_elements() / (64 * 8) * tiling.cluster;
        let mut launch = Launch::blocks(OP, pieces, 128)?;
        launch.grid[1] = scheduler.units() as u32;
        let schedule = (scheduler, Some(&mut workspace), 0);
        // SAFETY: the workspace has the parts of the scheduler, each of all blocks of a cut tile or strip, and dw the extents of
        // `params`.
        unsafe {
            let shape = JoinShape { bm, bn, own, cluster };
            conv2d_wgmma_weight_gradient_join::<T>(device, launch, &mut dw, p, schedule, shape)?;
        }
    }
    Ok(dw)
}
