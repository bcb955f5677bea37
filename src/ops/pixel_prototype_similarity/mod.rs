//! Cosine similarity of every feature pixel with every prototype (docs/method.md, "Pixel-prototype similarity"); the
//! equations, with those of the gradients, are in `ops/cosine/mod.rs`.

mod cpu;
pub(crate) mod cuda;

use super::{Prototypes, cosine::Extents};
use crate::{DType, Result, Tensor, autograd::Var};

const OP: &str = "pixel_prototype_similarity";

/// Reference: [`super::bidirectional_contrast`] stores no similarities.
/// s `[N,h,w,C]` of features `[N,h,w,d]` with the prototypes of their pairs, in the prototypes' dtype. An absent class has
/// s = -1 and passes no gradient; a zero feature vector has s = 0 and gets none.
///
/// Errors: shapes, dtypes or devices that do not fit.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let features = tape.constant(Tensor::from_vec(vec![3.0f32, 4.0, 0.0, 2.0], &[1, 1, 2, 2], &device)?);
/// let labels = Tensor::from_vec(vec![255u8, 1], &[1, 1, 2], &device)?;
/// let prototypes = ops::masked_average_pool(&features, &labels, 2)?;
/// let s = ops::pixel_prototype_similarity(&features, &prototypes)?;
/// assert_eq!(s.value().to_vec::<f32>()?, [-1.0, 0.8, -1.0, 1.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn pixel_prototype_similarity(features: &Var, prototypes: &Prototypes) -> Result<Var> {
    let extents = Extents::of(OP, features, prototypes)?;
    let vectors = &prototypes.vectors;
    let s = forward(features.value(), vectors.value(), &prototypes.counts, extents)?;
    let saved = [features.value(), vectors.value(), &prototypes.counts, &s].map(Tensor::clone);
    Var::record(OP, s, [features, vectors], move |ds, wanted| backward(&saved, &ds, extents, wanted))
}

fn forward(features: &Tensor, vectors: &Tensor, counts: &Tensor, extents: Extents) -> Result<Tensor> {
    dispatch!(features, OP, T => {
        kernels => cuda::forward::<T>(features, vectors, counts, extents),
        bf16 => forward(&features.to_dtype(DType::F32)?, vectors, counts, extents),
        cpu => cpu::forward::<T>(features, vectors, counts, extents),
    })
}

fn backward(saved: &[Tensor; 4], ds: &Tensor, extents: Extents, wanted: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
    let [features, vectors, counts, s] = saved;
    dispatch!(features, OP, T => {
        kernels => cuda::backward::<T>([features, vectors, counts, s], ds, extents, wanted),
        bf16 => {
            let saved = [features.to_dtype(DType::F32)?, vectors.clone(), counts.clone(), s.clone()];
            let [df, drho] = backward(&saved, ds, extents, wanted)?;
            Ok([df.map(|df| df.to_dtype(DType::Bf16)).transpose()?, drho])
        },
        cpu => cpu::backward::<T>(saved, ds, extents, wanted),
    })
}
