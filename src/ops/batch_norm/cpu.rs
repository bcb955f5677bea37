//! Statistics and the forward pass on the CPU.
//!
//! Work is cut into pieces of whole "strips": a strip is so many pixels that its channels fill a loop worth
//! vectorising, with the channels' parameters repeated to the same length.

use rayon::prelude::*;

use super::{Affine, Moments, Statistics, statistics_shape};
use crate::{Result, Tensor, tensor::Real};

/// Elements that a strip has at least, where the channels alone have fewer.
const STRIP: usize = 128;
/// Elements that a piece has about: two passes over it stay in the cache, and sums over it are short.
const PIECE: usize = 1 << 14;

/// How an image with so many channels is cut; depends on nothing else.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub channels: usize,
    /// Elements of a strip, a multiple of the channels.
    pub strip: usize,
    /// Elements of a piece, a multiple of the strip.
    pub piece: usize,
}

impl Cut {
    pub(super) fn new(channels: usize) -> Self {
        let strip = channels * (STRIP / channels).max(1);
        Self { channels, strip, piece: strip * (PIECE / strip).max(8) }
    }

    /// `values`, one a channel, repeated over a strip.
    pub(super) fn repeat<T: Copy>(&self, values: &[T]) -> Vec<T> {
        values.iter().copied().cycle().take(self.strip).collect()
    }

    /// Sums over the strip's pixels, one a channel, added to `totals`.
    pub(super) fn fold<T: Real>(&self, lanes: &[T], totals: &mut [f64]) {
        for pixel in lanes.chunks_exact(self.channels) {
            for (total, lane) in totals.iter_mut().zip(pixel) {
                *total += lane.wide();
            }
        }
    }
}

/// 1 / sqrt(variance + epsilon) of the channels of a group.
pub(super) fn inverse_deviation<T: Real>(statistics: &Statistics, group: usize, channels: usize) -> Result<Vec<T>> {
    let variance = of_group::<T>(&statistics.variance, group, channels)?;
    Ok(variance.iter().map(|&v| (v + T::of(statistics.epsilon)).sqrt().recip()).collect())
}

/// A group's part of a vector over the channels, [C] or [groups,C].
pub(super) fn of_group<T: Real>(vector: &Tensor, group: usize, channels: usize) -> Result<&[T]> {
    Ok(&vector.as_slice::<T>()?[group * channels..][..channels])
}

/// Mean and variance of each channel in each of `groups` runs of images: two passes over each piece while it is in the cache,
/// then the pieces in order (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
/// variances", 1979).
pub(super) fn moments<T: Real>(x: &Tensor, groups: usize) -> Result<Moments> {
    let channels = x.shape()[3];
    let (mut means, mut squares) = (Vec::new(), Vec::new());
    let length = (x.len() / groups).max(1);
    for group in x.as_slice::<T>()?.chunks_exact(length) {
        let (mean, square) = group_moments(Cut::new(channels), group);
        means.extend(mean);
        squares.extend(square);
    }
    let rows = (length / channels) as f64;
    let vector = |values: Vec<T>| Tensor::from_vec(values, &statistics_shape(groups, channels), x.device());
    let scaled = |divisor: f64| squares.iter().map(|s| T::of(s / divisor)).collect();
    let means = means.into_iter().map(T::of).collect();
    Ok(Moments { mean: vector(means)?, biased: vector(scaled(rows))?, unbiased: vector(scaled(rows - 1.0))? })
}

/// Means of the channels and sums of squared deviations from them.
fn group_moments<T: Real>(cut: Cut, x: &[T]) -> (Vec<f64>, Vec<f64>) {
    let channels = cut.channels;
    let pieces: Vec<Vec<f64>> = x.par_chunks(cut.piece).map(|piece| piece_moments(cut, piece)).collect();
    let (mut count, mut mean, mut squares) = (0.0, vec![0.0; channels], vec![0.0; channels]);
    for (i, piece) in pieces.iter().enumerate() {
        let start = i * cut.piece;
        let n = (cut.piece.min(x.len() - start) / channels) as f64;
        let (step, weight) = (n / (count + n), count * n / (count + n));
        let (piece_mean, piece_squares) = piece.split_at(channels);
        for ((mean, squares), (m, s)) in mean.iter_mut().zip(&mut squares).zip(piece_mean.iter().zip(piece_squares)) {
            let delta = m - *mean;
            *mean += step * delta;
            *squares += s + weight * delta * delta;
        }
        count += n;
    }
    (mean, squares)
}

/// Means of a piece's channels, then the sums of squared deviations from them.
fn piece_moments<T: Real>(cut: Cut, piece: &[T]) -> Vec<f64> {
    let rows = (piece.len() / cut.channels) as f64;
    let mut result = vec![0.0; 2 * cut.channels];
    let (mean, squares) = result.split_at_mut(cut.channels);
    let mut lanes = vec![T::zero(); cut.strip];
    let quads = piece.chunks_exact(4 * cut.strip);
    let rest = quads.remainder();
    for quad in quads {
        let (ab, cd) = quad.split_at(2 * cut.strip);
        let ((a, b), (c, d)) = (ab.split_at(cut.strip), cd.split_at(cut.strip));
        for ((((lane, &a), &b), &c), &d) in lanes.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *lane += (a + b) + (c + d);
        }
    }
    for strip in rest.chunks(cut.strip) {
        for (lane, &x) in lanes.iter_mut().zip(strip) {
            *lane += x;
        }
    }
    cut.fold(&lanes, mean);
    mean.iter_mut().for_each(|mean| *mean /= rows);

    let centre: Vec<T> = mean.iter().map(|&mean| T::of(mean)).collect();
    let centre = cut.repeat(&centre);
    lanes.fill(T::zero());
    for strip in piece.chunks(cut.strip) {
        for ((lane, &x), &centre) in lanes.iter_mut().zip(strip).zip(&centre) {
            let d = x - centre;
            *lane += d * d;
        }
    }
    cut.fold(&lanes, squares);
    result
}

/// What an element of a strip needs in the forward pass and to find the ReLU's mask again.
pub(super) struct Strip<T> {
    pub mean: Vec<T>,
    pub inverse: Vec<T>,
    /// scale / sqrt(variance + epsilon)
    pub slope: Vec<T>,
    pub shift: Vec<T>,
}

impl<T: Real> Strip<T> {
    /// For the images of a group.
    pub(super) fn new(cut: Cut, affine: &Affine, group: usize) -> Result<Self> {
        let statistics = &affine.statistics;
        let inverse = inverse_deviation::<T>(statistics, group, cut.channels)?;
        let slope: Vec<T> = affine.scale.as_slice::<T>()?.iter().zip(&inverse).map(|(&s, &i)| s * i).collect();
        Ok(Self {
            mean: cut.repeat(of_group(&statistics.mean, group, cut.channels)?),
            inverse: cut.repeat(&inverse),
            slope: cut.repeat(&slope),
            shift: cut.repeat(affine.shift.as_slice::<T>()?),
        })
    }
}

fn rectified<T: Real>(x: T) -> T {
    // Not `x.max(0)`, which would turn NaN into 0.
    if x < T::zero() { T::zero() } else { x }
}

pub(super) fn normalise<T: Real>(x: &Tensor, residual: Option<&Tensor>, affine: &Affine, relu: bool) -> Result<Tensor> {
    let cut = Cut::new(x.shape()[3]);
    let mut y = x.empty_like()?;
    let length = (x.len() / affine.statistics.groups).max(1);
    let residual = residual.map(|residual| residual.as_slice::<T>()).transpose()?;
    let groups = y.as_mut_slice::<T>()?.chunks_exact_mut(length).zip(x.as_slice::<T>()?.chunks_exact(length));
    for (group, (y, x)) in groups.enumerate() {
        let strip = Strip::new(cut, affine, group)?;
        normalise_group(cut, &strip, x, residual.map(|residual| &residual[group * length..][..length]), relu, y);
    }
    Ok(y)
}

fn normalise_group<T: Real>(cut: Cut, strip: &Strip<T>, x: &[T], residual: Option<&[T]>, relu: bool, y: &mut [T]) {
    let target = y.par_chunks_mut(cut.piece).zip(x.par_chunks(cut.piece));
    let parameters = || strip.mean.iter().zip(&strip.slope).zip(&strip.shift);
    match residual {
        None => target.for_each(|(y, x)| {
            for (y, x) in y.chunks_mut(cut.strip).zip(x.chunks(cut.strip)) {
                for ((y, &x), ((&mean, &slope), &shift)) in y.iter_mut().zip(x).zip(parameters()) {
                    let z = (x - mean) * slope + shift;
                    *y = if relu { rectified(z) } else { z };
                }
            }
        }),
        Some(residual) => target.zip(residual.par_chunks(cut.piece)).for_each(|((y, x), residual)| {
            let strips = y.chunks_mut(cut.strip).zip(x.chunks(cut.strip)).zip(residual.chunks(cut.strip));
            for ((y, x), residual) in strips {
                for (((y, &x), &r), ((&mean, &slope), &shift)) in y.iter_mut().zip(x).zip(residual).zip(parameters()) {
                    let z = ((x - mean) * slope + shift) + r;
                    *y = if relu { rectified(z) } else { z };
                }
            }
        }),
    }
}
