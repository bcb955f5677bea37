//! A batch of images taken apart: source and target go through a network as one batch and part for the losses.

mod cpu;
pub(crate) mod cuda;

use crate::{
    Error, Result, Tensor,
    autograd::{Contribution, GradientRequest, Var},
};

const OP: &str = "split_images";

/// `x` `[N,..]` -> `[counts[0],..]`, `[counts[1],..]`, ..: its images in order, of any float dtype. Each part's gradient goes to
/// its own images.
///
/// Errors: counts that do not add up to N; a dtype that is no float.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::split_images};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let x = tape.variable(Tensor::from_vec(vec![1.0f32, 2.0, 3.0], &[3, 1, 1, 1], &device)?);
/// let parts = split_images(&x, &[1, 2])?;
/// assert_eq!(parts[1].value().to_vec::<f32>()?, [2.0, 3.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn split_images(x: &Var, counts: &[usize]) -> Result<Vec<Var>> {
    let shape = x.value().shape().to_vec();
    let images = shape.first().copied().unwrap_or(0);
    let sum = counts.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
    if counts.is_empty() || sum != Some(images) {
        return Err(Error::shape(OP, format!("parts of {counts:?} images do not make up x {shape:?}")));
    }
    let each: usize = shape[1..].iter().product();
    let mut offset = 0;
    let part = |&count: &usize| {
        let part_shape = [&[count], &shape[1..]].concat();
        let (from, whole) = (offset, shape.clone());
        offset += count * each;
        let value = take(x.value(), &part_shape, from)?;
        Var::record_fusing(OP, value, &[x], None, move |dy, _, requests| {
            let gradient = give(&dy, &whole, from, &mut requests[0])?;
            Ok(vec![gradient.map(Contribution::from)])
        })
    };
    counts.iter().map(part).collect()
}

/// The elements from `offset` on, in `shape`.
fn take(whole: &Tensor, shape: &[usize], offset: usize) -> Result<Tensor> {
    dispatch!(whole, OP, T => {
        kernels => cuda::take::<T>(whole, shape, offset),
        cpu => cpu::take::<T>(whole, shape, offset),
    })
}

/// The gradient of the whole: the part's, added where there is one already, else among zeros.
fn give(part: &Tensor, shape: &[usize], offset: usize, request: &mut GradientRequest) -> Result<Option<Tensor>> {
    if !request.wanted {
        return Ok(None);
    }
    let accumulate = request.take_accumulate(shape);
    let gradient = dispatch!(part, OP, T => {
        kernels => cuda::give::<T>(part, shape, offset, accumulate),
        cpu => cpu::give::<T>(part, shape, offset, accumulate),
    });
    gradient.map(Some)
}
