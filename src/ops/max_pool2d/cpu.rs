//! Max pooling on the CPU: a parallel task owns one row of the result.

use rayon::prelude::*;

use super::Pooling;
use crate::{DType, Result, Tensor, tensor::Real};

/// The maxima, and each one's place in its window (row * kernel width + column).
pub(super) fn forward<T: Real>(x: &Tensor, problem: &Pooling) -> Result<(Tensor, Tensor)> {
    let shape = problem.output_shape();
    let mut y = Tensor::empty(&shape, T::DTYPE, x.device())?;
    let mut places = Tensor::empty(&shape, DType::U8, x.device())?;
    let x = x.as_slice::<T>()?;
    let Pooling { height, width, channels, out_height, out_width, .. } = *problem;
    let row_len = (out_width * channels).max(1);
    let rows = y.as_mut_slice::<T>()?.par_chunks_mut(row_len).zip(places.as_mut_slice::<u8>()?.par_chunks_mut(row_len));
    rows.enumerate().for_each(|(row, (y, places))| {
        let (image, p) = (row / out_height, row % out_height);
        for q in 0..out_width {
            let y = &mut y[q * channels..][..channels];
            let places = &mut places[q * channels..][..channels];
            let mut first = true;
            for (r, i) in problem.window(0, p, height) {
                for (s, j) in problem.window(1, q, width) {
                    let place = (r * problem.kernel[1] + s) as u8;
                    let x = &x[((image * height + i) * width + j) * channels..][..channels];
                    if first {
                        y.copy_from_slice(x);
                        places.fill(place);
                        first = false;
                        continue;
                    }
                    for ((y, at), &x) in y.iter_mut().zip(places.iter_mut()).zip(x) {
                        if x > *y || x.is_nan() {
                            *y = x;
                            *at = place;
                        }
                    }
                }
            }
        }
    });
    Ok((y, places))
}

/// Each input pixel adds up the gradients of the windows whose maximum it is, in the windows' order.
pub(super) fn backward<T: Real>(dy: &Tensor, places: &Tensor, problem: &Pooling) -> Result<Tensor> {
    let mut dx = Tensor::empty(&problem.input_shape(), T::DTYPE, dy.device())?;
    let (dy, places) = (dy.as_slice::<T>()?, places.as_slice::<u8>()?);
    let Pooling { height, width, channels, out_height, out_width, .. } = *problem;
    let row_len = (width * channels).max(1);
    dx.as_mut_slice::<T>()?.par_chunks_mut(row_len).enumerate().for_each(|(row, dx)| {
        let (image, i) = (row / height, row % height);
        dx.fill(T::zero());
        for p in problem.windows_over(0, i, out_height) {
            // Input row i is row r of window row p.
            let r = i + problem.padding[0] - p * problem.stride[0];
            for q in 0..out_width {
                let at = ((image * out_height + p) * out_width + q) * channels;
                for (s, j) in problem.window(1, q, width) {
                    let place = (r * problem.kernel[1] + s) as u8;
                    let dx = dx[j * channels..][..channels].iter_mut();
                    for ((dx, &dy), &at) in dx.zip(&dy[at..][..channels]).zip(&places[at..][..channels]) {
                        if at == place {
                            *dx += dy;
                        }
                    }
                }
            }
        }
    });
    Ok(dx)
}
