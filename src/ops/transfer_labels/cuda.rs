//! Launches of `kernels/transfer_labels.cu`.

use half::bf16;

use super::OP;
use crate::{
    DType, Error, Result, Tensor,
    device::Launch,
    kernels,
    ops::cosine::{Extents, cuda::tile_launch},
    tensor::{Element, In, Out, Val},
};

kernels! { "transfer_labels";
    /// Labels by similarity.
    fn transfer_tiles<T in f32 | f64 | bf16>(
        features: In<T>, vectors: In<T::Accumulator>, vector_inverse: In<T::Accumulator>, present: In<u8>,
        inverse: Out<T::Accumulator>, s: Out<T::Accumulator>, labels: Out<u8>, skip: Val<i32>, cells: Val<i32>,
        depth: Val<i32>, classes: Val<i32>, over_tau: Val<T::Accumulator>, threshold: Val<T::Accumulator>);
    /// Static labels, filled with dynamic ones.
    fn hybrid(
        fixed: In<u8>, dynamic: In<u8>, out: Out<u8>, rows: Val<i32>, columns: Val<i32>, height: Val<i32>,
        width: Val<i32>, count: Val<i32>);
}

/// A number in the type in which kernels compute.
fn number<A: Element>(value: f64) -> Result<A> {
    let bytes = match A::DTYPE {
        DType::F64 => bytemuck::bytes_of(&value).to_vec(),
        DType::F32 => bytemuck::bytes_of(&(value as f32)).to_vec(),
        got => return Err(Error::DType { op: OP, got, want: "f32 or f64" }),
    };
    Ok(bytemuck::pod_read_unaligned(&bytes))
}

/// Prototypes [N,C,d] that exist where `present` u8 [N,C] is 1, and their inverse norms.
pub(crate) struct TransferFrom<'a> {
    pub prototypes: &'a Tensor,
    pub inverse: &'a Tensor,
    pub present: &'a Tensor,
}

/// Labels u8 [N,h,w] of the images of `features` after the first `skip`; `cutoffs` are temperature and threshold.
pub(crate) fn transfer<T: Element>(
    features: &Tensor,
    skip: usize,
    from: &TransferFrom,
    e: Extents,
    [temperature, threshold]: [f64; 2],
) -> Result<Tensor> {
    let (device, dtype) = (features.device(), T::Accumulator::DTYPE);
    let mut inverse = Tensor::empty(&[e.pairs, e.cells()], dtype, device)?;
    let mut s = Tensor::empty(&[e.pairs, e.cells(), e.classes], dtype, device)?;
    let mut labels = Tensor::empty(&[e.pairs, e.height, e.width], DType::U8, device)?;
    let [skip, cells, depth, classes] = [skip, e.cells(), e.depth, e.classes].map(|extent| extent as i32);
    let (over_tau, threshold) = (number(1.0 / temperature)?, number(threshold)?);
    // SAFETY: the operation checked all shapes; a block a tile.
    unsafe {
        transfer_tiles::<T>(
            device,
            tile_launch(OP, e)?,
            features,
            from.prototypes,
            from.inverse,
            from.present,
            &mut inverse,
            &mut s,
            &mut labels,
            skip,
            cells,
            depth,
            classes,
            over_tau,
            threshold,
        )?;
    }
    Ok(labels)
}

pub(super) fn hybrid_labels(fixed: &Tensor, dynamic: &Tensor, extents: [usize; 4], out: &mut Tensor) -> Result<()> {
    let (launch, count) = (Launch::linear(OP, out.len())?, out.len() as i32);
    let [rows, columns, height, width] = extents.map(|extent| extent as i32);
    // SAFETY: the operation checked the shapes; a thread an element of out.
    unsafe { hybrid(fixed.device(), launch, fixed, dynamic, out, rows, columns, height, width, count) }
}
