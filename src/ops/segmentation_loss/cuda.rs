//! Launches of `kernels/segmentation_loss.cu`.

use half::bf16;

use super::{OP, SegmentationWeights};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::{
        cross_entropy::cuda::blocks_of,
        domain_pair::Halves,
        upsample_bilinear::{Resize, cuda::DeviceResize},
    },
    tensor::{Element, In, OptIn, OptOut, Out, Val},
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
    domains: i32,
    cross_entropy: [f64; 2],
    entropy: [f64; 2],
}

kernels! { "segmentation_loss";
    /// How many labels of each block are classes.
    fn segmentation_count(
        labels: In<u8>, other_labels: OptIn<u8>, numbers: Out<u32>, classes: Val<i32>, count: Val<i32>);
    /// A tile's losses and parts of the gradient, up to 24 classes.
    fn segmentation_small<T in f32 | bf16>(
        x: In<T>, other_x: OptIn<T>, labels: In<u8>, other_labels: OptIn<u8>, numbers: In<u32>,
        parts: OptOut<T::Accumulator>, sums: Out<f64>, problem: Val<SegmentationProblem>);
    /// As segmentation_small, up to 255 classes.
    fn segmentation_large<T in f32 | f64 | bf16>(
        x: In<T>, other_x: OptIn<T>, labels: In<u8>, other_labels: OptIn<u8>, numbers: In<u32>,
        parts: OptOut<T::Accumulator>, sums: Out<f64>, problem: Val<SegmentationProblem>);
    /// The scalars.
    fn segmentation_finish<T in f32 | f64>(
        sums: In<f64>, numbers: In<u32>, plus: OptIn<T>, total: Out<T>, cross_entropy: Out<T>, entropy: Out<T>,
        other_cross_entropy: OptOut<T>, other_entropy: OptOut<T>, problem: Val<SegmentationProblem>);
    /// dx = seed * the parts of each logit.
    fn segmentation_gradient<T in f32 | f64 | bf16>(
        parts: In<T::Accumulator>, seed: In<T::Accumulator>, dx: Out<T>, other_dx: OptOut<T>,
        problem: Val<SegmentationProblem>, count: Val<i32>);
}

/// Logits [N,h,w,C] and labels u8 [N,H,W] of one domain, or of each of two.
pub(super) struct Inputs<'a> {
    pub logits: &'a Halves,
    pub labels: &'a Halves,
    /// A domain's logits to the size of its labels.
    pub resize: &'a Resize,
    /// A domain each.
    pub weights: &'a [SegmentationWeights],
    /// A scalar that is added to the total.
    pub plus: Option<&'a Tensor>,
    /// Whether the gradient of the logits is wanted.
    pub tracked: bool,
}

/// Scalars, and the gradient of the logits, still in the tiles' parts.
pub(super) struct Outputs {
    pub total: Tensor,
    /// Cross entropy and entropy of each domain.
    pub means: Vec<[Tensor; 2]>,
    pub parts: Option<Parts>,
}

/// The gradient of the logits by the tiles that contribute to it.
pub(super) struct Parts {
    values: Tensor,
    problem: SegmentationProblem,
}

pub(super) fn forward<T: Element>(inputs: &Inputs) -> Result<Outputs> {
    let Inputs { logits, labels, resize, weights, plus, tracked } = *inputs;
    let (device, domains) = (logits.first.device(), weights.len());
    // The widest cell decides how many of them a block's columns hold.
    let width = resize.columns.input;
    let widest =
        if width == 1 { resize.columns.output } else { (resize.columns.output - 1).div_ceil(width - 1).max(1) };
    let cells = (COLUMNS / widest).clamp(1, width);
    let tiles = width.div_ceil(cells);
    let blocks = resize.images * resize.rows.input * tiles;
    let label_pixels = resize.images * resize.rows.output * resize.columns.output;
    let count_blocks = blocks_of(label_pixels);
    let each = |weight: fn(&SegmentationWeights) -> f64| [0, 1].map(|domain| weights.get(domain).map_or(0.0, weight));
    let problem = SegmentationProblem {
        resize: resize.for_device(OP)?,
        cells: cells as i32,
        tiles: tiles as i32,
        count_blocks: count_blocks as i32,
        domains: domains as i32,
        cross_entropy: each(|weights| weights.cross_entropy),
        entropy: each(|weights| weights.entropy),
    };
    let (classes, count) = (resize.channels as i32, label_pixels as i32);
    let scalar = || Tensor::empty(&[], T::Accumulator::DTYPE, device);
    let mut total = scalar()?;
    let mut means = weights.iter().map(|_| Ok([scalar()?, scalar()?])).collect::<Result<Vec<_>>>()?;
    let mut numbers = Tensor::empty(&[domains, count_blocks], DType::U32, device)?;
    let mut sums = Tensor::empty(&[domains, blocks, 2], DType::F64, device)?;
    let part_shape = [domains, blocks, 2, cells + 1, resize.channels];
    let part = || Tensor::empty(&part_shape, T::Accumulator::DTYPE, device);
    let mut parts = if tracked { Some(part()?) } else { None };
    let ((x, other_x), (y, other_y)) =
        ((&logits.first, logits.second.as_ref()), (&labels.first, labels.second.as_ref()));
    let of_domains = |blocks, threads| -> Result<Launch> {
        let launch = Launch::blocks(OP, blocks, threads)?;
        Ok(Launch { grid: [launch.grid[0], domains as u32, 1], ..launch })
    };
    // SAFETY: logits and labels have the shapes of `resize`, which fit 31 bits; a number a counting block, a pair of
    // sums and a part a tile.
    unsafe {
        segmentation_count(device, of_domains(count_blocks, 256)?, y, other_y, &mut numbers, classes, count)?;
        let (launch, part) = (of_domains(blocks, COLUMNS as u32)?, parts.as_mut());
        if T::DTYPE != DType::F64 && resize.channels <= SMALL {
            segmentation_small::<T>(device, launch, x, other_x, y, other_y, &numbers, part, &mut sums, problem)?;
        } else {
            segmentation_large::<T>(device, launch, x, other_x, y, other_y, &numbers, part, &mut sums, problem)?;
        }
        let launch = Launch::blocks(OP, 1, 256)?;
        if let [[ce, h], others @ ..] = &mut means[..] {
            let (ce2, h2) = others.first_mut().map_or((None, None), |[ce, h]| (Some(ce), Some(h)));
            let out = &mut total;
            segmentation_finish::<T::Accumulator>(device, launch, &sums, &numbers, plus, out, ce, h, ce2, h2, problem)?;
        }
    }
    Ok(Outputs { total, means, parts: parts.map(|values| Parts { values, problem }) })
}

/// seed * gradient, into tensors like the logits; `elements` of a domain.
pub(super) fn backward<T: Element>(parts: &Parts, elements: usize, seed: &Tensor, dx: &mut Halves) -> Result<()> {
    let launch = Launch::linear(OP, elements)?;
    let launch = Launch { grid: [launch.grid[0], parts.problem.domains as u32, 1], ..launch };
    let (dx, other_dx) = (&mut dx.first, dx.second.as_mut());
    let (device, problem, count) = (seed.device(), parts.problem, elements as i32);
    // SAFETY: the parts are those of `forward` for logits of these shapes; the launch covers a domain's elements.
    unsafe { segmentation_gradient::<T>(device, launch, &parts.values, seed, dx, other_dx, problem, count) }
}
