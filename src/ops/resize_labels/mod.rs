//! Nearest-neighbour resizing of label maps (docs/method.md, "Prototypes"), and the inverse of the upsampling rule.

pub(crate) mod cuda;

use rayon::prelude::*;

use crate::{Error, Result, Tensor};

const OP: &str = "resize_labels_nearest";

/// Reference: the CPU composes [`super::bidirectional_contrast`] of it.
/// Labels u8 `[N,H,W]` at the size `height` x `width`: element (y, x) is the label at
/// (floor(y * H / height), floor(x * W / width)), the rule of PyTorch's `interpolate(mode="nearest")`, in integers.
///
/// Errors: a shape of other than three dimensions, a dtype other than u8, or labels without pixels.
///
/// ```
/// use bicl::{Device, Tensor, ops};
/// let labels = Tensor::from_vec(vec![1u8, 2, 3, 4], &[1, 1, 4], &Device::cpu())?;
/// assert_eq!(ops::resize_labels_nearest(&labels, 1, 2)?.to_vec::<u8>()?, [1, 3]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn resize_labels_nearest(labels: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [pairs, rows, columns] = labels.dims(OP)?;
    if (rows == 0 || columns == 0) && height * width > 0 {
        return Err(Error::shape(OP, format!("labels {:?} have no pixel to take", labels.shape())));
    }
    let mut resized = Tensor::empty(&[pairs, height, width], labels.dtype(), labels.device())?;
    if !labels.device().is_cpu() {
        cuda::resize(labels, &mut resized)?;
        return Ok(resized);
    }
    let source = labels.as_slice::<u8>()?;
    let from_x: Vec<usize> = (0..width).map(|x| x * columns / width).collect();
    resized.as_mut_slice::<u8>()?.par_chunks_mut(width.max(1)).enumerate().for_each(|(row, target)| {
        let (pair, y) = (row / height, row % height);
        let source = &source[(pair * rows + y * rows / height) * columns..][..columns];
        for (target, &x) in target.iter_mut().zip(&from_x) {
            *target = source[x];
        }
    });
    Ok(resized)
}

/// The first of `full` positions that nearest-neighbour upsampling from `cells` cells assigns to `cell` or a later one:
/// position q belongs to cell floor(q * cells / full).
pub(crate) fn first_of_cell(cell: usize, cells: usize, full: usize) -> usize {
    (cell * full).div_ceil(cells)
}
