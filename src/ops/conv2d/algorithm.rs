//! The one place where the kernels of a convolution are chosen, from its shape and dtype. The choice must not depend on
//! anything else: the same problem has to give the same bits on every run.

use super::{ConvParams, Products};
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
    /// Implicit matrix product on the ordinary arithmetic units, for any shape (kernels/include/conv_simt.cuh).
    Simt(SimtTile),
    /// Implicit matrix product on tensor cores, for bf16 and tf32 (kernels/include/conv_mma.cuh).
    Mma(MmaTile),
    /// The same for images of few channels, a row of taps at a time (kernels/conv2d_window.cu).
    Window(MmaTile),
}

/// Tiles of [`Algorithm::Simt`], which all have 128 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimtTile {
    /// 64 columns.
    Wide,
    /// 32 columns: few columns, few tiles, or f64, which has room for no more.
    Narrow,
}

/// Tiles of [`Algorithm::Mma`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum MmaTile {
    /// 128 x 128: the most products for each byte from shared memory.
    Large,
    /// 128 x 64: up to 64 columns.
    Medium,
    /// 64 x 64: few tiles.
    Small,
    /// 128 x 32: up to 32 columns.
    Slim,
}

/// Blocks that keep a large GPU busy: two for each of about 130 multiprocessors.
const BLOCKS: usize = 264;

impl MmaTile {
    /// Rows and columns.
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Large => (128, 128),
            Self::Medium => (128, 64),
            Self::Small => (64, 64),
            Self::Slim => (128, 32),
        }
    }

    /// Tiles of a product with `rows` x `columns` elements.
    pub fn count(self, rows: usize, columns: usize) -> usize {
        Algorithm::Mma(self).tiles(rows, columns)
    }

    /// Rows of a tile.
    pub fn rows(self) -> usize {
        self.extent().0
    }

    /// Rows of a piece whose moments a warp takes (WM).
    pub fn piece(self) -> usize {
        match self {
            Self::Large | Self::Medium => 64,
            Self::Small | Self::Slim => 32,
        }
    }

    /// Dynamic shared memory of a block: the stages of the pipeline (STAGES, SLICE_BYTES).
    pub fn shared_bytes(self) -> u32 {
        4 * 64 * (self.extent().0 + self.extent().1) as u32
    }
}

impl SimtTile {
    /// Rows and columns.
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Wide => (128, 64),
            Self::Narrow => (128, 32),
        }
    }
}

impl Algorithm {
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Simt(tile) => tile.extent(),
            Self::Mma(tile) | Self::Window(tile) => tile.extent(),
        }
    }

    /// Tiles of a product with `rows` x `columns` elements.
    pub fn tiles(self, rows: usize, columns: usize) -> usize {
        let (down, across) = self.extent();
        rows.div_ceil(down) * columns.div_ceil(across)
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u32 {
        match self {
            Self::Simt(_) => 0,
            Self::Mma(tile) | Self::Window(tile) => tile.shared_bytes(),
        }
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
pub(super) fn choose(direction: Direction, params: &ConvParams, dtype: DType, products: Products) -> Algorithm {
    let (rows, columns) = extents(direction, params);
    let tensor_cores = dtype == DType::Bf16 || (dtype == DType::F32 && products == Products::Tf32);
    if tensor_cores && whole_chunks(direction, params, dtype) {
        return Algorithm::Mma(mma_tile(direction, rows, columns));
    }
    if tensor_cores && windowed(direction, params, dtype) {
        let narrow = direction == Direction::Forward && columns <= MmaTile::Slim.extent().1;
        let tile = if direction == Direction::WeightGradient { MmaTile::Small } else { MmaTile::Medium };
        return Algorithm::Window(if narrow { MmaTile::Slim } else { tile });
    }
    let wide = Algorithm::Simt(SimtTile::Wide);
    let tail = columns % SimtTile::Wide.extent().1;
    let wasted = (1..=32).contains(&tail) && columns < 256;
    let few = direction != Direction::WeightGradient && wide.tiles(rows, columns) < BLOCKS;
    let narrow = dtype == DType::F64 || wasted || few;
    if narrow { Algorithm::Simt(SimtTile::Narrow) } else { wide }
}

/// Whether the channels along which 16 bytes are copied come in whole chunks.
fn whole_chunks(direction: Direction, params: &ConvParams, dtype: DType) -> bool {
    let chunk = (16 / dtype.size()) as i32;
    params.c % chunk == 0 && (direction == Direction::Forward || params.k % chunk == 0)
}

/// Taps of a window, which with four channels each fill a slice.
pub(super) const WINDOW: usize = 8;

/// Whether a row of taps fits a window that begins at a multiple of 16 bytes.
fn windowed(direction: Direction, params: &ConvParams, dtype: DType) -> bool {
    let fits = match direction {
        Direction::Forward => true,
        Direction::WeightGradient => params.k % (16 / dtype.size()) as i32 == 0,
        Direction::DataGradient => false,
    };
    let row = params.s + params.padding[1] % 2 <= WINDOW as i32 && params.dilation[1] == 1 && params.stride[1] % 2 == 0;
    // The padded image is indexed with 32 bits too.
    let [n, h, w, c] = params.input();
    fits && row && c <= 4 && n * h * (w + 1) <= i32::MAX as usize / 4
}

/// The tile that wastes no columns, smaller where the large one would leave multiprocessors without work. A weight
/// gradient's ranges give them work whatever the tile.
fn mma_tile(direction: Direction, rows: usize, columns: usize) -> MmaTile {
    let split = direction == Direction::WeightGradient;
    let enough = |tile: MmaTile| match split {
        true => rows > tile.extent().0 / 2,
        false => Algorithm::Mma(tile).tiles(rows, columns) >= BLOCKS,
    };
    match columns {
        ..=32 => MmaTile::Slim,
        65.. if enough(MmaTile::Large) => MmaTile::Large,
        _ if enough(MmaTile::Medium) => MmaTile::Medium,
        _ => MmaTile::Small,
    }
}

/// Into how many pixels' ranges the sums of a weight or bias gradient are cut, for `tiles` blocks each: (ranges, pixels a range).
pub(in crate::ops) fn ranges(tiles: usize, pixels: usize) -> (usize, usize) {
    const LEAST: usize = 128;
    let tiles = tiles.max(1);
    // Rounded down, since a few blocks beyond an even share make the busiest multiprocessor half as slow again; but up where
    // that would leave a quarter of the places empty.
    let down = BLOCKS / tiles;
    let even = if down * tiles * 4 >= BLOCKS * 3 { down } else { down + 1 };
    let wanted = even.min(pixels.div_ceil(LEAST)).max(1);
    let range = pixels.div_ceil(wanted).next_multiple_of(32);
    (pixels.div_ceil(range), range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Conv2dSpec;

    fn chosen(direction: Direction, x: [usize; 4], w: [usize; 3], dtype: DType, products: Products) -> Algorithm {
        let spec = Conv2dSpec { padding: [w[1] / 2, w[2] / 2], ..Conv2dSpec::default() };
        let params = ConvParams::new(x, [w[0], w[1], w[2], x[3]], &spec).unwrap();
        choose(direction, &params, dtype, products)
    }

    const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::DataGradient, Direction::WeightGradient];

    /// The backbone of the published network on two and two crops: large tiles, all on tensor cores.
    #[test]
    fn large_convolutions_take_large_tiles() {
        for (c, w) in [(256, [256, 3, 3]), (512, [512, 3, 3]), (256, [1024, 1, 1]), (1024, [256, 1, 1])] {
            for direction in DIRECTIONS {
                let large = Algorithm::Mma(MmaTile::Large);
                assert_eq!(chosen(direction, [4, 92, 92, c], w, DType::Bf16, Products::Full), large);
                assert_eq!(chosen(direction, [4, 92, 92, c], w, DType::F32, Products::Tf32), large);
                let wide = Algorithm::Simt(SimtTile::Wide);
                assert_eq!(chosen(direction, [4, 92, 92, c], w, DType::F32, Products::Full), wide);
            }
        }
    }

    #[test]
    fn channels_off_the_chunks_stay_off_the_tensor_cores() {
        let head = |direction| chosen(direction, [4, 92, 92, 2048], [19, 3, 3], DType::Bf16, Products::Full);
        assert_eq!(head(Direction::Forward), Algorithm::Mma(MmaTile::Slim));
        assert!(matches!(head(Direction::DataGradient), Algorithm::Simt(_)));
        assert!(matches!(head(Direction::WeightGradient), Algorithm::Simt(_)));
        for direction in DIRECTIONS {
            let five = chosen(direction, [4, 730, 730, 5], [64, 7, 7], DType::Bf16, Products::Full);
            assert!(matches!(five, Algorithm::Simt(_)));
        }
    }

    #[test]
    fn the_stem_goes_by_rows_of_taps() {
        let spec = Conv2dSpec { stride: [2, 2], padding: [3, 3], ..Conv2dSpec::default() };
        let stem = ConvParams::new([4, 730, 730, 3], [64, 7, 7, 3], &spec).unwrap();
        let by = |direction, dtype, products| choose(direction, &stem, dtype, products);
        for (dtype, products) in [(DType::Bf16, Products::Full), (DType::F32, Products::Tf32)] {
            assert_eq!(by(Direction::Forward, dtype, products), Algorithm::Window(MmaTile::Medium));
            assert_eq!(by(Direction::WeightGradient, dtype, products), Algorithm::Window(MmaTile::Small));
            assert!(matches!(by(Direction::DataGradient, dtype, products), Algorithm::Simt(_)));
        }
        assert!(matches!(by(Direction::Forward, DType::F32, Products::Full), Algorithm::Simt(_)));
    }

    #[test]
    fn small_problems_take_small_tiles() {
        for direction in DIRECTIONS {
            let small = chosen(direction, [1, 20, 20, 64], [64, 3, 3], DType::Bf16, Products::Full);
            assert_eq!(small, Algorithm::Mma(MmaTile::Small), "{direction:?}");
        }
    }

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
