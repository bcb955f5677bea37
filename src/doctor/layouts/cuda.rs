//! Launches of `kernels/layouts_sm90.cu`.

use half::bf16;

use super::{BOX_LINES, Gather, LINE, OP, PIXELS};
use crate::{
    DType, Device, Error, Result, Tensor,
    device::{Launch, MapAccess, MapSpec},
    kernels,
    tensor::{In, MapIn, MapOut, Out, Val},
};

kernels! { "layouts_sm90";
    /// A swizzled box at the origin, as it lies.
    fn layout_tma_swizzle(map: MapIn<bf16>, lines: Out<bf16>);
    /// A swizzled box at (x, y), as it lies.
    fn layout_tma_zero_outside(map: MapIn<bf16>, lines: Out<bf16>, x: Val<i32>, y: Val<i32>);
    /// Pixels of a bounding box, as they lie.
    fn layout_tma_im2col(map: MapIn<bf16>, lines: Out<bf16>, channel: Val<i32>, x: Val<i32>, y: Val<i32>, image: Val<i32>,
        right: Val<i32>, down: Val<i32>);
    /// Two boxes, each copied by one block of a cluster for both.
    fn layout_tma_share(map: MapIn<bf16>, lines: Out<bf16>);
    /// Each of two blocks arrives at the other's barrier.
    fn layout_cluster_arrive(places: Out<u32>);
    /// What a block is told of clusters where there are none.
    fn layout_cluster_of_one(places: Out<u32>);
    /// A box of 64 lines into layer 0, from line y on.
    fn layout_tma_store_clips(source: In<bf16>, map: MapOut<bf16>, y: Val<i32>);
    /// 64 columns, depth 16.
    fn layout_wgmma_sums_n64(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
    /// 128 columns, depth 16.
    fn layout_wgmma_sums_n128(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
    /// 256 columns, depth 16.
    fn layout_wgmma_sums_n256(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
    /// Depth 64 along the lines of both factors.
    fn layout_wgmma_depth_step(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
    /// A's rows along its lines.
    fn layout_wgmma_a_rows(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
    /// B's columns along its lines, in two blocks.
    fn layout_wgmma_b_columns(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
    /// The second 64 rows of A.
    fn layout_wgmma_tall(a: MapIn<bf16>, b: MapIn<bf16>, sums: Out<f32>);
}

/// FACTOR_BYTES of the kernel file, and the barrier behind.
const SHARED_BYTES: u32 = 5 * 8192 + 16;

fn launch() -> Result<Launch> {
    Ok(Launch { shared_bytes: SHARED_BYTES, ..Launch::blocks(OP, 1, 128)? })
}

/// Two blocks in one cluster.
fn pair() -> Result<Launch> {
    Ok(Launch { grid: [2, 1, 1], cluster: 2, ..launch()? })
}

/// A dense tensor of bf16, of which swizzled boxes of `extents` are moved.
fn dense(x: &Tensor, extents: Vec<u32>) -> MapSpec {
    let access = MapAccess::Tiled { extents };
    MapSpec { element: 2, extents: extents_of(x), strides: strides_of(x), access, swizzled: true }
}

/// Fastest first.
fn extents_of(x: &Tensor) -> Vec<u64> {
    x.shape().iter().rev().map(|&extent| extent as u64).collect()
}

fn strides_of(x: &Tensor) -> Vec<u64> {
    let mut bytes = 2;
    let mut strides: Vec<u64> = Vec::new();
    for extent in extents_of(x) {
        bytes *= extent;
        strides.push(bytes);
    }
    strides.pop();
    strides
}

/// Boxes of so many lines.
fn lines(x: &Tensor, count: usize) -> MapSpec {
    dense(x, vec![LINE as u32, count as u32])
}

pub(super) fn tma_swizzle(x: &Tensor) -> Result<Tensor> {
    let mut out = Tensor::empty(&[BOX_LINES, LINE], DType::Bf16, x.device())?;
    let spec = lines(x, BOX_LINES);
    // SAFETY: the map stays within x, and the output holds one box.
    unsafe { layout_tma_swizzle(x.device(), launch()?, (x, &spec), &mut out)? };
    Ok(out)
}

pub(super) fn tma_zero_outside(x: &Tensor, [left, top]: [i32; 2]) -> Result<Tensor> {
    let mut out = Tensor::empty(&[BOX_LINES, LINE], DType::Bf16, x.device())?;
    let spec = lines(x, BOX_LINES);
    // SAFETY: as above; nothing outside the map is touched.
    unsafe { layout_tma_zero_outside(x.device(), launch()?, (x, &spec), &mut out, left, top)? };
    Ok(out)
}

pub(super) fn tma_im2col(x: &Tensor, gather: &Gather) -> Result<Tensor> {
    let mut out = Tensor::empty(&[PIXELS, LINE], DType::Bf16, x.device())?;
    let Gather { lower, upper, step, at: [channel, left, top, image], offset: [right, down] } = *gather;
    let access = MapAccess::Im2col { lower, upper, channels: LINE as u32, pixels: PIXELS as u32, step };
    let spec = MapSpec { access, ..dense(x, Vec::new()) };
    let map = (x, &spec);
    // SAFETY: the map stays within x, and the output holds one box.
    unsafe { layout_tma_im2col(x.device(), launch()?, map, &mut out, channel, left, top, image, right, down)? };
    Ok(out)
}

pub(super) fn tma_share(x: &Tensor) -> Result<Tensor> {
    let mut out = Tensor::empty(&[2, 2 * BOX_LINES, LINE], DType::Bf16, x.device())?;
    let spec = lines(x, BOX_LINES);
    // SAFETY: the map stays within x, and the output holds two boxes for each block.
    unsafe { layout_tma_share(x.device(), pair()?, (x, &spec), &mut out)? };
    Ok(out)
}

pub(super) fn cluster_arrive(device: &Device) -> Result<Tensor> {
    let mut out = Tensor::empty(&[2], DType::U32, device)?;
    // SAFETY: the output holds a number for each block.
    unsafe { layout_cluster_arrive(device, pair()?, &mut out)? };
    Ok(out)
}

pub(super) fn cluster_of_one(device: &Device) -> Result<Tensor> {
    let mut out = Tensor::empty(&[1], DType::U32, device)?;
    // SAFETY: the output holds a number for the block.
    unsafe { layout_cluster_of_one(device, launch()?, &mut out)? };
    Ok(out)
}

pub(super) fn tma_store_clips(source: &Tensor, y: &mut Tensor, line: i32) -> Result<()> {
    let device = source.device().clone();
    let spec = dense(y, vec![LINE as u32, LINE as u32, 1]);
    // SAFETY: the source is one box, by the caller's check; nothing outside the map is touched.
    unsafe { layout_tma_store_clips(&device, launch()?, source, (y, &spec), line) }
}

type Product = unsafe fn(&Device, Launch, (&Tensor, &MapSpec), (&Tensor, &MapSpec), &mut Tensor) -> Result<()>;

/// `kernel`'s 64 x `columns` sums. Boxes have all lines of a factor.
fn product(kernel: Product, a: &Tensor, b: &Tensor, columns: usize) -> Result<Tensor> {
    let mut sums = Tensor::empty(&[64, columns], DType::F32, a.device())?;
    let [a_spec, b_spec] = [a, b].map(|factor| lines(factor, factor.shape()[0]));
    // SAFETY: the maps stay within the factors, whose boxes have the lines that the callers' checks grant; the sums are as many
    // as the kernel's.
    unsafe { kernel(a.device(), launch()?, (a, &a_spec), (b, &b_spec), &mut sums)? };
    Ok(sums)
}

pub(super) fn wgmma_sums(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match b.shape()[0] {
        64 => product(layout_wgmma_sums_n64, a, b, 64),
        128 => product(layout_wgmma_sums_n128, a, b, 128),
        256 => product(layout_wgmma_sums_n256, a, b, 256),
        other => Err(Error::shape(OP, format!("{other} columns; use 64, 128 or 256"))),
    }
}

pub(super) fn wgmma_depth_step(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(layout_wgmma_depth_step, a, b, 64)
}

pub(super) fn wgmma_a_rows(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(layout_wgmma_a_rows, a, b, 64)
}

pub(super) fn wgmma_b_columns(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(layout_wgmma_b_columns, a, b, 128)
}

pub(super) fn wgmma_tall(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(layout_wgmma_tall, a, b, 64)
}
