//! Launches of `kernels/cosine.cu`.

use half::bf16;

use super::Extents;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    ops::{domain_pair::Halves, label_sampling::DeviceLabelSampling},
    tensor::{Element, In, OptIn, OptOut, Out, Val},
};

/// As `CosineProblem` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct CosineProblem {
    directions: i32,
    pairs: i32,
    cells: i32,
    depth: i32,
    classes: i32,
    chunk: i32,
    chunks: i32,
    copies: i32,
    sampling: DeviceLabelSampling,
}

kernels! { "cosine";
    /// 1 / max(|x|, 1e-12) of each row.
    fn inverse_norms<T in f32 | f64 | bf16>(
        x: In<T>, inverse: Out<T::Accumulator>, rows: Val<i32>, depth: Val<i32>);
    /// Gradient of the features.
    fn cosine_features<T in f32 | f64 | bf16>(
        features: In<T>, other_features: OptIn<T>, vectors: In<T::Accumulator>, inverse: In<T::Accumulator>,
        vector_inverse: In<T::Accumulator>, g: In<T::Accumulator>, a: In<T::Accumulator>,
        scale: OptIn<T::Accumulator>, dloss: OptIn<T::Accumulator>, drho: OptIn<T::Accumulator>, counts: OptIn<u32>,
        labels: OptIn<u8>, other_labels: OptIn<u8>, dynamic: OptIn<u8>, df: Out<T>, other_df: OptOut<T>,
        problem: Val<CosineProblem>);
    /// Gradient of the prototypes, by chunks of pixels.
    fn cosine_vectors<T in f32 | f64 | bf16>(
        features: In<T>, other_features: OptIn<T>, inverse: In<T::Accumulator>, g: In<T::Accumulator>,
        part: Out<T::Accumulator>, problem: Val<CosineProblem>);
    /// Sum of the chunks.
    fn cosine_vectors_finish<T in f32 | f64>(
        part: In<T>, vectors: In<T>, vector_inverse: In<T>, scale: OptIn<T>, dloss: OptIn<T>, drho: Out<T>,
        problem: Val<CosineProblem>);
}

/// Pixels of a tile and threads of a block, as in `kernels/include/cosine.cuh`.
pub(crate) const TILE: usize = 64;
/// Threads of a block that computes a tile.
pub(crate) const THREADS: u32 = 128;
/// Pixels whose part of the prototypes' gradient one block adds up. Short chunks fill the GPU at small depth; long ones keep the
/// partial sums small beside the features.
fn chunk_of(depth: usize) -> usize {
    if depth <= 256 { 64 } else { 512 }
}

/// Tiles of a pair.
pub(crate) fn tiles(e: Extents) -> usize {
    e.cells().div_ceil(TILE)
}

/// One block for each tile of each pair.
pub(crate) fn tile_launch(op: &'static str, e: Extents) -> Result<Launch> {
    Launch::blocks(op, e.pairs * tiles(e), THREADS)
}

/// Inverse norms of the rows of `x` [.., d], of shape `x` without its last extent.
pub(crate) fn row_norms<T: Element>(op: &'static str, x: &Tensor) -> Result<Tensor> {
    let (&depth, outer) = x.shape().split_last().unwrap_or((&1, &[]));
    let rows: usize = outer.iter().product();
    let mut inverse = Tensor::empty(outer, T::Accumulator::DTYPE, x.device())?;
    let launch = Launch::blocks(op, rows.div_ceil(4), THREADS)?;
    // SAFETY: x holds rows * depth elements, the result `rows`, which the launch covers with a warp each.
    unsafe { inverse_norms::<T>(x.device(), launch, x, &mut inverse, rows as i32, depth as i32)? };
    Ok(inverse)
}

/// What the gradients of similarities are made of; the device's counterpart of [`super::Gradients`].
pub(crate) struct DeviceGradients<'a> {
    pub extents: Extents,
    /// 1, or 2 for the pixels of each domain against the prototypes of the other.
    pub directions: usize,
    pub features: &'a Halves,
    pub vectors: &'a Tensor,
    pub vector_inverse: &'a Tensor,
    pub inverse: &'a Tensor,
    pub g: &'a Tensor,
    pub a: &'a Tensor,
    /// Scale of each direction and pair, and the gradient of the loss []; 1 where they are left out.
    pub scale: Option<(&'a Tensor, &'a Tensor)>,
}

/// How the prototypes came from the features: what their gradient adds to that of the features.
pub(crate) struct PooledFrom<'a> {
    /// Pixels of each class u32 [D,N,C].
    pub counts: &'a Tensor,
    pub labels: &'a Halves,
    pub dynamic: Option<&'a Tensor>,
    pub sampling: DeviceLabelSampling,
    /// Rows of prototypes of one pool.
    pub copies: usize,
}

impl DeviceGradients<'_> {
    fn problem(&self) -> CosineProblem {
        let e = self.extents;
        let chunk = chunk_of(e.depth);
        let extents = [self.directions, e.pairs, e.cells(), e.depth, e.classes, chunk, e.cells().div_ceil(chunk)];
        let [directions, pairs, cells, depth, classes, chunk, chunks] = extents.map(|extent| extent as i32);
        let sampling = bytemuck::Zeroable::zeroed();
        CosineProblem { directions, pairs, cells, depth, classes, chunk, chunks, copies: 1, sampling }
    }

    /// A launch of blocks of `THREADS`, for each direction.
    fn launch(&self, op: &'static str, blocks: usize) -> Result<Launch> {
        let launch = Launch::blocks(op, blocks, THREADS)?;
        Ok(Launch { grid: [launch.grid[0], self.directions as u32, 1], ..launch })
    }

    /// That of the prototypes.
    pub fn vectors<T: Element>(&self, op: &'static str) -> Result<Tensor> {
        let (e, problem, device) = (self.extents, self.problem(), self.vectors.device());
        let chunks = e.cells().div_ceil(chunk_of(e.depth));
        let shape = [self.directions * e.pairs, chunks, e.classes, e.depth];
        let mut part = Tensor::empty(&shape, T::Accumulator::DTYPE, device)?;
        let mut drho = self.vectors.empty_like()?;
        let launch = self.launch(op, e.pairs * chunks * e.classes.div_ceil(32) * e.depth.div_ceil(64))?;
        let (features, other) = (&self.features.first, self.features.second.as_ref());
        // SAFETY: the shapes are those of `extents` (checked by the operation); a block for every chunk, 32 classes and
        // 64 channels of a direction, and the kernel leaves out what lies beyond.
        unsafe { cosine_vectors::<T>(device, launch, features, other, self.inverse, self.g, &mut part, problem)? };
        let launch = Launch::blocks(op, self.directions * e.pairs * e.classes, 128)?;
        let launch = Launch { block: [128, 8, 1], ..launch };
        let (scale, dloss) = (self.scale.map(|(scale, _)| scale), self.scale.map(|(_, dloss)| dloss));
        // SAFETY: `part` holds `chunks` blocks of classes * depth for each pair; a block a row of drho.
        unsafe {
            cosine_vectors_finish::<T::Accumulator>(
                device,
                launch,
                &part,
                self.vectors,
                self.vector_inverse,
                scale,
                dloss,
                &mut drho,
                problem,
            )?;
        }
        Ok(drho)
    }

    /// That of the features; with that of their own prototypes, what comes back through the pooling, too.
    pub fn features<T: Element>(&self, op: &'static str, pooled: Option<(&Tensor, &PooledFrom)>) -> Result<Halves> {
        let (e, mut problem) = (self.extents, self.problem());
        let mut df = self.features.empty_like()?;
        let from = pooled.map(|(_, from)| from);
        if let Some(from) = from {
            (problem.copies, problem.sampling) = (from.copies as i32, from.sampling);
        }
        let (scale, dloss) = (self.scale.map(|(scale, _)| scale), self.scale.map(|(_, dloss)| dloss));
        // SAFETY: the shapes are those of `extents` (checked by the operation); the launch has a block for every 64
        // pixels and 32 channels of a direction, and the kernel leaves out what lies beyond.
        unsafe {
            cosine_features::<T>(
                self.vectors.device(),
                self.launch(op, e.pairs * tiles(e) * e.depth.div_ceil(32))?,
                &self.features.first,
                self.features.second.as_ref(),
                self.vectors,
                self.inverse,
                self.vector_inverse,
                self.g,
                self.a,
                scale,
                dloss,
                pooled.map(|(drho, _)| drho),
                from.map(|from| from.counts),
                from.map(|from| &from.labels.first),
                from.and_then(|from| from.labels.second.as_ref()),
                from.and_then(|from| from.dynamic),
                &mut df.first,
                df.second.as_mut(),
                problem,
            )?;
        }
        Ok(df)
    }

    /// The gradients of features and prototypes of one direction, those that are wanted.
    pub fn wanted<T: Element>(&self, op: &'static str, wanted: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
        let df = wanted[0].then(|| self.features::<T>(op, None)).transpose()?;
        let drho = wanted[1].then(|| self.vectors::<T>(op)).transpose()?;
        Ok([df.map(|df| df.first), drho])
    }
}
