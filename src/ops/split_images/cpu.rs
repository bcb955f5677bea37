//! Runs of images on the CPU.

use crate::{Result, Tensor, tensor::Element};

pub(super) fn take<T: Element>(whole: &Tensor, shape: &[usize], offset: usize) -> Result<Tensor> {
    let mut part = Tensor::empty(shape, T::DTYPE, whole.device())?;
    let count = part.len();
    part.as_mut_slice::<T>()?.copy_from_slice(&whole.as_slice::<T>()?[offset..][..count]);
    Ok(part)
}

pub(super) fn give<T: Element>(
    part: &Tensor,
    shape: &[usize],
    offset: usize,
    accumulate: Option<Tensor>,
) -> Result<Tensor> {
    let mut among = Tensor::zeros(shape, T::DTYPE, part.device())?;
    among.as_mut_slice::<T>()?[offset..][..part.len()].copy_from_slice(part.as_slice::<T>()?);
    let Some(mut sum) = accumulate else { return Ok(among) };
    sum.accumulate(&among)?;
    Ok(sum)
}
