//! Where the pixels of a resized axis lie between those of the original, with align_corners = true.

use std::ops::Range;

use crate::{Error, Result, tensor::Real};

/// One axis, resized from `input` to `output` pixels: output pixel i lies at i (input - 1) / (output - 1).
///
/// The position is split exactly, in integers, into the pixel below and the remainder: every device agrees on it,
/// and an axis that keeps its extent is copied, not interpolated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub input: usize,
    pub output: usize,
}

impl Axis {
    /// Errors: an extent of 0, or extents whose product does not fit the 31 bits in which kernels compute positions.
    pub fn new(op: &'static str, input: usize, output: usize) -> Result<Self> {
        if input == 0 || output == 0 {
            return Err(Error::shape(op, format!("cannot resize {input} pixels to {output}; both must be positive")));
        }
        if input.checked_mul(output).is_none_or(|product| product > i32::MAX as usize) {
            return Err(Error::shape(op, format!("{input} x {output} exceeds the 2^31 - 1 that positions allow")));
        }
        Ok(Self { input, output })
    }

    /// Intervals between input pixels, and between output pixels.
    fn intervals(&self) -> (usize, usize) {
        (self.input - 1, (self.output - 1).max(1))
    }

    /// The input pixel at or below output pixel `i`, the one above it, and the weight of the latter.
    pub fn position<T: Real>(&self, i: usize) -> (usize, usize, T) {
        let (input, output) = self.intervals();
        let (below, rest) = (i * input / output, i * input % output);
        (below, (below + 1).min(input), T::of(rest as f64) / T::of(output as f64))
    }

    /// The output pixels between input pixel `below` (included) and the next (excluded).
    pub fn between(&self, below: usize) -> Range<usize> {
        let (input, output) = self.intervals();
        if input == 0 {
            return if below == 0 { 0..self.output } else { 0..0 };
        }
        let first = |pixel: usize| (pixel * output).div_ceil(input).min(self.output);
        first(below)..first(below + 1)
    }

    /// Every output pixel's position.
    pub fn positions<T: Real>(&self) -> Vec<(usize, usize, T)> {
        (0..self.output).map(|i| self.position(i)).collect()
    }
}

/// a + t (b - a): the one form in which every operation here interpolates, x before y.
#[inline(always)]
pub(crate) fn lerp<T: Real>(a: T, b: T, t: T) -> T {
    a + t * (b - a)
}

#[cfg(test)]
mod tests {
    use super::Axis;

    #[test]
    fn positions_and_intervals_agree() {
        for (input, output) in [(1, 1), (1, 7), (5, 1), (2, 9), (9, 2), (92, 730), (730, 92), (6, 6), (3, 17)] {
            let axis = Axis::new("test", input, output).unwrap();
            let mut seen = 0;
            for below in 0..input {
                for i in axis.between(below) {
                    assert_eq!((axis.position::<f64>(i).0, i), (below, seen), "{input} -> {output}");
                    seen += 1;
                }
            }
            assert_eq!(seen, output, "{input} -> {output}");
            let (below, above, t) = axis.position::<f64>(output - 1);
            assert!(t == 0.0 && above < input && (output == 1 || below == input - 1), "{input} -> {output}");
        }
    }

    #[test]
    fn empty_and_huge_axes_are_refused() {
        assert!(Axis::new("test", 0, 3).is_err() && Axis::new("test", 3, 0).is_err());
        assert!(Axis::new("test", 1 << 16, 1 << 16).is_err() && Axis::new("test", usize::MAX, 2).is_err());
    }
}
