//! Labels at the places where the segmentation losses see the cells of a feature map.
//!
//! The logits are upsampled with align_corners: of h cells over H pixels, cell i lies at pixel i (H - 1) / (h - 1). That is also
//! where a network's strides centre it. The nearest-neighbour rule of docs/method.md, "Prototypes", reads its label at
//! i H / h, up to a cell further up and left. On 730 pixels that is little against the objects; on 128 it is not.

pub(crate) mod cuda;

use rayon::prelude::*;

use crate::{DType, Error, Result, Tensor};

const OP: &str = "align_labels";
/// No class.
const IGNORE: u8 = 255;

/// Reference: the CPU composes [`super::bidirectional_contrast`] of it.
/// Labels u8 `[N,H,W]` in blocks of `each` x `each` for every cell of a feature map of `height` x `width`: `[N, height * each,
/// width * each]`, spread evenly over the cell, whose middle is at (i (H - 1) / (height - 1), j (W - 1) / (width - 1)). What lies
/// outside the image is 255; a single cell covers all. With `each` 1 it is the label at the middle.
///
/// Errors: a shape of other than three dimensions, a dtype other than u8, labels without pixels, `each` 0, or a result of more
/// than 2^31 - 1 elements.
///
/// ```
/// use bicl::{Device, Tensor, ops};
/// let labels = Tensor::from_vec(vec![1u8, 2, 3, 4, 5], &[1, 1, 5], &Device::cpu())?;
/// assert_eq!(ops::align_labels(&labels, 1, 3, 1)?.to_vec::<u8>()?, [1, 3, 5]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn align_labels(labels: &Tensor, height: usize, width: usize, each: usize) -> Result<Tensor> {
    let [images, rows, columns] = labels.dims(OP)?;
    if labels.dtype() != DType::U8 {
        return Err(Error::DType { op: OP, got: labels.dtype(), want: "u8" });
    }
    if each == 0 || ((rows == 0 || columns == 0) && height * width > 0) {
        let shape = labels.shape();
        return Err(Error::shape(OP, format!("labels {shape:?} with {each} places a cell have no pixel to take")));
    }
    let limit = i32::MAX as usize;
    let count = [images, height, width, each, each].iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    if count.is_none_or(|count| count > limit) || rows > limit || columns > limit {
        return Err(Error::shape(OP, format!("{each} places for each of {height} x {width} cells are too many")));
    }
    let mut aligned = Tensor::empty(&[images, height * each, width * each], DType::U8, labels.device())?;
    if aligned.is_empty() {
        return Ok(aligned);
    }
    if !labels.device().is_cpu() {
        cuda::align(labels, [height, width], each, &mut aligned)?;
        return Ok(aligned);
    }
    let source = labels.as_slice::<u8>()?;
    let (down, across) = (places(height, each, rows), places(width, each, columns));
    aligned.as_mut_slice::<u8>()?.par_chunks_mut(across.len()).enumerate().for_each(|(line, target)| {
        let (image, y) = (line / down.len(), line % down.len());
        let Some(row) = down[y] else { return target.fill(IGNORE) };
        let source = &source[(image * rows + row) * columns..][..columns];
        for (target, column) in target.iter_mut().zip(&across) {
            *target = column.map_or(IGNORE, |column| source[column]);
        }
    });
    Ok(aligned)
}

/// The pixel of each place along an axis, `None` outside the image.
fn places(cells: usize, each: usize, full: usize) -> Vec<Option<usize>> {
    let place = |q: usize| -> i64 {
        let [q, cells, each, full] = [q, cells, each, full].map(|extent| extent as i64);
        match cells {
            1 => (2 * q + 1) * full / (2 * each),
            _ => {
                let half = each * (cells - 1);
                ((2 * q + 1 - each) * (full - 1) + half).div_euclid(2 * half)
            }
        }
    };
    (0..cells * each).map(|q| usize::try_from(place(q)).ok().filter(|&pixel| pixel < full)).collect()
}
