//! Resizing without storing the result: a *band* is the output rows between two neighbouring input rows. Both input
//! rows are resized along x once, in tiles of `LANES` pixels with the channels outermost, and every output pixel of
//! the band then costs one interpolation along y.

use std::ops::Range;

use super::{Resize, lerp};
use crate::tensor::Real;

/// One band: the image, the input rows `below` and `above`, and the output rows between them.
pub(crate) struct Band {
    pub image: usize,
    pub below: usize,
    pub above: usize,
    pub rows: Range<usize>,
}

impl Resize {
    /// Band number `index` of images * input rows; its range of rows may be empty.
    pub fn band(&self, index: usize) -> Band {
        let (image, below) = (index / self.rows.input, index % self.rows.input);
        Band { image, below, above: (below + 1).min(self.rows.input - 1), rows: self.rows.between(below) }
    }

    /// Input row `row` [w,C] of `image` resized along x into tiles [ceil(W / LANES)][C][LANES]; lanes beyond W are 0.
    pub fn widen<T: Real, const LANES: usize>(
        &self,
        x: &[T],
        image: usize,
        row: usize,
        columns: &[(usize, usize, T)],
        tiles: &mut Vec<[T; LANES]>,
    ) {
        let pitch = self.columns.input * self.channels;
        let x = &x[(image * self.rows.input + row) * pitch..][..pitch];
        tiles.clear();
        tiles.resize(columns.len().div_ceil(LANES) * self.channels, [T::zero(); LANES]);
        for (columns, tile) in columns.chunks(LANES).zip(tiles.chunks_exact_mut(self.channels)) {
            for (lane, &(left, right, t)) in columns.iter().enumerate() {
                let (a, b) =
                    (&x[left * self.channels..][..self.channels], &x[right * self.channels..][..self.channels]);
                for ((plane, &a), &b) in tile.iter_mut().zip(a).zip(b) {
                    plane[lane] = lerp(a, b, t);
                }
            }
        }
    }
}
