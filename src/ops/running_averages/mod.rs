//! Running averages, as of batch norms' statistics: average = (1 - weight) average + weight x, in place.

pub(crate) mod cuda;

use super::found_inf;
use crate::{Error, Result, Tensor, tensor::Real, with_real};

const OP: &str = "running_averages";

/// One average and what moves it.
pub struct AverageItem<'a> {
    /// Of any shape, f32 or f64.
    pub average: &'a mut Tensor,
    /// Of the same dtype and shape, or several of them: [rows,..].
    pub x: &'a Tensor,
    /// Which row of x.
    pub row: usize,
}

/// Moves each average towards its row with `weight`; nothing where one of the `losses` (f32) is NaN or infinite. On kernels
/// it is one launch for 256 of them.
///
/// Errors: shapes, dtypes or devices that do not fit.
///
/// ```
/// use bicl::{Device, Tensor, ops::{AverageItem, move_running_averages}};
/// let device = Device::cpu();
/// let mut average = Tensor::from_vec(vec![1.0f32, 2.0], &[2], &device)?;
/// let x = Tensor::from_vec(vec![9.0f32, 9.0, 3.0, 4.0], &[2, 2], &device)?;
/// move_running_averages(&mut [AverageItem { average: &mut average, x: &x, row: 1 }], 0.5, None)?;
/// assert_eq!(average.to_vec::<f32>()?, [2.0, 3.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn move_running_averages(items: &mut [AverageItem<'_>], weight: f64, losses: Option<&Tensor>) -> Result<()> {
    let Some(first) = items.first() else { return Ok(()) };
    let (device, dtype) = (first.average.device().clone(), first.average.dtype());
    found_inf::check(OP, losses, &device)?;
    for AverageItem { average, x, row } in items.iter() {
        average.expect_same_device(x, OP)?;
        let rows = match x.shape() {
            one if one == average.shape() => 1,
            [rows, one @ ..] if one == average.shape() => *rows,
            _ => 0,
        };
        if *row >= rows || x.dtype() != dtype || average.dtype() != dtype {
            return Err(Error::shape(OP, format!("row {row} of {x:?} does not move an average {average:?}")));
        }
        if average.device() != &device {
            return Err(Error::shape(OP, "averages of one device go together"));
        }
    }
    if !device.is_cpu() {
        for items in items.chunks_mut(cuda::ENTRIES) {
            with_real!(dtype, OP, T => cuda::run::<T>(items, weight, losses))?;
        }
        return Ok(());
    }
    if !found_inf::found_inf(losses)? {
        for item in items {
            with_real!(dtype, OP, T => on_cpu::<T>(item, weight))?;
        }
    }
    Ok(())
}

fn on_cpu<T: Real>(item: &mut AverageItem<'_>, weight: f64) -> Result<()> {
    let (keep, weight, count) = (T::of(1.0 - weight), T::of(weight), item.average.len());
    let x = &item.x.as_slice::<T>()?[item.row * count..][..count];
    for (average, &x) in item.average.as_mut_slice::<T>()?.iter_mut().zip(x) {
        *average = keep * *average + weight * x;
    }
    Ok(())
}
