//! The one description of a convolution's geometry, which forward pass and gradients read on the CPU and (by value) in the kernels;
//! and its three implicit GEMMs.

use bytemuck::{Pod, Zeroable};

use super::OP;
use crate::{Error, Result};

/// Stride, padding and dilation, each as [vertical, horizontal], in pixels.
///
/// ```
/// use bicl::ops::Conv2dSpec;
/// let same = Conv2dSpec { padding: [2, 2], dilation: [2, 2], ..Conv2dSpec::default() };
/// assert_eq!(same.stride, [1, 1]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dSpec {
    /// Step of the window.
    pub stride: [usize; 2],
    /// Zeros added on each side.
    pub padding: [usize; 2],
    /// Distance between the window's taps.
    pub dilation: [usize; 2],
}

impl Default for Conv2dSpec {
    /// Stride 1, no padding, dilation 1.
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1] }
    }
}

/// Mirrors `ConvProblem` of kernels/include/conv_problem.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct ConvProblem {
    /// Images.
    pub n: i32,
    /// Input height and width.
    pub h: i32,
    pub w: i32,
    /// Input channels.
    pub c: i32,
    /// Output channels.
    pub k: i32,
    /// Filter height and width.
    pub r: i32,
    pub s: i32,
    /// Output height and width.
    pub p: i32,
    pub q: i32,
    pub stride: [i32; 2],
    pub padding: [i32; 2],
    pub dilation: [i32; 2],
}

/// MathMode of extents that kernels index with 32 bits.
fn product(what: &str, extents: &[usize]) -> Result<()> {
    let count = extents.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
    match count {
        Some(count) if count <= i32::MAX as usize => Ok(()),
        _ => Err(Error::shape(
            OP,
            format!("{what} {extents:?} exceeds the 2^31 - 1 elements that are indexed; use a smaller batch or crop"),
        )),
    }
}

/// Extent of the output along one axis: (extent + 2 padding - dilation (taps - 1) - 1) / stride + 1.
fn output_extent(axis: &str, extent: usize, taps: usize, spec: &Conv2dSpec, i: usize) -> Result<usize> {
    let (stride, padding, dilation) = (spec.stride[i], spec.padding[i], spec.dilation[i]);
    let too_large = || Error::shape(OP, format!("{axis} {extent} with {spec:?} exceeds 32-bit coordinates"));
    if stride == 0 || dilation == 0 {
        return Err(Error::shape(OP, format!("stride and dilation must be at least 1, got {spec:?}")));
    }
    let window = dilation.checked_mul(taps - 1).and_then(|reach| reach.checked_add(1)).ok_or_else(too_large)?;
    let padded = padding.checked_mul(2).and_then(|both| both.checked_add(extent)).ok_or_else(too_large)?;
    // A coordinate never exceeds the padded extent plus the window plus one stride.
    if padded.max(window).max(stride) > (i32::MAX / 4) as usize {
        return Err(too_large());
    }
    if window > padded {
        return Err(Error::shape(
            OP,
            format!(
                "the filter covers {window} pixels (dilation {dilation}) of an input of {axis} {extent} padded to {padded}; enlarge the input or the padding"
            ),
        ));
    }
    Ok((padded - window) / stride + 1)
}

impl ConvProblem {
    /// Checks the shapes `x` [N, H, W, C] and `w` [K, R, S, C] and computes the output's.
    pub fn new(x: [usize; 4], w: [usize; 4], spec: &Conv2dSpec) -> Result<Self> {
        let ([n, h, width, c], [k, r, s, filter_c]) = (x, w);
        if x.contains(&0) || w.contains(&0) {
            return Err(Error::shape(OP, format!("empty input {x:?} or filter {w:?}")));
        }
        if c != filter_c {
            return Err(Error::shape(
                OP,
                format!("the input {x:?} [N, H, W, C] has {c} channels, the filter {w:?} [K, R, S, C] {filter_c}"),
            ));
        }
        let p = output_extent("height", h, r, spec, 0)?;
        let q = output_extent("width", width, s, spec, 1)?;
        product("the input", &x)?;
        product("the filter", &w)?;
        product("the output", &[n, p, q, k])?;
        let [n, h, w, c, k, r, s, p, q] = [n, h, width, c, k, r, s, p, q].map(|extent| extent as i32);
        let [stride, padding, dilation] =
            [spec.stride, spec.padding, spec.dilation].map(|pair| pair.map(|extent| extent as i32));
        Ok(Self { n, h, w, c, k, r, s, p, q, stride, padding, dilation })
    }

    /// Shape of the input, [N, H, W, C].
    pub fn input(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c].map(|extent| extent as usize)
    }

    /// Shape of the filter, [K, R, S, C].
    pub fn filter(&self) -> [usize; 4] {
        [self.k, self.r, self.s, self.c].map(|extent| extent as usize)
    }

    /// Shape of the output, [N, P, Q, K].
    pub fn output(&self) -> [usize; 4] {
        [self.n, self.p, self.q, self.k].map(|extent| extent as usize)
    }
}

/// The three GEMMs of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// y: pixels of the output by filters.
    Forward,
    /// dx: pixels of the input (of one phase) by input channels.
    DataGradient,
    /// dw: filters by taps and input channels, summed over the output's pixels.
    WeightGradient,
}

impl Direction {
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Forward, Self::DataGradient, Self::WeightGradient];
}

/// M and N.
pub(super) fn extents(direction: Direction, problem: &ConvProblem) -> (usize, usize) {
    let ([n, h, w, c], [k, r, s, _], [_, p, q, _]) = (problem.input(), problem.filter(), problem.output());
    let [down, across] = problem.stride.map(|stride| stride as usize);
    match direction {
        Direction::Forward => (n * p * q, k),
        // Of the largest phase.
        Direction::DataGradient => (n * h.div_ceil(down) * w.div_ceil(across), c),
        Direction::WeightGradient => (k, r * s * c),
    }
}
