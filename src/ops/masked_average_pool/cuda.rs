//! Launches of `kernels/masked_average_pool.cu`.

use half::bf16;

use super::{OP, Pools};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "masked_average_pool";
    /// Sums of each class by chunks of pixels.
    fn pool_partial<T in f32 | f64 | bf16>(
        x: In<T>, labels: In<u8>, part: Out<T::Accumulator>, part_count: Out<u32>, cells: Val<i32>, depth: Val<i32>,
        classes: Val<i32>, chunk: Val<i32>, chunks: Val<i32>);
    /// Means.
    fn pool_finish<T in f32 | f64>(
        part: In<T>, part_count: In<u32>, rho: Out<T>, counts: Out<u32>, depth: Val<i32>, classes: Val<i32>,
        chunks: Val<i32>, copies: Val<i32>, count: Val<i32>);
    /// Gradient of the features.
    fn pool_backward<T in f32 | f64 | bf16>(
        drho: In<T::Accumulator>, labels: In<u8>, counts: In<u32>, df: Out<T>, cells: Val<i32>, depth: Val<i32>,
        classes: Val<i32>, copies: Val<i32>, count: Val<i32>);
    /// 1 where both counts are above 0.
    fn class_overlap(s: In<u32>, t: In<u32>, both: Out<u8>, count: Val<i32>);
}

/// Shared memory that every GPU gives a block without being asked.
const SHARED: usize = 48 << 10;

pub(super) fn forward<T: Element>(x: &Tensor, labels: &Tensor, pools: Pools) -> Result<(Tensor, Tensor)> {
    let Pools { pools, cells, depth, classes, copies } = pools;
    let (device, dtype) = (x.device(), T::Accumulator::DTYPE);
    // Short chunks fill the GPU at small depth; long ones keep the partial sums small beside the features.
    let chunk = if depth <= 256 { 64 } else { 512 };
    let chunks = cells.div_ceil(chunk);
    let fits = |&threads: &usize| threads * classes * dtype.size() <= SHARED;
    let threads = [128, 64, 32, 16].into_iter().filter(|&threads| threads < 2 * depth.max(16)).find(fits).unwrap_or(16);
    let mut part = Tensor::empty(&[pools, chunks, classes, depth], dtype, device)?;
    let mut part_count = Tensor::empty(&[pools, chunks, classes], DType::U32, device)?;
    let mut vectors = Tensor::empty(&[pools * copies, classes, depth], dtype, device)?;
    let mut counts = Tensor::empty(&[pools * copies, classes], DType::U32, device)?;
    let blocks = Launch::blocks(OP, pools * chunks * depth.div_ceil(threads), threads as u32)?;
    let launch = Launch { shared_bytes: (threads * classes * dtype.size()) as u32, ..blocks };
    let [n_depth, n_classes, n_chunks] = [depth, classes, chunks].map(|extent| extent as i32);
    // SAFETY: the operation checked the shapes; a block for every chunk and `threads` channels, shared memory for
    // their sums of all classes.
    unsafe {
        pool_partial::<T>(
            device,
            launch,
            x,
            labels,
            &mut part,
            &mut part_count,
            cells as i32,
            n_depth,
            n_classes,
            chunk as i32,
            n_chunks,
        )?;
    }
    let count = pools * classes * depth;
    let launch = Launch::linear(OP, count)?;
    // SAFETY: a thread for each mean of a pool, which writes its `copies` places.
    unsafe {
        pool_finish::<T::Accumulator>(
            device,
            launch,
            &part,
            &part_count,
            &mut vectors,
            &mut counts,
            n_depth,
            n_classes,
            n_chunks,
            copies as i32,
            count as i32,
        )?;
    }
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
