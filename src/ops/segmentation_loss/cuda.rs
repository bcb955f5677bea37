//! Launches of `kernels/segmentation_loss.cu`.

use half::bf16;

use super::{OP, SegmentationWeights};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::{
        cross_entropy::cuda::blocks_of,
        upsample_bilinear::{Resize, cuda::DeviceResize},
    },
    tensor::{Element, In, OptOut, Out, Val},
};

/// Threads, and so columns, of a block.
const COLUMNS: usize = 128;
/// Classes that fit a thread's registers.
const SMALL: usize = 24;

/// As `SegmentationProblem` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct SegmentationProblem {
    resize: DeviceResize,
    cells: i32,
    tiles: i32,
    count_blocks: i32,
    reserved: i32,
    cross_entropy: f64,
    entropy: f64,
}

kernels! { "segmentation_loss";
    /// How many labels of each block are classes.
    fn segmentation_count(labels: In<u8>, numbers: Out<u32>, classes: Val<i32>, count: Val<i32>);
    /// A tile's losses and parts of the gradient, up to 24 classes.
    fn segmentation_small<T in f32 | bf16>(
        x: In<T>, labels: In<u8>, numbers: In<u32>, parts: OptOut<T::Accumulator>, sums: Out<f64>,
        problem: Val<SegmentationProblem>);
    /// As segmentation_small, up to 255 classes.
    fn segmentation_large<T in f32 | f64 | bf16>(
        x: In<T>, labels: In<u8>, numbers: In<u32>, parts: OptOut<T::Accumulator>, sums: Out<f64>,
        problem: Val<SegmentationProblem>);
    /// The scalars.
    fn segmentation_finish<T in f32 | f64>(
        sums: In<f64>, numbers: In<u32>, total: Out<T>, cross_entropy: Out<T>, entropy: Out<T>,
        problem: Val<SegmentationProblem>);
    /// dx = seed * the parts of each logit.
    fn segmentation_gradient<T in f32 | f64 | bf16>(
        parts: In<T::Accumulator>, seed: In<T::Accumulator>, dx: Out<T>, problem: Val<SegmentationProblem>,
        count: Val<i32>);
}

/// The gradient of the logits, still in the tiles' parts.
pub(super) struct Parts {
    values: Tensor,
    problem: SegmentationProblem,
}

/// total, cross entropy, entropy, and the parts of the gradient where it is wanted.
pub(super) fn forward<T: Element>(
    x: &Tensor,
    labels: &Tensor,
    resize: &Resize,
    weights: SegmentationWeights,
    tracked: bool,
) -> Result<([Tensor; 3], Option<Parts>)> {
    let device = x.device();
    // The widest cell decides how many of them a block's columns hold.
    let width = resize.columns.input;
    let widest =
        if width == 1 { resize.columns.output } else { (resize.columns.output - 1).div_ceil(width - 1).max(1) };
    let cells = (COLUMNS / widest).clamp(1, width);
    let tiles = width.div_ceil(cells);
    let blocks = resize.images * resize.rows.input * tiles;
    let count_blocks = blocks_of(labels.len());
    let problem = SegmentationProblem {
        resize: resize.for_device(OP)?,
        cells: cells as i32,
        tiles: tiles as i32,
        count_blocks: count_blocks as i32,
        reserved: 0,
        cross_entropy: weights.cross_entropy,
        entropy: weights.entropy,
    };
    let (classes, count) = (resize.channels as i32, labels.len() as i32);
    let scalar = || Tensor::empty(&[], T::Accumulator::DTYPE, device);
    let (mut total, mut cross_entropy, mut entropy) = (scalar()?, scalar()?, scalar()?);
    let mut numbers = Tensor::empty(&[count_blocks], DType::U32, device)?;
    let mut sums = Tensor::empty(&[blocks, 2], DType::F64, device)?;
    let part_shape = [blocks, 2, cells + 1, resize.channels];
    let part = || Tensor::empty(&part_shape, T::Accumulator::DTYPE, device);
    let mut parts = if tracked { Some(part()?) } else { None };
    // SAFETY: logits and labels have the shapes of `resize`, which fit 31 bits; a number a counting block, a pair of
    // sums and a part a tile.
    unsafe {
        let launch = Launch::blocks(OP, count_blocks, 256)?;
        segmentation_count(device, launch, labels, &mut numbers, classes, count)?;
        let launch = Launch::blocks(OP, blocks, COLUMNS as u32)?;
        if T::DTYPE != DType::F64 && resize.channels <= SMALL {
            segmentation_small::<T>(device, launch, x, labels, &numbers, parts.as_mut(), &mut sums, problem)?;
        } else {
            segmentation_large::<T>(device, launch, x, labels, &numbers, parts.as_mut(), &mut sums, problem)?;
        }
        let (launch, scalars) = (Launch::blocks(OP, 1, 256)?, (&mut total, &mut cross_entropy, &mut entropy));
        segmentation_finish::<T::Accumulator>(
            device, launch, &sums, &numbers, scalars.0, scalars.1, scalars.2, problem,
        )?;
    }
    Ok(([total, cross_entropy, entropy], parts.map(|values| Parts { values, problem })))
}

/// seed * gradient, of the logits' shape and dtype.
pub(super) fn backward<T: Element>(parts: &Parts, shape: &[usize], seed: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::empty(shape, T::DTYPE, seed.device())?;
    let (launch, count) = (Launch::linear(OP, dx.len())?, dx.len() as i32);
    // SAFETY: the parts are those of `forward` for logits of this shape; the launch covers dx.
    unsafe { segmentation_gradient::<T>(seed.device(), launch, &parts.values, seed, &mut dx, parts.problem, count)? };
    Ok(dx)
}
