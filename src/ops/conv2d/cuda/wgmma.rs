//! The kernels of `kernels/conv2d_sm90.cu`: bf16 by warpgroups, for what `wgmma_tiling::suits`.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::Output;
use crate::{
    DType, Device, Result, Tensor,
    autograd::{Contribution, GradientRequest},
    device::{Launch, MapAccess, MapSpec, PlannedWork},
    kernels,
    ops::{
        conv2d::{
            ConvParams, OP,
            problem::Direction,
            tiling::MULTIPROCESSORS,
            wgmma_tiling::{
                PIECE, SLICE, WgmmaProduct,
                WgmmaTile::{Narrow, Square, Tall, Wide},
                WgmmaTiling,
            },
        },
        epilogue::{NormAfter, NormBefore, NormParams, PieceMoments},
    },
    tensor::{Arrivals, Element, In, MapIn, MapOut, OptIn, OptMapIn, OptOut, Out, Val},
};

/// `Work` of kernels/include/conv_work.cuh.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Work {
    /// Two for each segment of the cut tiles, and whole tiles.
    items: i32,
    whole: i32,
    /// Cut tiles, or strips of them.
    units: i32,
    strips: i32,
    segments: i32,
    length: i32,
    /// Tiles of a layer.
    rows: i32,
    columns: i32,
    /// Of a tile.
    slices: i32,
}

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
    /// y = x * w + bias, and the batch norm after; tiles of 128 x 256.
    fn conv2d_wgmma_forward_wide<T in bf16>(x: MapIn<T>, w: MapIn<T>, y: MapOut<T>, residual: OptMapIn<T>, bias: OptIn<T>, moments: OptOut<f32>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// y = x * w + bias, and the batch norm after; tiles of 256 x 128.
    fn conv2d_wgmma_forward_tall<T in bf16>(x: MapIn<T>, w: MapIn<T>, y: MapOut<T>, residual: OptMapIn<T>, bias: OptIn<T>, moments: OptOut<f32>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// y = x * w + bias, and the batch norm after; tiles of 128 x 128.
    fn conv2d_wgmma_forward_square<T in bf16>(x: MapIn<T>, w: MapIn<T>, y: MapOut<T>, residual: OptMapIn<T>, bias: OptIn<T>, moments: OptOut<f32>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// y = x * w + bias, and the batch norm after; tiles of 128 x 64.
    fn conv2d_wgmma_forward_narrow<T in bf16>(x: MapIn<T>, w: MapIn<T>, y: MapOut<T>, residual: OptMapIn<T>, bias: OptIn<T>, moments: OptOut<f32>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 128 x 256.
    fn conv2d_wgmma_data_gradient_wide<T in bf16>(dy: MapIn<T>, w: MapIn<T>, dx: MapOut<T>, so_far: OptMapIn<T>, x: OptMapIn<T>, y: OptMapIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 256 x 128.
    fn conv2d_wgmma_data_gradient_tall<T in bf16>(dy: MapIn<T>, w: MapIn<T>, dx: MapOut<T>, so_far: OptMapIn<T>, x: OptMapIn<T>, y: OptMapIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 128 x 128.
    fn conv2d_wgmma_data_gradient_square<T in bf16>(dy: MapIn<T>, w: MapIn<T>, dx: MapOut<T>, so_far: OptMapIn<T>, x: OptMapIn<T>, y: OptMapIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 128 x 64.
    fn conv2d_wgmma_data_gradient_narrow<T in bf16>(dy: MapIn<T>, w: MapIn<T>, dx: MapOut<T>, so_far: OptMapIn<T>, x: OptMapIn<T>, y: OptMapIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, partial: OptOut<f32>, arrived: Arrivals, params: Val<ConvParams>, work: Val<Work>, group: Val<i32>, plain: Val<i32>, reads: Val<i32>, norm: Val<NormParams>);
    /// dw from dy and x; tiles of 128 x 256.
    fn conv2d_wgmma_weight_gradient_wide<T in bf16>(dy: MapIn<T>, x: MapIn<T>, dw: MapOut<T>, partial: OptOut<f32>, params: Val<ConvParams>, work: Val<Work>, plain: Val<i32>);
    /// dw from dy and x; tiles of 256 x 128.
    fn conv2d_wgmma_weight_gradient_tall<T in bf16>(dy: MapIn<T>, x: MapIn<T>, dw: MapOut<T>, partial: OptOut<f32>, params: Val<ConvParams>, work: Val<Work>, plain: Val<i32>);
    /// dw from dy and x; tiles of 128 x 128.
    fn conv2d_wgmma_weight_gradient_square<T in bf16>(dy: MapIn<T>, x: MapIn<T>, dw: MapOut<T>, partial: OptOut<f32>, params: Val<ConvParams>, work: Val<Work>, plain: Val<i32>);
    /// dw from dy and x; tiles of 128 x 64.
    fn conv2d_wgmma_weight_gradient_narrow<T in bf16>(dy: MapIn<T>, x: MapIn<T>, dw: MapOut<T>, partial: OptOut<f32>, params: Val<ConvParams>, work: Val<Work>, plain: Val<i32>);
    /// dw from the parts of its cut tiles, added in the order of the pixels.
    fn conv2d_wgmma_weight_gradient_join<T in bf16>(partial: In<f32>, dw: Out<T>, params: Val<ConvParams>, work: Val<Work>, tile: Val<JoinShape>);
}

/// Threads of a block (WGMMA_THREADS).
const THREADS: u32 = 384;

impl Work {
    /// `layers` layers of tiles over `rows` x `columns`, each of `slices` slices, in rounds of `blocks` blocks. Those of the last
    /// one, if it is not full, are cut as the tiling says. All are counted by clusters.
    fn of_tiles(tiling: WgmmaTiling, layers: usize, [rows, columns]: [usize; 2], slices: usize, blocks: usize) -> Self {
        let (down, across) = tiling.grid(rows, columns);
        let (tiles, round) = (layers * down * across, (blocks / tiling.cluster).max(1));
        let rest = if tiling.segments > 0 { tiles % round } else { 0 };
        let units = rest * tiling.strips();
        // No segment is longer than a tile, or empty.
        let wanted = tiling.segments.clamp(units.max(1), (units * slices).max(1));
        let length = (units * slices).div_ceil(wanted);
        let segments = if rest > 0 { (units * slices).div_ceil(length) } else { 0 };
        let (whole, strips) = (tiles - rest, tiling.strips());
        let [items, whole, units, strips, segments, length, rows, columns, slices] =
            [whole + 2 * segments, whole, units, strips, segments, length, down, across, slices]
                .map(|count| count as i32);
        Self { items, whole, units, strips, segments, length, rows, columns, slices }
    }

    /// One block for each multiprocessor, or for each item if those are fewer.
    fn launch(&self, tiling: WgmmaTiling, blocks: usize) -> Launch {
        let cluster = tiling.cluster as u32;
        let clusters = (self.items as u32).min(blocks as u32 / cluster).max(1);
        let shared_bytes = tiling.warpgroups.shared_bytes();
        Launch { grid: [clusters * cluster, 1, 1], block: [THREADS, 1, 1], shared_bytes, cluster }
    }

    /// Tells a plan what the grid does not show.
    fn describe(&self, device: &Device, direction: Direction, params: &ConvParams, tiling: WgmmaTiling) {
        if let Some(plan) = device.as_plan() {
            let cycles = WgmmaProduct::new(direction, params).cycles(tiling);
            let items = (self.whole + self.segments) as usize * tiling.cluster;
            plan.describe(PlannedWork { items, cycles });
        }
    }

    /// Room where the parts of the cut tiles meet.
    fn partial(&self, tiling: WgmmaTiling, device: &Device) -> Result<Option<Tensor>> {
        if self.segments == 0 {
            return Ok(None);
        }
        let parts = (self.segments + self.units) as usize * tiling.cluster;
        Tensor::empty(&[parts, tiling.part_elements()], DType::F32, device).map(Some)
    }

    /// The counters of those who have come: for each 64 x 64 results of each block.
    fn arrivals(&self, tiling: WgmmaTiling) -> usize {
        self.units as usize * tiling.cluster * tiling.part_elements() / (64 * 64)
    }
}

/// Tiles of a round as tilings see it: those of the model's card, so that cards of other sizes cut the same tiles. The emulator's is
/// small enough for tests to have whole rounds and a last one.
fn round(device: &Device) -> Result<usize> {
    if device.is_emulated() { device.multiprocessors() } else { Ok(MULTIPROCESSORS) }
}

/// Whether a window is the pixel itself.
fn is_plain(p: &ConvParams) -> bool {
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
fn pixels_map(p: &ConvParams, backward: bool, pixels: usize) -> MapSpec {
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
fn filter_map(p: &ConvParams) -> MapSpec {
    map(&[p.c, p.r * p.s, p.k], &[64, 1, 64])
}

/// Of what is written, by groups of pixels.
fn result_map(channels: i32, group: usize, layers: usize) -> MapSpec {
    map(&[channels, group as i32, layers as i32], &[64, 64, 1])
}

/// Which images the results are stored with (READS_*): what is added, what tells the mask, and x.
fn reads(all: [bool; 3]) -> i32 {
    all.iter().enumerate().map(|(bit, &is)| i32::from(is) << bit).sum()
}

pub(super) fn forward<T: Element>(
    tiling: WgmmaTiling,
    params: &ConvParams,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
    norm: &NormAfter<'_>,
) -> Result<Output> {
    let tile = tiling.warpgroups;
    let (device, p, k) = (x.device(), *params, params.k as usize);
    let mut y = Tensor::empty(&params.output(), T::DTYPE, device)?;
    // Tiles end with each group.
    let layers = groups.unwrap_or(1);
    let group = super::pixels(params) / layers;
    let mut moments = groups.map(|groups| PieceMoments::empty(groups, group, PIECE, k, device)).transpose()?;
    let m = moments.as_mut().map(|moments| &mut moments.partial);
    let (all, slices) =
        (device.multiprocessors()?, params.r as usize * params.s as usize * (params.c as usize).div_ceil(SLICE));
    let work = Work::of_tiles(tiling, layers, [group, k], slices, round(device)?);
    let (mut parts, arrived, launch) = (work.partial(tiling, device)?, work.arrivals(tiling), work.launch(tiling, all));
    let parts = parts.as_mut();
    let (xs, ws) = (pixels_map(&p, false, tile.extent().0), filter_map(&p));
    let ys = result_map(p.k, group, layers);
    let more = norm.residual.map(|residual| (residual, &ys));
    let (xs, ws, ys) = ((x, &xs), (w, &ws), (&mut y, &ys));
    let (reads, [mean, var, scale, shift], n) = (reads([more.is_some(), false, false]), norm.vectors, norm.params);
    let (g, plain) = (group as i32, i32::from(is_plain(&p)));
    // SAFETY: the maps stay within their tensors, which have the extents of `params`, and have the boxes of the tile; `work` covers
    // y in tiles, group by group, `m` has room for each group's pieces, and `parts` for the cut tiles; the shared
    // memory is the tile's; the residual has y's shape, and the vectors a value for each channel.
    unsafe {
        match tile {
            Wide => conv2d_wgmma_forward_wide::<T>(
                device, launch, xs, ws, ys, more, bias, m, mean, var, scale, shift, parts, arrived, p, work, g, plain,
                reads, n,
            )?,
            Tall => conv2d_wgmma_forward_tall::<T>(
                device, launch, xs, ws, ys, more, bias, m, mean, var, scale, shift, parts, arrived, p, work, g, plain,
                reads, n,
            )?,
            Square => conv2d_wgmma_forward_square::<T>(
                device, launch, xs, ws, ys, more, bias, m, mean, var, scale, shift, parts, arrived, p, work, g, plain,
                reads, n,
            )?,
            Narrow => conv2d_wgmma_forward_narrow::<T>(
                device, launch, xs, ws, ys, more, bias, m, mean, var, scale, shift, parts, arrived, p, work, g, plain,
                reads, n,
            )?,
        }
    }
    work.describe(device, Direction::Forward, params, tiling);
    Ok(Output { y, moments, normalized: norm.is_some() })
}

pub(super) fn data_gradient<T: Element>(
    tiling: WgmmaTiling,
    params: &ConvParams,
    dy: &Tensor,
    w: &Tensor,
    more: Option<&Tensor>,
    request: &GradientRequest,
) -> Result<Contribution> {
    let tile = tiling.warpgroups;
    let (device, p, [n, h, width, c]) = (dy.device(), *params, params.input());
    let mut dx = Tensor::empty(&params.input(), T::DTYPE, device)?;
    let norm = NormBefore::of(request, &dx).with_mask_from_y();
    // Tiles end with each group of images that has statistics of its own.
    let (layers, group) = (norm.groups, n / norm.groups * h * width);
    let mut norm = norm.with_room(group.div_ceil(PIECE))?;
    let (all, slices) =
        (device.multiprocessors()?, params.r as usize * params.s as usize * (params.k as usize).div_ceil(SLICE));
    let work = Work::of_tiles(tiling, layers, [group, c], slices, round(device)?);
    let (mut parts, arrived, launch) = (work.partial(tiling, device)?, work.arrivals(tiling), work.launch(tiling, all));
    let parts = parts.as_mut();
    let (dys, ws) = (pixels_map(&p, true, tile.extent().0), filter_map(&p));
    let dxs = result_map(p.c, group, layers);
    let [more, bx, by] = [more, norm.x, norm.y].map(|image| image.map(|image| (image, &dxs)));
    let reads = reads([more.is_some(), by.is_some(), bx.is_some()]);
    let (dys, ws, dxs) = ((dy, &dys), (w, &ws), (&mut dx, &dxs));
    let (s, m) = (norm.sums.as_mut(), norm.params);
    let [mean, var, scale, shift] = norm.vectors;
    let (g, plain) = (group as i32, i32::from(is_plain(&p)));
    // SAFETY: as above; `more`, `bx` and `by` have the extents of dx, the vectors a value for each channel (mean and variance for
    // each group), and `s` has room for each group's pieces.
    unsafe {
        match tile {
            Wide => conv2d_wgmma_data_gradient_wide::<T>(
                device, launch, dys, ws, dxs, more, bx, by, mean, var, scale, shift, s, parts, arrived, p, work, g,
                plain, reads, m,
            )?,
            Tall => conv2d_wgmma_data_gradient_tall::<T>(
                device, launch, dys, ws, dxs, more, bx, by, mean, var, scale, shift, s, parts, arrived, p, work, g,
                plain, reads, m,
            )?,
            Square => conv2d_wgmma_data_gradient_square::<T>(
                device, launch, dys, ws, dxs, more, bx, by, mean, var, scale, shift, s, parts, arrived, p, work, g,
                plain, reads, m,
            )?,
            Narrow => conv2d_wgmma_data_gradient_narrow::<T>(
                device, launch, dys, ws, dxs, more, bx, by, mean, var, scale, shift, s, parts, arrived, p, work, g,
                plain, reads, m,
            )?,
        }
    }
    work.describe(device, Direction::DataGradient, params, tiling);
    Ok(Contribution { gradient: dx, fused: norm.fused() })
}

pub(super) fn weight_gradient<T: Element>(
    tiling: WgmmaTiling,
    params: &ConvParams,
    dy: &Tensor,
    x: &Tensor,
) -> Result<Tensor> {
    let (device, p, shape) = (dy.device(), *params, params.filter());
    let mut dw = Tensor::empty(&shape, T::DTYPE, device)?;
    let (pixels, columns) = (super::pixels(params), shape[1] * shape[2] * shape[3].next_multiple_of(SLICE));
    let work = Work::of_tiles(tiling, 1, [shape[0], columns], pixels.div_ceil(SLICE), round(device)?);
    let launch = work.launch(tiling, device.multiprocessors()?);
    let (mut parts, plain) = (work.partial(tiling, device)?, i32::from(is_plain(&p)));
    let (dys, xs, dws) = (map(&[p.k, pixels as i32], &[64, SLICE]), pixels_map(&p, false, SLICE), filter_map(&p));
    let (dys, xs, dws, to) = ((dy, &dys), (x, &xs), (&mut dw, &dws), parts.as_mut());
    // SAFETY: as above; `work` covers the filter in tiles.
    unsafe {
        match tiling.warpgroups {
            Wide => conv2d_wgmma_weight_gradient_wide::<T>(device, launch, dys, xs, dws, to, p, work, plain)?,
            Tall => conv2d_wgmma_weight_gradient_tall::<T>(device, launch, dys, xs, dws, to, p, work, plain)?,
            Square => conv2d_wgmma_weight_gradient_square::<T>(device, launch, dys, xs, dws, to, p, work, plain)?,
            Narrow => conv2d_wgmma_weight_gradient_narrow::<T>(device, launch, dys, xs, dws, to, p, work, plain)?,
        }
    }
    work.describe(device, Direction::WeightGradient, params, tiling);
    if let Some(parts) = parts {
        let (bm, bn) = tiling.warpgroups.extent();
        let [bm, bn, cluster] = [bm, bn, tiling.cluster].map(|extent| extent as i32);
        let tile = JoinShape { bm, bn, own: i32::from(tiling.warpgroups.is_own()), cluster };
        // 64 x 8 results a block.
        let pieces = tiling.part_elements() / (64 * 8) * tiling.cluster;
        let mut launch = Launch::blocks(OP, pieces, 128)?;
        launch.grid[1] = work.units as u32;
        // SAFETY: `parts` has the parts of `work`, each of all blocks of a cut tile or strip, and dw the extents of `params`.
        unsafe { conv2d_wgmma_weight_gradient_join::<T>(device, launch, &parts, &mut dw, p, work, tile)? };
    }
    Ok(dw)
}
