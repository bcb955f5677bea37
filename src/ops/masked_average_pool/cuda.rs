//! Launches of `kernels/masked_average_pool.cu`.

use half::bf16;

use super::{OP, Pools};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::label_sampling::{DeviceLabelSampling, LabelSampling},
    tensor::{Element, In, Inout, OptIn, OptOut, Out, Val},
};

/// As `PoolProblem` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct PoolProblem {
    pools: i32,
    cells: i32,
    depth: i32,
    classes: i32,
    copies: i32,
    chunk: i32,
    chunks: i32,
    domain: i32,
    skip: i32,
    sampling: DeviceLabelSampling,
}

kernels! { "masked_average_pool";
    /// Sums of each class by chunks of pixels.
    fn pool_partial<T in f32 | f64 | bf16>(
        x: In<T>, labels: In<u8>, dynamic: OptIn<u8>, part: Out<T::Accumulator>, part_count: Out<u32>,
        problem: Val<PoolProblem>);
    /// Means, and what else is known with them.
    fn pool_finish<T in f32 | f64>(
        part: In<T>, part_count: In<u32>, xi: OptIn<T>, rho: Out<T>, counts: Inout<u32>, inverse: OptOut<T>,
        shared: OptOut<u8>, calibrated: OptOut<T>, calibrated_inverse: OptOut<T>, problem: Val<PoolProblem>);
    /// Gradient of the features.
    fn pool_backward<T in f32 | f64 | bf16>(
        drho: In<T::Accumulator>, labels: In<u8>, counts: In<u32>, df: Out<T>, cells: Val<i32>, depth: Val<i32>,
        classes: Val<i32>, copies: Val<i32>, count: Val<i32>);
    /// 1 where both counts are above 0.
    fn class_overlap(s: In<u32>, t: In<u32>, both: Out<u8>, count: Val<i32>);
}

/// Shared memory that every GPU gives a block without being asked, less what the kernel takes for labels.
const SHARED: usize = (48 << 10) - 512;

/// What is pooled.
pub(crate) struct Pooling<'a> {
    /// [skip + N,h,w,d].
    pub features: &'a Tensor,
    /// Images before the pooled ones.
    pub skip: usize,
    /// u8 [N,..], read by `sampling`.
    pub labels: &'a Tensor,
    /// u8 [N,h,w], where `labels` has none.
    pub dynamic: Option<&'a Tensor>,
    pub sampling: DeviceLabelSampling,
    /// 0, or 1 where the results are the second half of tensors for both domains.
    pub domain: usize,
    pub pools: Pools,
}

/// Where the prototypes [N,C,d] of a domain go, and what else is wanted with them.
pub(crate) struct Pooled<'a> {
    pub vectors: &'a mut Tensor,
    pub counts: &'a mut Tensor,
    /// Their inverse norms.
    pub inverse: Option<&'a mut Tensor>,
    /// u8 [N,C]: 1 where a class exists, in the target where it exists in the source, too.
    pub shared: Option<&'a mut Tensor>,
    /// xi [C,d], and where rho + xi and its inverse norms go.
    pub calibrated: Option<(&'a Tensor, &'a mut Tensor, &'a mut Tensor)>,
}

pub(crate) fn pool<T: Element>(from: &Pooling, to: Pooled) -> Result<()> {
    let Pools { pools, cells, depth, classes, copies } = from.pools;
    let (device, dtype) = (from.features.device(), T::Accumulator::DTYPE);
    // Short chunks fill the GPU at small depth; long ones keep the partial sums small beside the features.
    let chunk = if depth <= 256 { 64 } else { 512 };
    let chunks = cells.div_ceil(chunk);
    let fits = |&threads: &usize| threads * classes * dtype.size() <= SHARED;
    let threads = [128, 64, 32, 16].into_iter().filter(|&threads| threads < 2 * depth.max(16)).find(fits).unwrap_or(16);
    let mut part = Tensor::empty(&[pools, chunks, classes, depth], dtype, device)?;
    let mut part_count = Tensor::empty(&[pools, chunks, classes], DType::U32, device)?;
    let blocks = Launch::blocks(OP, pools * chunks * depth.div_ceil(threads), threads as u32)?;
    let launch = Launch { shared_bytes: (threads * classes * dtype.size()) as u32, ..blocks };
    let extents = [pools, cells, depth, classes, copies, chunk, chunks, from.domain, from.skip];
    let [pools, cells, depth, classes, copies, chunk, chunks, domain, skip] = extents.map(|extent| extent as i32);
    let sampling = from.sampling;
    let problem = PoolProblem { pools, cells, depth, classes, copies, chunk, chunks, domain, skip, sampling };
    let Pooling { features, labels, dynamic, .. } = *from;
    // SAFETY: the operation checked the shapes; a block for every chunk and `threads` channels, shared memory for
    // their sums of all classes.
    unsafe { pool_partial::<T>(device, launch, features, labels, dynamic, &mut part, &mut part_count, problem)? };
    let blocks = Launch::blocks(OP, from.pools.pools * from.pools.classes, 128)?;
    let launch = Launch { block: [128, 8, 1], ..blocks };
    let (xi, calibrated, calibrated_inverse) = match to.calibrated {
        Some((xi, calibrated, inverse)) => (Some(xi), Some(calibrated), Some(inverse)),
        None => (None, None, None),
    };
    // SAFETY: a block for each class of a pool, which writes its `copies` rows; the caller's tensors have room for them.
    unsafe {
        pool_finish::<T::Accumulator>(
            device,
            launch,
            &part,
            &part_count,
            xi,
            to.vectors,
            to.counts,
            to.inverse,
            to.shared,
            calibrated,
            calibrated_inverse,
            problem,
        )
    }
}

pub(super) fn forward<T: Element>(x: &Tensor, labels: &Tensor, pools: Pools) -> Result<(Tensor, Tensor)> {
    let [_, height, width, _] = x.dims(OP)?;
    let rows = [pools.pools * pools.copies, pools.classes];
    let mut vectors = Tensor::empty(&[rows[0], rows[1], pools.depth], T::Accumulator::DTYPE, x.device())?;
    let mut counts = Tensor::empty(&rows, DType::U32, x.device())?;
    let sampling = LabelSampling::Nearest.for_device([height, width], [height, width]);
    let from = Pooling { features: x, skip: 0, labels, dynamic: None, sampling, domain: 0, pools };
    let (inverse, shared, calibrated) = (None, None, None);
    pool::<T>(&from, Pooled { vectors: &mut vectors, counts: &mut counts, inverse, shared, calibrated })?;
    Ok((vectors, counts))
}

pub(super) fn backward<T: Element>(drho: &Tensor, labels: &Tensor, counts: &Tensor, pools: Pools) -> Result<Tensor> {
    let Pools { pools, cells, depth, classes, copies } = pools;
    let mut df = Tensor::empty(&[pools * cells, depth], T::DTYPE, drho.device())?;
    let (launch, count) = (Launch::linear(OP, df.len())?, df.len() as i32);
    let [cells, depth, classes, copies] = [cells, depth, classes, copies].map(|extent| extent as i32);
    // SAFETY: the shapes are the forward pass's (the tape checks the gradient's); a thread an element of df.
    unsafe {
        pool_backward::<T>(drho.device(), launch, drho, labels, counts, &mut df, cells, depth, classes, copies, count)?;
    }
    Ok(df)
}

pub(super) fn overlap(counts_s: &Tensor, counts_t: &Tensor, both: &mut Tensor) -> Result<()> {
    let (launch, count) = (Launch::linear("class_overlap", both.len())?, both.len() as i32);
    // SAFETY: all three have `count` elements, which the launch covers.
    unsafe { class_overlap(counts_s.device(), launch, counts_s, counts_t, both, count) }
}
