//! The backward pass on the CPU: one pass for the sums, one for the gradients of the images.

use rayon::prelude::*;

use super::{
    Saved, Sums, Wanted,
    cpu::{Cut, Strip},
};
use crate::{Error, Result, Tensor, tensor::Real};

/// Where the ReLU's mask comes from: y, x, or nowhere.
enum Mask<'a, T> {
    FromY(&'a [T]),
    FromX(&'a [T]),
    None,
}

impl Saved {
    fn mask<T: Real>(&self) -> Result<Mask<'_, T>> {
        match (self.relu, &self.y, &self.x) {
            (false, ..) => Ok(Mask::None),
            (true, Some(y), _) => Ok(Mask::FromY(y.as_slice::<T>()?)),
            (true, None, Some(x)) => Ok(Mask::FromX(x.as_slice::<T>()?)),
            (true, None, None) => Err(Error::Internal("batch_norm kept neither x nor y".into())),
        }
    }
}

impl<T: Real> Mask<'_, T> {
    /// Writes g = dy where the ReLU passed for the elements from `start` on.
    fn apply(&self, strip: &Strip<T>, start: usize, dy: &[T], g: &mut [T]) {
        match self {
            Self::None => g.copy_from_slice(dy),
            Self::FromY(y) => {
                for ((g, &dy), &y) in g.iter_mut().zip(dy).zip(&y[start..]) {
                    *g = if y > T::zero() { dy } else { T::zero() };
                }
            }
            Self::FromX(x) => {
                let parameters = strip.mean.iter().zip(&strip.slope).zip(&strip.shift);
                for (((g, &dy), &x), ((&mean, &slope), &shift)) in g.iter_mut().zip(dy).zip(&x[start..]).zip(parameters)
                {
                    // The very expression of the forward pass, so that the mask is the same to the bit.
                    let z = (x - mean) * slope + shift;
                    *g = if z > T::zero() { dy } else { T::zero() };
                }
            }
        }
    }
}

/// d shift = sum g and d scale = sum g h.
pub(super) fn sums<T: Real>(saved: &Saved, dy: &Tensor) -> Result<Sums> {
    let channels = dy.shape()[3];
    let cut = Cut::new(channels);
    let strip = Strip::<T>::new(cut, &saved.affine)?;
    let mask = saved.mask::<T>()?;
    // Without x only d shift is wanted.
    let x = saved.x.as_ref().map(|x| x.as_slice::<T>()).transpose()?;
    let pieces: Vec<Vec<f64>> = dy
        .as_slice::<T>()?
        .par_chunks(cut.piece)
        .enumerate()
        .map(|(i, dy)| {
            let mut g = vec![T::zero(); cut.strip];
            let (mut plain, mut weighted) = (vec![T::zero(); cut.strip], vec![T::zero(); cut.strip]);
            for (j, dy) in dy.chunks(cut.strip).enumerate() {
                let start = i * cut.piece + j * cut.strip;
                let g = &mut g[..dy.len()];
                mask.apply(&strip, start, dy, g);
                match x {
                    Some(x) => {
                        let lanes = plain.iter_mut().zip(&mut weighted);
                        for (((plain, weighted), &g), (&x, &mean)) in
                            lanes.zip(&*g).zip(x[start..].iter().zip(&strip.mean))
                        {
                            *plain += g;
                            *weighted += g * (x - mean);
                        }
                    }
                    None => plain.iter_mut().zip(&*g).for_each(|(plain, &g)| *plain += g),
                }
            }
            let mut totals = vec![0.0; 2 * channels];
            cut.fold(&plain, &mut totals[..channels]);
            cut.fold(&weighted, &mut totals[channels..]);
            totals
        })
        .collect();
    let mut totals = vec![0.0; 2 * channels];
    for piece in &pieces {
        totals.iter_mut().zip(piece).for_each(|(total, piece)| *total += piece);
    }
    let (plain, weighted) = totals.split_at(channels);
    let shift = plain.iter().map(|&sum| T::of(sum)).collect();
    let scale = weighted.iter().zip(&strip.inverse).map(|(&sum, inverse)| T::of(sum * inverse.wide())).collect();
    let vector = |values: Vec<T>| Tensor::from_vec(values, &[channels], dy.device());
    Ok(Sums { shift: vector(shift)?, scale: vector(scale)? })
}

/// d x = slope (g - d shift / M - h d scale / M), or slope g without `sums`; and d residual = g.
pub(super) fn images<T: Real>(
    saved: &Saved,
    dy: Tensor,
    sums: Option<&Sums>,
    wanted: Wanted,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let channels = dy.shape()[3];
    let cut = Cut::new(channels);
    let strip = Strip::<T>::new(cut, &saved.affine)?;
    if !wanted.x {
        return Ok((None, Some(masked(saved, cut, &strip, dy)?)));
    }
    let mut dx = dy.empty_like()?;
    if wanted.residual {
        let dresidual = masked(saved, cut, &strip, dy)?;
        gradient_of_x(saved, cut, &strip, &Mask::None, &dresidual, sums, &mut dx)?;
        return Ok((Some(dx), Some(dresidual)));
    }
    gradient_of_x(saved, cut, &strip, &saved.mask()?, &dy, sums, &mut dx)?;
    Ok((Some(dx), None))
}

/// g = dy where the ReLU passed; dy itself without ReLU.
fn masked<T: Real>(saved: &Saved, cut: Cut, strip: &Strip<T>, dy: Tensor) -> Result<Tensor> {
    let mask = saved.mask::<T>()?;
    if matches!(mask, Mask::None) {
        return Ok(dy);
    }
    let mut g = dy.empty_like()?;
    let dy = dy.as_slice::<T>()?;
    g.as_mut_slice::<T>()?.par_chunks_mut(cut.piece).zip(dy.par_chunks(cut.piece)).enumerate().for_each(
        |(i, (g, dy))| {
            for (j, (g, dy)) in g.chunks_mut(cut.strip).zip(dy.chunks(cut.strip)).enumerate() {
                mask.apply(strip, i * cut.piece + j * cut.strip, dy, g);
            }
        },
    );
    Ok(g)
}

fn gradient_of_x<T: Real>(
    saved: &Saved,
    cut: Cut,
    strip: &Strip<T>,
    mask: &Mask<'_, T>,
    dy: &Tensor,
    sums: Option<&Sums>,
    dx: &mut Tensor,
) -> Result<()> {
    // d x = slope * g - constant - (x - mean) * linear, with what does not depend on the pixel worked out before.
    let terms = match (sums, &saved.x) {
        (Some(sums), Some(x)) => {
            let inverse_count = 1.0 / (dy.len() / cut.channels) as f64;
            let channel = strip.slope.iter().zip(&strip.inverse);
            let constant = channel.clone().zip(sums.shift.as_slice::<T>()?);
            let constant: Vec<T> = constant.map(|((&slope, _), &sum)| slope * sum * T::of(inverse_count)).collect();
            let linear = channel.zip(sums.scale.as_slice::<T>()?);
            let linear: Vec<T> =
                linear.map(|((&slope, &inverse), &sum)| slope * sum * T::of(inverse_count) * inverse).collect();
            Some((x.as_slice::<T>()?, cut.repeat(&constant), cut.repeat(&linear)))
        }
        (Some(_), None) => return Err(Error::Internal("batch_norm did not keep x".into())),
        (None, _) => None,
    };
    let dy = dy.as_slice::<T>()?;
    let target = dx.as_mut_slice::<T>()?.par_chunks_mut(cut.piece).zip(dy.par_chunks(cut.piece)).enumerate();
    target.for_each(|(i, (dx, dy))| {
        for (j, (dx, dy)) in dx.chunks_mut(cut.strip).zip(dy.chunks(cut.strip)).enumerate() {
            let start = i * cut.piece + j * cut.strip;
            mask.apply(strip, start, dy, dx);
            match &terms {
                None => dx.iter_mut().zip(&strip.slope).for_each(|(g, &slope)| *g *= slope),
                Some((x, constant, linear)) => {
                    let parameters = strip.mean.iter().zip(&strip.slope).zip(constant.iter().zip(linear));
                    for ((g, &x), ((&mean, &slope), (&constant, &linear))) in
                        dx.iter_mut().zip(&x[start..]).zip(parameters)
                    {
                        *g = slope * *g - (constant + (x - mean) * linear);
                    }
                }
            }
        }
    });
    Ok(())
}
