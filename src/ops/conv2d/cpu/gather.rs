//! The implicit im2col matrix: one row per pixel of a grid, one column per tap and channel, holding the source pixels
//! that the taps hit and zeros outside the image. Only blocks of it are ever written out, by [`Gather::pack`].
//!
//! The forward pass and the weight gradient gather from x over the grid of the output. The data gradient gathers from
//! dy over the input's pixels: with stride 1 that is one grid; with a stride, the pixels that share a phase
//! (row mod stride, column mod stride) are hit by the same taps and form a grid of their own.

use std::ops::Range;

use super::super::ConvProblem;
use crate::tensor::Real;

/// A tap along one axis: its offset in the source, in pixels, and its index in the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    pub offset: isize,
    pub index: usize,
}

/// Columns that are contiguous in the source: one tap, or a row of adjacent ones.
struct Segment {
    rows: isize,
    columns: isize,
    taps: isize,
    span: Range<usize>,
}

pub(super) struct Gather {
    /// Images, rows and columns of the grid.
    pub grid: [usize; 3],
    /// Pixels of the source from one grid point to the next.
    step: [isize; 2],
    /// Height, width and channels of the source.
    source: [usize; 3],
    /// The taps along each axis, by rising offset.
    pub taps: [Vec<Tap>; 2],
    sk_units: Vec<Segment>,
}

impl Gather {
    fn new(grid: [usize; 3], step: [usize; 2], source: [usize; 3], taps: [Vec<Tap>; 2]) -> Self {
        let channels = source[2];
        // Taps at adjacent pixels are copied as one.
        let adjacent = taps[1].windows(2).all(|pair| pair[1].offset == pair[0].offset + 1);
        let mut sk_units = Vec::new();
        let mut at = 0;
        for down in &taps[0] {
            let runs = if adjacent { taps[1].chunks(taps[1].len().max(1)) } else { taps[1].chunks(1) };
            for run in runs {
                let end = at + run.len() * channels;
                let taps = run.len() as isize;
                sk_units.push(Segment { rows: down.offset, columns: run[0].offset, taps, span: at..end });
                at = end;
            }
        }
        Self { grid, step: step.map(|step| step as isize), source, taps, sk_units }
    }

    /// Grid of the output over x.
    pub fn forward(problem: &ConvProblem) -> Self {
        let [_, h, w, c] = problem.input();
        let [n, p, q, _] = problem.output();
        let [_, r, s, _] = problem.filter();
        let taps = |axis: usize, count: usize| {
            let offset = |i: usize| i as isize * problem.dilation[axis] as isize - problem.padding[axis] as isize;
            (0..count).map(|index| Tap { offset: offset(index), index }).collect()
        };
        Self::new([n, p, q], problem.stride.map(|s| s as usize), [h, w, c], [taps(0, r), taps(1, s)])
    }

    /// Grid of the input's pixels with row and column `phase` modulo the stride, over dy.
    pub fn backward(problem: &ConvProblem, phase: [usize; 2]) -> Self {
        let [n, h, w, _] = problem.input();
        let [_, p, q, k] = problem.output();
        let [_, r, s, _] = problem.filter();
        let taps = |axis: usize, count: usize| {
            let stride = problem.stride[axis] as isize;
            let first = phase[axis] as isize + problem.padding[axis] as isize;
            let distance = |index: usize| first - index as isize * problem.dilation[axis] as isize;
            let hits = (0..count).rev().filter(|&index| distance(index).rem_euclid(stride) == 0);
            hits.map(|index| Tap { offset: distance(index).div_euclid(stride), index }).collect::<Vec<_>>()
        };
        let extent =
            |extent: usize, axis: usize| extent.saturating_sub(phase[axis]).div_ceil(problem.stride[axis] as usize);
        Self::new([n, extent(h, 0), extent(w, 1)], [1, 1], [p, q, k], [taps(0, r), taps(1, s)])
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.grid.iter().product()
    }

    /// Columns of the matrix.
    pub fn depth(&self) -> usize {
        self.sk_units.last().map_or(0, |segment| segment.span.end)
    }

    /// Whether the matrix is the source itself: one tap at each pixel, no padding.
    pub fn is_source(&self) -> bool {
        let one = |taps: &[Tap]| taps.len() == 1 && taps[0].offset == 0;
        one(&self.taps[0]) && one(&self.taps[1]) && self.step == [1, 1] && self.grid[1..] == self.source[..2]
    }

    /// Writes `rows` x `columns` of the matrix to `to`, whose rows lie `distance` apart; false if all are zeros from
    /// outside the image.
    pub fn pack<T: Real>(
        &self,
        source: &[T],
        rows: Range<usize>,
        columns: Range<usize>,
        to: &mut [T],
        distance: usize,
    ) -> bool {
        let [height, width, channels] = self.source;
        let [_, down, across] = self.grid;
        let first = self.sk_units.partition_point(|segment| segment.span.end <= columns.start);
        let last = self.sk_units.partition_point(|segment| segment.span.start < columns.end);
        let sk_units = &self.sk_units[first..last];
        let (mut i, mut j) = (rows.start / across % down, rows.start % across);
        let mut image = rows.start / across / down;
        let mut any = false;
        for line in to.chunks_mut(distance).take(rows.len()) {
            let (y, x) = (i as isize * self.step[0], j as isize * self.step[1]);
            for segment in sk_units {
                let from = columns.start.max(segment.span.start);
                let until = columns.end.min(segment.span.end);
                let line = &mut line[from - columns.start..until - columns.start];
                // From here on, positions count from the segment's start.
                let (from, until) = (from - segment.span.start, until - segment.span.start);
                let (y, x) = (y + segment.rows, x + segment.columns);
                if y < 0 || y >= height as isize {
                    line.fill(T::zero());
                    continue;
                }
                let low = (-x).clamp(0, segment.taps) as usize * channels;
                let high = (width as isize - x).clamp(0, segment.taps) as usize * channels;
                let low = low.clamp(from, until);
                let high = high.clamp(low, until);
                if low == high {
                    line.fill(T::zero());
                    continue;
                }
                any = true;
                line[..low - from].fill(T::zero());
                let base = (image * height + y as usize) * width * channels;
                // Not negative: the copy starts at a pixel inside the image.
                let start = base + (x * channels as isize + low as isize) as usize;
                line[low - from..high - from].copy_from_slice(&source[start..start + high - low]);
                line[high - from..].fill(T::zero());
            }
            j += 1;
            if j == across {
                (i, j) = (i + 1, 0);
            }
            if i == down {
                (image, i) = (image + 1, 0);
            }
        }
        any
    }
}
