//! Launches of `kernels/cosine.cu`.

use half::bf16;

use super::Extents;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, OptIn, Out, Val},
};

kernels! { "cosine";
    /// 1 / max(|x|, 1e-12) of each row.
    fn inverse_norms<T in f32 | f64 | bf16>(
        x: In<T>, inverse: Out<T::Accumulator>, rows: Val<i32>, depth: Val<i32>);
    /// Gradient of the features.
    fn cosine_features<T in f32 | f64 | bf16>(
        features: In<T>, vectors: In<T::Accumulator>, inverse: In<T::Accumulator>, vector_inverse: In<T::Accumulator>,
        g: In<T::Accumulator>, a: In<T::Accumulator>, scale: OptIn<T::Accumulator>, dloss: OptIn<T::Accumulator>,
        df: Out<T>, cells: Val<i32>, depth: Val<i32>, classes: Val<i32>);
    /// Gradient of the prototypes, by chunks of pixels.
    fn cosine_vectors<T in f32 | f64 | bf16>(
        features: In<T>, inverse: In<T::Accumulator>, g: In<T::Accumulator>, part: Out<T::Accumulator>,
        cells: Val<i32>, depth: Val<i32>, classes: Val<i32>, chunk: Val<i32>, chunks: Val<i32>);
    /// Sum of the chunks.
    fn cosine_vectors_finish<T in f32 | f64>(
        part: In<T>, vectors: In<T>, vector_inverse: In<T>, b: In<T>, scale: OptIn<T>, dloss: OptIn<T>, drho: Out<T>,
        block: Val<i32>, depth: Val<i32>, chunks: Val<i32>, count: Val<i32>);
}

/// Pixels of a tile and threads of a block, as in `kernels/include/cosine.cuh`.
pub(crate) const TILE: usize = 64;
/// Threads of a block that computes a tile.
pub(crate) const THREADS: u32 = 128;
/// Pixels whose part of the prototypes' gradient one block adds up.
const CHUNK: usize = 256;

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
    pub features: &'a Tensor,
    pub vectors: &'a Tensor,
    pub inverse: &'a Tensor,
    pub g: &'a Tensor,
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    /// Scale of each pair [N] and the gradient of the loss []; 1 where they are left out.
    pub scale: Option<(&'a Tensor, &'a Tensor)>,
}

/// The gradients of features and prototypes, those that are wanted.
pub(crate) fn device_gradients<T: Element>(
    op: &'static str,
    from: &DeviceGradients,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let (e, device) = (from.extents, from.features.device());
    let (cells, depth, classes) = (e.cells(), e.depth, e.classes);
    let [n_cells, n_depth, n_classes] = [cells, depth, classes].map(|extent| extent as i32);
    let (scale, dloss) = (from.scale.map(|(scale, _)| scale), from.scale.map(|(_, dloss)| dloss));
    let vector_inverse = row_norms::<T::Accumulator>(op, from.vectors)?;
    let mut gradients = [None, None];
    if wanted[0] {
        let mut df = from.features.empty_like()?;
        let launch = Launch::blocks(op, e.pairs * tiles(e) * depth.div_ceil(32), THREADS)?;
        // SAFETY: the shapes are those of `extents` (checked by the operation); the launch has a block for every 64
        // pixels and 32 channels, and the kernel leaves out what lies beyond.
        unsafe {
            cosine_features::<T>(
                device,
                launch,
                from.features,
                from.vectors,
                from.inverse,
                &vector_inverse,
                from.g,
                from.a,
                scale,
                dloss,
                &mut df,
                n_cells,
                n_depth,
                n_classes,
            )?;
        }
        gradients[0] = Some(df);
    }
    if wanted[1] {
        let chunks = cells.div_ceil(CHUNK);
        let mut part = Tensor::empty(&[e.pairs, chunks, classes, depth], T::Accumulator::DTYPE, device)?;
        let mut drho = from.vectors.empty_like()?;
        let blocks = e.pairs * chunks * classes.div_ceil(32) * depth.div_ceil(64);
        let launch = Launch::blocks(op, blocks, THREADS)?;
        // SAFETY: as above; a block for every chunk, 32 classes and 64 channels.
        unsafe {
            cosine_vectors::<T>(
                device,
                launch,
                from.features,
                from.inverse,
                from.g,
                &mut part,
                n_cells,
                n_depth,
                n_classes,
                CHUNK as i32,
                chunks as i32,
            )?;
        }
        let launch = Launch::linear(op, drho.len())?;
        let (block, count) = ((classes * depth) as i32, drho.len() as i32);
        // SAFETY: `part` holds `chunks` blocks of classes * depth for each pair; a thread an element of drho.
        unsafe {
            cosine_vectors_finish::<T::Accumulator>(
                device,
                launch,
                &part,
                from.vectors,
                &vector_inverse,
                from.b,
                scale,
                dloss,
                &mut drho,
                block,
                n_depth,
                chunks as i32,
                count,
            )?;
        }
        gradients[1] = Some(drho);
    }
    Ok(gradients)
}
