//! The one place where the kernels of a convolution are chosen, from its shape and dtype. The choice must not depend on
//! anything else: the same problem has to give the same bits on every run.

use super::ConvParams;
use crate::tensor::DType;

/// The three matrix products of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// y: pixels of the output by filters.
    Forward,
    /// dx: pixels of the input (of one phase) by input channels.
    DataGradient,
    /// dw: filters by taps and input channels, summed over the output's pixels.
    WeightGradient,
}

/// How a product is computed on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Implicit matrix product on the ordinary arithmetic units (kernels/include/conv_simt.cuh).
    Simt(SimtTile),
}

/// Tiles of [`Algorithm::Simt`], which all have 128 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimtTile {
    /// 64 columns.
    Wide,
    /// 32 columns: few columns, few tiles, or f64, which has room for no more.
    Narrow,
}

/// Blocks that keep a large GPU busy: two for each of about 130 multiprocessors.
const BLOCKS: usize = 264;

impl SimtTile {
    pub const ROWS: usize = 128;

    pub fn columns(self) -> usize {
        match self {
            Self::Wide => 64,
            Self::Narrow => 32,
        }
    }

    /// Tiles of a product with `rows` x `columns` elements.
    pub fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(Self::ROWS) * columns.div_ceil(self.columns())
    }
}

/// Rows and columns of the product.
pub(super) fn extents(direction: Direction, params: &ConvParams) -> (usize, usize) {
    let ([n, h, w, c], [k, r, s, _], [_, p, q, _]) = (params.input(), params.filter(), params.output());
    let [down, across] = params.stride.map(|stride| stride as usize);
    match direction {
        Direction::Forward => (n * p * q, k),
        // Of the largest phase.
        Direction::DataGradient => (n * h.div_ceil(down) * w.div_ceil(across), c),
        Direction::WeightGradient => (k, r * s * c),
    }
}

/// The algorithm for one product.
pub(super) fn choose(direction: Direction, params: &ConvParams, dtype: DType) -> Algorithm {
    let (rows, columns) = extents(direction, params);
    let tail = columns % SimtTile::Wide.columns();
    let wasted = (1..=32).contains(&tail) && columns < 256;
    let few = direction != Direction::WeightGradient && SimtTile::Wide.count(rows, columns) < BLOCKS;
    let narrow = dtype == DType::F64 || wasted || few;
    Algorithm::Simt(if narrow { SimtTile::Narrow } else { SimtTile::Wide })
}

/// Into how many pixels' ranges the sums of a weight or bias gradient are cut, for `tiles` blocks each: (ranges, pixels a range).
pub(super) fn ranges(tiles: usize, pixels: usize) -> (usize, usize) {
    const LEAST: usize = 128;
    let wanted = BLOCKS.div_ceil(tiles).min(pixels.div_ceil(LEAST)).max(1);
    let range = pixels.div_ceil(wanted).next_multiple_of(16);
    (pixels.div_ceil(range), range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all_pixels() {
        for tiles in [1, 5, 300] {
            for pixels in [1, 15, 16, 127, 129, 5000, 33_856] {
                let (count, range) = ranges(tiles, pixels);
                assert!(count * range >= pixels && (count - 1) * range < pixels, "{tiles} {pixels}");
            }
        }
    }
}
