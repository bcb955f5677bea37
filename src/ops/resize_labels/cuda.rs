//! Launch of `kernels/resize_labels.cu`.

use super::OP;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{In, Out, Val},
};

kernels! { "resize_labels";
    /// Nearest neighbour.
    fn resize_labels(
        source: In<u8>, out: Out<u8>, rows: Val<i32>, columns: Val<i32>, height: Val<i32>, width: Val<i32>,
        count: Val<i32>);
}

pub(super) fn resize(labels: &Tensor, resized: &mut Tensor) -> Result<()> {
    let [_, rows, columns] = labels.dims(OP)?.map(|extent: usize| extent as i32);
    let [_, height, width] = resized.dims(OP)?.map(|extent: usize| extent as i32);
    let (launch, count) = (Launch::linear(OP, resized.len())?, resized.len() as i32);
    // SAFETY: both have the extents that are passed, the same N; a thread an element of the result.
    unsafe { resize_labels(labels.device(), launch, labels, resized, rows, columns, height, width, count) }
}
