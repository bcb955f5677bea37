//! Launch of `kernels/align_labels.cu`.

use super::OP;
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{In, Out, Val},
};

/// `LabelGrid` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Grid {
    rows: i32,
    columns: i32,
    height: i32,
    width: i32,
    each: i32,
    count: i32,
}

kernels! { "align_labels";
    /// Labels at the places of a feature map's cells.
    fn align_labels(source: In<u8>, out: Out<u8>, grid: Val<Grid>);
}

pub(super) fn align(labels: &Tensor, [height, width]: [usize; 2], each: usize, aligned: &mut Tensor) -> Result<()> {
    let [_, rows, columns] = labels.dims(OP)?;
    let launch = Launch::linear(OP, aligned.len())?;
    let [rows, columns, height, width, each, count] =
        [rows, columns, height, width, each, aligned.len()].map(|extent| extent as i32);
    // SAFETY: both have the extents that are passed and the same N; a thread an element of the result.
    unsafe {
        align_labels(labels.device(), launch, labels, aligned, Grid { rows, columns, height, width, each, count })
    }
}
