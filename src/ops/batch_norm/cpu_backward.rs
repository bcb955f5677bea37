//! The backward pass on the CPU: one pass for the sums, one for the gradients of the images.

use rayon::prelude::*;

use super::{
    Saved, Sums, Total, Wanted,
    cpu::{Cut, Strip, of_group},
    statistics_shape,
};
use crate::{Error, Result, Tensor, tensor::Real};

/// Where the ReLU's mask comes from: y, x, or nowhere.
enum Mask<'a, T> {
    FromY(&'a [T]),
    FromX(&'a [T]),
    None,
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

/// What was kept of one group's images, and its channels' parameters.
struct Group<'a, T> {
    cut: Cut,
    strip: Strip<T>,
    mask: Mask<'a, T>,
    x: Option<&'a [T]>,
}

impl Saved {
    fn group<T: Real>(&self, index: usize, channels: usize, length: usize) -> Result<Group<'_, T>> {
        fn part<T: Real>(image: &Option<Tensor>, index: usize, length: usize) -> Result<Option<&[T]>> {
            image.as_ref().map(|image| Ok(&image.as_slice::<T>()?[index * length..][..length])).transpose()
        }
        let (x, y) = (part(&self.x, index, length)?, part(&self.y, index, length)?);
        let mask = match (self.relu, y, x) {
            (false, ..) => Mask::None,
            (true, Some(y), _) => Mask::FromY(y),
            (true, None, Some(x)) => Mask::FromX(x),
            (true, None, None) => return Err(Error::Internal("batch_norm kept neither x nor y".into())),
        };
        let cut = Cut::new(channels);
        Ok(Group { cut, strip: Strip::new(cut, &self.affine, index)?, mask, x })
    }
}

/// d shift = sum g and d scale = sum g h.
pub(super) fn sums<T: Real>(saved: &Saved, dy: &Tensor) -> Result<Sums> {
    let (channels, groups) = (dy.shape()[3], saved.affine.statistics.groups);
    let length = (dy.len() / groups).max(1);
    let (mut shifts, mut scales) = (Vec::new(), Vec::new());
    for (index, dy) in dy.as_slice::<T>()?.chunks_exact(length).enumerate() {
        let group = saved.group::<T>(index, channels, length)?;
        let totals = group.sums(dy);
        let (plain, weighted) = totals.split_at(channels);
        shifts.extend(plain.iter().map(|&sum| T::of(sum)));
        scales.extend(weighted.iter().zip(&group.strip.inverse).map(|(&sum, inverse)| T::of(sum * inverse.wide())));
    }
    let vector = |values: Vec<T>, groups| Tensor::from_vec(values, &statistics_shape(groups, channels), dy.device());
    let over_groups = |values: &[T]| {
        let mut total = vec![T::zero(); channels];
        values.chunks(channels).for_each(|of| total.iter_mut().zip(of).for_each(|(total, &value)| *total += value));
        vector(total, 1)
    };
    let total = match groups {
        1 => None,
        _ => Some(Total { shift: over_groups(&shifts)?, scale: over_groups(&scales)? }),
    };
    Ok(Sums { shift: vector(shifts, groups)?, scale: vector(scales, groups)?, total })
}

impl<T: Real> Group<'_, T> {
    /// Sums of g, then of g (x - mean). Without x only the former are wanted.
    fn sums(&self, dy: &[T]) -> Vec<f64> {
        let (cut, strip) = (self.cut, &self.strip);
        let pieces: Vec<Vec<f64>> = dy
            .par_chunks(cut.piece)
            .enumerate()
            .map(|(i, dy)| {
                let mut g = vec![T::zero(); cut.strip];
                let (mut plain, mut weighted) = (vec![T::zero(); cut.strip], vec![T::zero(); cut.strip]);
                for (j, dy) in dy.chunks(cut.strip).enumerate() {
                    let start = i * cut.piece + j * cut.strip;
                    let g = &mut g[..dy.len()];
                    self.mask.apply(strip, start, dy, g);
                    match self.x {
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
                let mut totals = vec![0.0; 2 * cut.channels];
                cut.fold(&plain, &mut totals[..cut.channels]);
                cut.fold(&weighted, &mut totals[cut.channels..]);
                totals
            })
            .collect();
        let mut totals = vec![0.0; 2 * cut.channels];
        for piece in &pieces {
            totals.iter_mut().zip(piece).for_each(|(total, piece)| *total += piece);
        }
        totals
    }
}

/// d x = slope (g - d shift / M - h d scale / M), or slope g without `sums`; and d residual = g.
pub(super) fn images<T: Real>(
    saved: &Saved,
    dy: Tensor,
    sums: Option<&Sums>,
    wanted: Wanted,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let channels = dy.shape()[3];
    let length = dy.len() / saved.affine.statistics.groups;
    // Without ReLU the residual's gradient is dy itself.
    let mut dresidual = (wanted.residual && saved.relu).then(|| dy.empty_like()).transpose()?;
    let mut dx = wanted.x.then(|| dy.empty_like()).transpose()?;
    let groups = if dy.is_empty() { 0 } else { saved.affine.statistics.groups };
    for index in 0..groups {
        let mut group = saved.group::<T>(index, channels, length)?;
        let range = index * length..(index + 1) * length;
        let mut dy = &dy.as_slice::<T>()?[range.clone()];
        if let Some(dresidual) = &mut dresidual {
            let g = &mut dresidual.as_mut_slice::<T>()?[range.clone()];
            group.masked(dy, g);
            (dy, group.mask) = (g, Mask::None);
        }
        if let Some(dx) = &mut dx {
            let terms = sums.map(|sums| group.terms(sums, index, length)).transpose()?;
            group.gradient_of_x(dy, terms.as_ref(), &mut dx.as_mut_slice::<T>()?[range]);
        }
    }
    let dresidual = if wanted.residual && !saved.relu { Some(dy) } else { dresidual };
    Ok((dx, dresidual))
}

/// What of d x does not depend on the pixel but for x: d x = slope * g - constant - (x - mean) * linear.
struct Terms<T> {
    constant: Vec<T>,
    linear: Vec<T>,
}

impl<T: Real> Group<'_, T> {
    /// g = dy where the ReLU passed.
    fn masked(&self, dy: &[T], g: &mut [T]) {
        let cut = self.cut;
        g.par_chunks_mut(cut.piece).zip(dy.par_chunks(cut.piece)).enumerate().for_each(|(i, (g, dy))| {
            for (j, (g, dy)) in g.chunks_mut(cut.strip).zip(dy.chunks(cut.strip)).enumerate() {
                self.mask.apply(&self.strip, i * cut.piece + j * cut.strip, dy, g);
            }
        });
    }

    fn terms(&self, sums: &Sums, index: usize, length: usize) -> Result<Terms<T>> {
        if self.x.is_none() {
            return Err(Error::Internal("batch_norm did not keep x".into()));
        }
        let (cut, strip) = (self.cut, &self.strip);
        let inverse_count = T::of(1.0 / (length / cut.channels) as f64);
        let channel = strip.slope.iter().zip(&strip.inverse);
        let constant = channel.clone().zip(of_group::<T>(&sums.shift, index, cut.channels)?);
        let constant: Vec<T> = constant.map(|((&slope, _), &sum)| slope * sum * inverse_count).collect();
        let linear = channel.zip(of_group::<T>(&sums.scale, index, cut.channels)?);
        let linear: Vec<T> = linear.map(|((&slope, &inverse), &sum)| slope * sum * inverse_count * inverse).collect();
        Ok(Terms { constant: cut.repeat(&constant), linear: cut.repeat(&linear) })
    }

    fn gradient_of_x(&self, dy: &[T], terms: Option<&Terms<T>>, dx: &mut [T]) {
        let (cut, strip) = (self.cut, &self.strip);
        dx.par_chunks_mut(cut.piece).zip(dy.par_chunks(cut.piece)).enumerate().for_each(|(i, (dx, dy))| {
            for (j, (dx, dy)) in dx.chunks_mut(cut.strip).zip(dy.chunks(cut.strip)).enumerate() {
                let start = i * cut.piece + j * cut.strip;
                self.mask.apply(strip, start, dy, dx);
                match (terms, self.x) {
                    (Some(Terms { constant, linear }), Some(x)) => {
                        let parameters = strip.mean.iter().zip(&strip.slope).zip(constant.iter().zip(linear));
                        for ((g, &x), ((&mean, &slope), (&constant, &linear))) in
                            dx.iter_mut().zip(&x[start..]).zip(parameters)
                        {
                            *g = slope * *g - (constant + (x - mean) * linear);
                        }
                    }
                    _ => dx.iter_mut().zip(&strip.slope).for_each(|(g, &slope)| *g *= slope),
                }
            }
        });
    }
}
