//! Launches of `kernels/pixel_prototype_similarity.cu`.

use half::bf16;

use super::OP;
use crate::{
    Result, Tensor, kernels,
    ops::{
        cosine::{
            Extents,
            cuda::{DeviceGradients, row_norms, tile_launch},
        },
        domain_pair::Halves,
    },
    tensor::{Element, In, Out, Val},
};

kernels! { "pixel_prototype_similarity";
    /// Similarities.
    fn pixel_similarity<T in f32 | f64 | bf16>(
        features: In<T>, vectors: In<T::Accumulator>, inverse: In<T::Accumulator>, vector_inverse: In<T::Accumulator>,
        counts: In<u32>, s: Out<T::Accumulator>, cells: Val<i32>, depth: Val<i32>, classes: Val<i32>);
    /// g and a.
    fn similarity_sums<T in f32 | f64>(
        s: In<T>, ds: In<T>, counts: In<u32>, g: Out<T>, a: Out<T>, cells: Val<i32>, classes: Val<i32>);
}

pub(super) fn forward<T: Element>(features: &Tensor, vectors: &Tensor, counts: &Tensor, e: Extents) -> Result<Tensor> {
    let device = features.device();
    let mut s = Tensor::empty(&[e.pairs, e.height, e.width, e.classes], T::Accumulator::DTYPE, device)?;
    let (inverse, vector_inverse) = (row_norms::<T>(OP, features)?, row_norms::<T::Accumulator>(OP, vectors)?);
    let [cells, depth, classes] = [e.cells(), e.depth, e.classes].map(|extent| extent as i32);
    let launch = tile_launch(OP, e)?;
    // SAFETY: the shapes are those of `e`, which the operation checked; a block a tile.
    unsafe {
        pixel_similarity::<T>(
            device,
            launch,
            features,
            vectors,
            &inverse,
            &vector_inverse,
            counts,
            &mut s,
            cells,
            depth,
            classes,
        )?;
    }
    Ok(s)
}

pub(super) fn backward<T: Element>(
    [features, vectors, counts, s]: [&Tensor; 4],
    ds: &Tensor,
    e: Extents,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let (device, dtype) = (features.device(), T::Accumulator::DTYPE);
    let mut g = ds.empty_like()?;
    let mut a = Tensor::empty(&[e.pairs, e.height, e.width], dtype, device)?;
    let [cells, classes] = [e.cells(), e.classes].map(|extent| extent as i32);
    let launch = tile_launch(OP, e)?;
    // SAFETY: s, ds and g have shape [N,h,w,C] (the tape checks the gradient's); a block a tile.
    unsafe { similarity_sums::<T::Accumulator>(device, launch, s, ds, counts, &mut g, &mut a, cells, classes)? };
    let (inverse, vector_inverse) = (&row_norms::<T>(OP, features)?, &row_norms::<T::Accumulator>(OP, vectors)?);
    let (features, g, a) = (&Halves::one(features), &g, &a);
    let (extents, directions, scale) = (e, 1, None);
    let from = DeviceGradients { extents, directions, features, vectors, vector_inverse, inverse, g, a, scale };
    from.wanted::<T>(OP, wanted)
}
