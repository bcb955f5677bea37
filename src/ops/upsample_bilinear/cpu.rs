//! Bilinear resizing on the CPU: a parallel task owns one row of the result.

use rayon::prelude::*;

use super::{Resize, lerp};
use crate::{Result, Tensor, tensor::Real};

pub(super) fn forward<T: Real>(x: &Tensor, resize: &Resize) -> Result<Tensor> {
    let mut y = Tensor::empty(&resize.output_shape(), T::DTYPE, x.device())?;
    let x = x.as_slice::<T>()?;
    let channels = resize.channels;
    let pitch = resize.columns.input * channels;
    let columns = resize.columns.positions::<T>();
    let row_len = (resize.columns.output * channels).max(1);
    y.as_mut_slice::<T>()?.par_chunks_mut(row_len).enumerate().for_each(|(row, y)| {
        let (image, i) = (row / resize.rows.output, row % resize.rows.output);
        let (below, above, s) = resize.rows.position::<T>(i);
        let row_of = |r: usize| &x[(image * resize.rows.input + r) * pitch..][..pitch];
        let (low, high) = (row_of(below), row_of(above));
        for (y, &(left, right, t)) in y.chunks_exact_mut(channels.max(1)).zip(&columns) {
            let (left, right) = (left * channels, right * channels);
            let (a, b) = (&low[left..][..channels], &low[right..][..channels]);
            let (c, d) = (&high[left..][..channels], &high[right..][..channels]);
            for (k, y) in y.iter_mut().enumerate() {
                *y = lerp(lerp(a[k], b[k], t), lerp(c[k], d[k], t), s);
            }
        }
    });
    Ok(y)
}

pub(super) fn backward<T: Real>(dy: &Tensor, resize: &Resize) -> Result<Tensor> {
    let mut dx = Tensor::empty(&resize.input_shape(), T::DTYPE, dy.device())?;
    let dy = dy.as_slice::<T>()?;
    let channels = resize.channels;
    let pitch = resize.columns.output * channels;
    let columns = resize.columns.positions::<T>();
    let row_len = (resize.columns.input * channels).max(1);
    dx.as_mut_slice::<T>()?.par_chunks_mut(row_len).enumerate().for_each(|(row, dx)| {
        let (image, r) = (row / resize.rows.input, row % resize.rows.input);
        // Columns last: the rows are first added up at full width, each with its weight for row r.
        let mut sum = vec![T::zero(); pitch];
        let first = if r == 0 { 0 } else { resize.rows.between(r - 1).start };
        for i in first..resize.rows.between(r).end {
            let (below, _, s) = resize.rows.position::<T>(i);
            let weight = if below == r { T::one() - s } else { s };
            let dy = &dy[(image * resize.rows.output + i) * pitch..][..pitch];
            for (sum, &dy) in sum.iter_mut().zip(dy) {
                *sum += weight * dy;
            }
        }
        dx.fill(T::zero());
        for (sum, &(left, right, t)) in sum.chunks_exact(channels.max(1)).zip(&columns) {
            for (k, &sum) in sum.iter().enumerate() {
                dx[left * channels + k] += (T::one() - t) * sum;
                dx[right * channels + k] += t * sum;
            }
        }
    });
    Ok(dx)
}
