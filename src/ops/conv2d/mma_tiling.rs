//! The tiling heuristic for GEMMs by warps: a small model of a card, where nothing is timed. The model knows the shape and the
//! dtype alone, so that the same problem is tiled alike on every card.

use serde::{Deserialize, Serialize};

use super::{
    ConvProblem,
    problem::{Direction, extents},
};
use crate::{DType, tensor::Variant};

/// Tiles by warps (kernels/include/conv_mma.cuh).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::ops) enum MmaTile {
    /// 128 x 128: the most products for each byte from shared memory.
    Large,
    /// 128 x 64: N up to 64.
    Medium,
    /// 64 x 64: few tiles.
    Small,
    /// 128 x 32: N up to 32.
    Slim,
}

/// A tile, and the factor of split-K: the sum over K in so many parts, each by a block of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tiling {
    pub tile: MmaTile,
    pub split_k: usize,
}

/// Blocks that keep a large GPU busy: two for each of about 130 multiprocessors.
pub(super) const BLOCKS: usize = 264;

/// Multiprocessors of the card of the model, an H100.
pub(super) const MULTIPROCESSORS: usize = crate::device::H100_MULTIPROCESSORS;

/// Pixels of a K tile of a weight gradient, of the longest kind (MMA_K_TILE).
pub(super) const PIXELS: usize = 32;

/// What a multiprocessor makes of a tile.
struct Pace {
    /// Blocks that it holds at once; registers limit them, in bf16 to these.
    at_once: usize,
    /// Cycles for a K tile of a block, while other blocks hide its waits: the products at 0.6 of the data sheet's rate, and
    /// longer the more bytes each of them takes from shared memory.
    k_tile: usize,
}

/// Cycles for a launch more, and bytes that all multiprocessors together read or write in a cycle: what the parts of a split
/// sum cost.
pub(super) const LAUNCH: usize = 4000;
pub(super) const COPIED: usize = 2000;

/// Factors of split-K for a forward pass or data gradient.
const SPLITS: [usize; 6] = [2, 3, 4, 6, 8, 12];
/// K tiles of a part, at least, for its products to outweigh prologue and epilogue; and where timing tells.
const DEEP: usize = 16;
const DEEP_ENOUGH_TO_TIME: usize = 8;

/// Cycles that a K tile takes longer in a block that has a multiprocessor to itself: its barrier, and loads from shared memory.
const WAIT: usize = 200;

impl MmaTile {
    /// M and N.
    pub(super) fn extent(self) -> (usize, usize) {
        match self {
            Self::Large => (128, 128),
            Self::Medium => (128, 64),
            Self::Small => (64, 64),
            Self::Slim => (128, 32),
        }
    }

    /// Tiles of `m` x `n` results.
    pub fn count(self, m: usize, n: usize) -> usize {
        let (down, across) = self.extent();
        m.div_ceil(down) * n.div_ceil(across)
    }

    /// M of a tile.
    pub fn m(self) -> usize {
        self.extent().0
    }

    /// Rows of which a warp takes moments (WM).
    pub fn piece(self) -> usize {
        match self {
            Self::Large | Self::Medium => 64,
            Self::Small | Self::Slim => 32,
        }
    }

    /// Dynamic shared memory of a block: the stages of the pipeline (STAGES, K_TILE_BYTES).
    pub fn shared_bytes(self) -> u32 {
        4 * 64 * (self.extent().0 + self.extent().1) as u32
    }

    fn pace(self) -> Pace {
        let (at_once, k_tile) = match self {
            Self::Large => (2, 430),
            Self::Medium => (4, 250),
            Self::Small => (5, 165),
            Self::Slim => (5, 180),
        };
        Pace { at_once, k_tile }
    }
}

impl Variant for MmaTile {
    fn name(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Medium => "medium",
            Self::Small => "small",
            Self::Slim => "slim",
        }
    }
}

impl Pace {
    /// Cycles for a K tile of each of the `blocks` blocks that the busiest multiprocessor gets: full waves, and a tail.
    fn cycles(&self, blocks: usize) -> usize {
        let set = |blocks: usize| if blocks == 0 { 0 } else { (blocks * self.k_tile).max(self.k_tile + WAIT) };
        blocks / self.at_once * set(self.at_once) + set(blocks % self.at_once)
    }
}

/// The GEMM of a convolution, as far as tilings matter.
pub(super) struct GemmProblem {
    direction: Direction,
    m: usize,
    n: usize,
    /// GEMMs of this size beside each other: the phases of a data gradient.
    layers: usize,
    /// K tiles of each tile (MMA_K_TILE), on average over the phases.
    k_tiles: usize,
    /// Pixels over which a weight gradient sums.
    pixels: usize,
}

impl GemmProblem {
    pub fn new(direction: Direction, problem: &ConvProblem, dtype: DType) -> Self {
        let (m, n) = extents(direction, problem);
        let ([k, r, s, c], pixels) = (problem.filter(), problem.output()[..3].iter().product());
        let k_tile = 64 / dtype.size();
        let phases = problem.stride.iter().map(|&stride| stride as usize).product();
        let (layers, k_tiles) = match direction {
            Direction::Forward => (1, r * s * c.div_ceil(k_tile)),
            Direction::DataGradient => (phases, (r * s).div_ceil(phases) * k.div_ceil(k_tile)),
            Direction::WeightGradient => (1, usize::div_ceil(pixels, k_tile)),
        };
        Self { direction, m, n, layers, k_tiles, pixels }
    }

    fn tiles(&self, tile: MmaTile) -> usize {
        tile.count(self.m, self.n)
    }

    /// Cycles of the forward pass or data gradient.
    fn cycles(&self, Tiling { tile, split_k }: Tiling) -> usize {
        let blocks = self.tiles(tile) * self.layers * split_k;
        let products = tile.pace().cycles(blocks.div_ceil(MULTIPROCESSORS)) * self.k_tiles.div_ceil(split_k);
        if split_k == 1 {
            return products;
        }
        let elements = self.m * self.n * self.layers;
        // Partial sums are written and read in f32, and reduced by a kernel of their own; batch norm must then take the
        // moments of a forward pass from y.
        let more = match self.direction {
            Direction::Forward => 2 * LAUNCH + elements * 4 / COPIED,
            Direction::DataGradient | Direction::WeightGradient => LAUNCH,
        };
        products + 8 * split_k * elements / COPIED + more
    }

    /// The tiling where none is timed.
    pub fn heuristic(&self) -> Tiling {
        if self.direction == Direction::WeightGradient {
            return self.with_split_k(self.weight_gradient_tile());
        }
        let tiles: &[MmaTile] = match self.n {
            ..=32 => &[MmaTile::Slim],
            33..=64 => &[MmaTile::Medium, MmaTile::Small],
            _ => &[MmaTile::Large, MmaTile::Medium, MmaTile::Small],
        };
        let whole = tiles.iter().map(|&tile| Tiling { tile, split_k: 1 });
        let split = tiles.iter().flat_map(|&tile| self.splits_of(tile, DEEP));
        // A smaller tile or split-K reads more from the caches, which the model leaves out: it must be a tenth better.
        let better = |best: Tiling, tiling: Tiling| match 10 * self.cycles(tiling) < 9 * self.cycles(best) {
            true => tiling,
            false => best,
        };
        whole.chain(split).fold(Tiling { tile: tiles[0], split_k: 1 }, better)
    }

    /// Split-K into parts of at least `least` K tiles, as long as all blocks run at once.
    fn splits_of(&self, tile: MmaTile, least: usize) -> impl Iterator<Item = Tiling> {
        let places = MULTIPROCESSORS * tile.pace().at_once;
        let (blocks, k_tiles) = (self.tiles(tile) * self.layers, self.k_tiles);
        let fits = move |&split: &usize| blocks * split <= places && k_tiles >= split * least;
        SPLITS.into_iter().filter(fits).map(move |split_k| Tiling { tile, split_k })
    }

    /// Split-K of a weight gradient gives all multiprocessors work whatever the tile: the largest that is not half empty.
    fn weight_gradient_tile(&self) -> MmaTile {
        let tall = self.m > 64;
        match self.n {
            ..=32 => MmaTile::Slim,
            65.. if tall => MmaTile::Large,
            _ if tall => MmaTile::Medium,
            _ => MmaTile::Small,
        }
    }

    /// The tile with the heuristic split-K of a weight gradient.
    pub fn with_split_k(&self, tile: MmaTile) -> Tiling {
        Tiling { tile, split_k: split_k(self.tiles(tile), self.pixels).0 }
    }

    /// What could be faster than the heuristic tiling, on one card or another.
    pub fn others(&self) -> Vec<Tiling> {
        let (m, n) = (self.m, self.n);
        let suits = |tile: &MmaTile| match tile {
            MmaTile::Large => m > 64 && n > 64,
            MmaTile::Medium => m > 64 && n > 32,
            MmaTile::Small => n > 16,
            MmaTile::Slim => n <= 64,
        };
        let tiles = [MmaTile::Large, MmaTile::Medium, MmaTile::Small, MmaTile::Slim].into_iter().filter(suits);
        let mut all: Vec<Tiling> = tiles.flat_map(|tile| self.splits(tile)).collect();
        all.retain(|tiling| *tiling != self.heuristic());
        all
    }

    fn splits(&self, tile: MmaTile) -> Vec<Tiling> {
        if self.direction != Direction::WeightGradient {
            let whole = Tiling { tile, split_k: 1 };
            return std::iter::once(whole).chain(self.splits_of(tile, DEEP_ENOUGH_TO_TIME)).collect();
        }
        let split = self.with_split_k(tile).split_k;
        let mut splits: Vec<usize> =
            [split, split.div_ceil(2), 2 * split].map(|split| cut(self.pixels, split, PIXELS).0).to_vec();
        splits.sort_unstable();
        splits.dedup();
        splits.into_iter().map(|split_k| Tiling { tile, split_k }).collect()
    }
}

/// `pixels` in at most `split` parts of whole K tiles of `k_tile` pixels: (parts, pixels a part). As many parts as come out, put in
/// again, come out again.
pub(super) fn cut(pixels: usize, split: usize, k_tile: usize) -> (usize, usize) {
    let range = pixels.div_ceil(split.max(1)).next_multiple_of(k_tile);
    (pixels.div_ceil(range), range)
}

/// Split-K of a weight or bias gradient over pixels, for `tiles` blocks each: (parts, pixels a part).
pub(in crate::ops) fn split_k(tiles: usize, pixels: usize) -> (usize, usize) {
    const LEAST: usize = 128;
    let tiles = tiles.max(1);
    // Rounded down, since a few blocks beyond an even share make the busiest multiprocessor half as slow again; but up where
    // that would leave a quarter of the places empty.
    let down = BLOCKS / tiles;
    let even = if down * tiles * 4 >= BLOCKS * 3 { down } else { down + 1 };
    cut(pixels, even.min(pixels.div_ceil(LEAST)).max(1), PIXELS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Conv2dSpec;

    fn product(direction: Direction, x: [usize; 4], [k, r]: [usize; 2], stride: usize) -> GemmProblem {
        let spec = Conv2dSpec { stride: [stride; 2], padding: [r / 2; 2], ..Conv2dSpec::default() };
        GemmProblem::new(direction, &ConvProblem::new(x, [k, r, r, x[3]], &spec).unwrap(), DType::Bf16)
    }

    #[test]
    fn an_even_share_of_blocks_decides() {
        let forward =
            |pixels: usize, k: usize| product(Direction::Forward, [1, 1, pixels, 64], [k, 1], 1).heuristic().tile;
        // 132 large tiles: one for each multiprocessor, which is then not full; two of half the size are.
        assert_eq!(forward(132 * 128, 128), MmaTile::Medium);
        assert_eq!(forward(2 * 132 * 128, 128), MmaTile::Large);
        // Sets of large tiles with one beyond: not so bad that it were worth more traffic.
        assert_eq!(forward(2 * 132 * 128 + 1, 128), MmaTile::Large);
        // A few small ones where even those leave most of the card without work.
        assert_eq!(forward(1000, 256), MmaTile::Small);
        assert_eq!(forward(100_000, 64), MmaTile::Medium);
        assert_eq!(forward(100_000, 32), MmaTile::Slim);
    }

    #[test]
    fn the_phases_of_a_data_gradient_run_beside_each_other() {
        let tile = |stride| product(Direction::DataGradient, [4, 92, 92, 256], [256, 3], stride).heuristic().tile;
        assert_eq!((tile(1), tile(2)), (MmaTile::Large, MmaTile::Large));
    }

    #[test]
    fn long_sums_of_few_tiles_are_cut_into_parts() {
        let few = |direction, c, r| product(direction, [1, 23, 23, c], [c, r], 1).heuristic();
        for direction in [Direction::Forward, Direction::DataGradient] {
            assert!(few(direction, 512, 3).split_k > 1, "{direction:?}");
            assert_eq!(few(direction, 64, 3).split_k, 1, "{direction:?}: 18 k_tiles");
            // The tiles fill the card.
            assert_eq!(product(direction, [4, 92, 92, 512], [512, 3], 1).heuristic().split_k, 1);
        }
        // Between no tiles and all, each split is tried as far as its blocks run at once and its parts are long.
        for product in [product(Direction::Forward, [1, 23, 23, 512], [512, 3], 1)] {
            for Tiling { tile, split_k } in product.others().into_iter().filter(|tiling| tiling.split_k > 1) {
                assert!(product.tiles(tile) * split_k <= MULTIPROCESSORS * tile.pace().at_once);
                assert!(product.k_tiles / split_k >= DEEP_ENOUGH_TO_TIME);
            }
        }
    }

    #[test]
    fn a_multiprocessor_takes_longer_for_more_blocks() {
        for tile in [MmaTile::Large, MmaTile::Medium, MmaTile::Small, MmaTile::Slim] {
            let cycles: Vec<usize> = (0..20).map(|blocks| tile.pace().cycles(blocks)).collect();
            assert_eq!(cycles[0], 0);
            assert!(cycles.is_sorted(), "{tile:?}: {cycles:?}");
        }
    }

    #[test]
    fn other_tilings_differ_from_the_built_in_one_and_from_each_other() {
        for direction in Direction::ALL {
            for (x, w) in [([4, 92, 92, 256], [256, 3]), ([1, 9, 9, 8], [24, 1]), ([2, 40, 40, 2048], [19, 3])] {
                let product = product(direction, x, w, 1);
                let (heuristic, others) = (product.heuristic(), product.others());
                for (i, other) in others.iter().enumerate() {
                    assert!(*other != heuristic && !others[..i].contains(other), "{direction:?} {x:?} {others:?}");
                    assert!(other.split_k >= 1);
                }
            }
        }
        let product = product(Direction::WeightGradient, [4, 92, 92, 256], [256, 3], 1);
        let split = product.heuristic().split_k;
        for split in [split.div_ceil(2), 2 * split] {
            let wanted = Tiling { tile: MmaTile::Large, split_k: cut(product.pixels, split, PIXELS).0 };
            assert!(product.others().contains(&wanted), "{wanted:?}");
        }
    }

    #[test]
    fn split_k_covers_all_pixels() {
        for tiles in [1, 5, 300] {
            for pixels in [1, 15, 16, 127, 129, 5000, 33_856] {
                let (count, each) = split_k(tiles, pixels);
                assert!(count * each >= pixels && (count - 1) * each < pixels, "{tiles} {pixels}");
                assert_eq!(cut(pixels, count, PIXELS).0, count, "{tiles} {pixels}");
            }
        }
    }
}
