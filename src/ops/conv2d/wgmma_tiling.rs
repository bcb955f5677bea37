//! The tiling heuristic for GEMMs by warpgroups (kernels/include/conv_wgmma.cuh): the same kind of model as [`super::mma_tiling`]'s.

use serde::{Deserialize, Serialize};

use super::{
    ConvProblem,
    mma_tiling::{COPIED, LAUNCH, MULTIPROCESSORS},
    problem::{Direction, extents},
};
use crate::tensor::Variant;

/// Tiles by warpgroups (kernels/conv2d_sm90.cu).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WgmmaTile {
    /// 128 x 256, cooperative: the fewest bytes for each product.
    Wide,
    /// 256 x 128, cooperative.
    Tall,
    /// 128 x 128, pingpong: one warpgroup stores while the other multiplies.
    Square,
    /// 128 x 64, pingpong: N up to 64.
    Narrow,
}

/// A tile, the size of a cluster, and how the tail is cut: the tiles of the last wave, which do not fill the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WgmmaTiling {
    pub warpgroups: WgmmaTile,
    /// Blocks whose tiles lie below each other, and which multicast the K tiles of B to each other: 1 or 2.
    pub cluster: usize,
    /// Stream-K units, each computed by one cluster; 0: the tail is data parallel too.
    pub sk_units: usize,
    /// Whether the tiles of the tail are first cut into strips of [`STRIP`] columns.
    pub strips: bool,
}

/// K of a K tile (WGMMA_K_TILE).
pub(super) const K_TILE: usize = 64;
/// Pixels over which a warpgroup takes moments or sums.
pub(super) const STATS_ROWS: usize = 64;

/// Columns of a strip of a tile.
pub(super) const STRIP: usize = 64;

/// Units for each tile of the tail, if not as many units as the card has clusters; and K tiles of a unit, at least.
const SPLITS: [usize; 6] = [1, 2, 3, 4, 6, 8];
const DEEP: usize = 4;

/// MathMode of a multiprocessor in a cycle, by its data sheet. All cycles are of its clock, 1.83 GHz.
const PRODUCTS: usize = 2048;

// As fitted to the times that an H200 took for 497 tilings of forward passes and data gradients, and for whole tiles of weight
// gradients (benches/results/2026-11-27-nvidia-h200-tilings.csv); in percent, and in cycles of 64 x 64 results.

/// For a K tile of a strip of 128 rows.
const STRIP_K_TILE: usize = 1200;
/// From the launch to the first product, and from the last result to the end.
const FILL: usize = 5200;
/// The fixup of a tile, and for each 64 x 64 of a peer in it.
const FIXUP: usize = 1660;
const FIXUP_PEER: usize = 2640;

impl WgmmaTile {
    pub const ALL: [Self; 4] = [Self::Wide, Self::Tall, Self::Square, Self::Narrow];

    /// M and N.
    pub fn extent(self) -> (usize, usize) {
        match self {
            Self::Wide => (128, 256),
            Self::Tall => (256, 128),
            Self::Square => (128, 128),
            Self::Narrow => (128, 64),
        }
    }

    /// Whether the warpgroups are in pingpong, each with a tile of its own (PINGPONG).
    pub fn is_pingpong(self) -> bool {
        matches!(self, Self::Square | Self::Narrow)
    }

    /// Strips of 64 columns.
    pub fn strips(self) -> usize {
        self.extent().1 / STRIP
    }

    /// Stages of the main loop and slots of the epilogue (STAGES, SLOTS): Plain and Ahead.
    fn rings(self) -> [[usize; 2]; 2] {
        match self {
            Self::Wide | Self::Tall => [[4, 2], [3, 5]],
            Self::Square => [[6, 2], [4, 6]],
            Self::Narrow => [[8, 2], [5, 6]],
        }
    }

    /// Bytes of a stage.
    fn stage_bytes(self) -> usize {
        let (down, across) = self.extent();
        (down + across) * K_TILE * 2
    }

    /// Dynamic shared memory of a block (SHARED_BYTES): the stages, two warpgroups' slots and scratch, and all barriers; the larger
    /// of both.
    pub fn shared_bytes(self) -> u32 {
        let bytes = |[stages, slots]: [usize; 2]| {
            let (ring, blocks) = (stages * (self.stage_bytes() + 16), slots * (8 * 1024 + 16));
            ring + 2 * (blocks + 1024 + 8 + 16)
        };
        self.rings().map(bytes).into_iter().max().unwrap_or(0) as u32
    }
}

impl Variant for WgmmaTile {
    fn name(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Tall => "tall",
            Self::Square => "square",
            Self::Narrow => "narrow",
        }
    }
}

impl WgmmaTiling {
    /// Without stream-K.
    fn data_parallel(warpgroups: WgmmaTile, cluster: usize) -> Self {
        Self { warpgroups, cluster, sk_units: 0, strips: false }
    }

    /// Strips into which a tile of the tail is cut.
    pub fn strips(self) -> usize {
        if self.strips { self.warpgroups.strips() } else { 1 }
    }

    /// Tiles along M and N of `m` x `n` results; stacks of tiles where blocks form clusters.
    pub fn grid(self, m: usize, n: usize) -> (usize, usize) {
        let (down, across) = self.warpgroups.extent();
        (m.div_ceil(down).div_ceil(self.cluster), n.div_ceil(across))
    }

    /// Partial sums that one block of a unit leaves.
    pub fn partial_elements(self) -> usize {
        let (down, across) = self.warpgroups.extent();
        down * across / self.strips()
    }

    /// Lines of a K tile that a block loads.
    fn k_tile_lines(self) -> usize {
        let (down, across) = self.warpgroups.extent();
        down + across / self.cluster
    }

    /// Products of the main loop, in percent of the data sheet. A weight gradient has both operands transposed in shared memory,
    /// which is slower in pingpong.
    fn efficiency(self, direction: Direction) -> usize {
        let pair = self.cluster > 1;
        match (self.warpgroups, direction == Direction::WeightGradient) {
            (WgmmaTile::Wide | WgmmaTile::Tall, false) => 89 - if pair { 2 } else { 0 },
            (WgmmaTile::Wide | WgmmaTile::Tall, true) => 86,
            (WgmmaTile::Square, false) => 78 - if pair { 4 } else { 0 },
            (WgmmaTile::Square, true) => 60 + if pair { 4 } else { 0 },
            (WgmmaTile::Narrow, false) => 51,
            (WgmmaTile::Narrow, true) => 44,
        }
    }

    /// Cycles of a multiprocessor for a K tile.
    fn k_tile_cycles(self, direction: Direction) -> usize {
        let (down, across) = self.warpgroups.extent();
        down * across * K_TILE * 100 / (PRODUCTS * self.efficiency(direction))
    }

    /// Cycles of a multiprocessor for a K tile of the tail.
    fn tail_k_tile_cycles(self, direction: Direction) -> usize {
        match self.strips {
            false => self.k_tile_cycles(direction),
            true => self.warpgroups.extent().0 * STRIP_K_TILE / 128,
        }
    }
}

/// Cycles to store 64 x 64 results: with moments in a forward pass, in f32 in a weight gradient.
fn store_cycles(direction: Direction) -> usize {
    match direction {
        Direction::Forward => 1400,
        Direction::DataGradient => 650,
        Direction::WeightGradient => 1400,
    }
}

/// The GEMM of a convolution, as far as these tilings matter.
pub(super) struct WgmmaProblem {
    direction: Direction,
    m: usize,
    n: usize,
    /// Of each tile.
    k_tiles: usize,
}

impl WgmmaProblem {
    pub fn new(direction: Direction, problem: &ConvProblem) -> Self {
        let ([k, r, s, c], pixels) = (problem.filter(), problem.output()[..3].iter().product());
        let (m, n) = extents(direction, problem);
        let (n, k_tiles) = match direction {
            Direction::Forward => (n, r * s * c.div_ceil(K_TILE)),
            Direction::DataGradient => (n, r * s * k.div_ceil(K_TILE)),
            // In blocks of 64 channels of a tap.
            Direction::WeightGradient => (r * s * c.next_multiple_of(64), usize::div_ceil(pixels, K_TILE)),
        };
        Self { direction, m, n, k_tiles }
    }

    /// Tiles, counted by clusters.
    fn tiles(&self, tiling: WgmmaTiling) -> usize {
        let (down, across) = tiling.grid(self.m, self.n);
        down * across
    }

    /// Cycles of the launch, and of the one that adds its partial sums.
    pub fn cycles(&self, tiling: WgmmaTiling) -> usize {
        let (tiles, wave) = (self.tiles(tiling), MULTIPROCESSORS / tiling.cluster);
        let (waves, tail) = (tiles / wave, tiles % wave);
        let (down, across) = tiling.warpgroups.extent();
        let store = store_cycles(self.direction);
        let main = self.k_tiles * tiling.k_tile_cycles(self.direction) + down * across / (64 * 64) * store;
        let tail = match (tail, tiling.sk_units) {
            (0, _) => 0,
            (_, 0) => main,
            (_, sk_units) => {
                let sk_tiles = tail * tiling.strips();
                let k_tiles_per_unit = (sk_tiles * self.k_tiles).div_ceil(sk_units);
                let blocks = self.partial_elements(tiling, tail).div_ceil(64 * 64);
                // Where units do not end with tiles, one tile has one peer more.
                let peers = if sk_units % sk_tiles == 0 { sk_units / sk_tiles } else { sk_units / sk_tiles + 2 };
                let fixup = match (peers, self.direction) {
                    (1, _) => 0,
                    (_, Direction::WeightGradient) => LAUNCH + self.workspace_bytes(tiling, sk_units) / COPIED,
                    _ => FIXUP + FIXUP_PEER * peers * blocks,
                };
                k_tiles_per_unit * tiling.tail_k_tile_cycles(self.direction) + blocks * store + fixup
            }
        };
        FILL + waves * main + tail
    }

    /// Partial sums of a unit, where the tail has `tail` tiles. The tiles below all others may have few rows.
    fn partial_elements(&self, tiling: WgmmaTiling, tail: usize) -> usize {
        let ((down, across), (height, _)) = (tiling.grid(self.m, self.n), tiling.warpgroups.extent());
        let above = (down - 1) * height * tiling.cluster;
        let rows = if tail <= across { (self.m - above).min(height) } else { height };
        tiling.partial_elements() * rows.next_multiple_of(16) / height
    }

    /// Bytes of all partial sums, written and read again.
    fn workspace_bytes(&self, tiling: WgmmaTiling, sk_units: usize) -> usize {
        2 * 4 * sk_units * tiling.cluster * tiling.partial_elements()
    }

    /// The tiling where none is timed.
    pub fn heuristic(&self) -> WgmmaTiling {
        let all = WgmmaTile::ALL.into_iter().flat_map(|tile| self.tilings(tile));
        // Of two alike the one that loads less.
        let least = all.min_by_key(|&tiling| (self.cycles(tiling), tiling.k_tile_lines()));
        least.unwrap_or(WgmmaTiling::data_parallel(WgmmaTile::Square, 1))
    }

    /// All tilings that could be the fastest.
    pub fn all(&self) -> Vec<WgmmaTiling> {
        let suits = |tile: &WgmmaTile| match tile {
            WgmmaTile::Wide => self.n > 128,
            WgmmaTile::Tall => self.m > 128 && self.n > 64,
            WgmmaTile::Square => self.n > 64,
            WgmmaTile::Narrow => self.n <= 128,
        };
        WgmmaTile::ALL.into_iter().filter(suits).flat_map(|tile| self.tilings(tile)).collect()
    }

    /// Those of a tile: single blocks and pairs, and of each the cuts that the model prefers.
    fn tilings(&self, tile: WgmmaTile) -> Vec<WgmmaTiling> {
        let mut tilings = Vec::new();
        // A pair has two tiles below each other, and multicasts halves of B.
        let pairs = tile.strips() > 1 && self.m > tile.extent().0;
        for cluster in if pairs { 1..=2 } else { 1..=1 } {
            let plain = WgmmaTiling::data_parallel(tile, cluster);
            tilings.push(plain);
            let wave = MULTIPROCESSORS / cluster;
            let tail = self.tiles(plain) % wave;
            for strips in [false, true] {
                let sk_tiles = tail * WgmmaTiling { strips, ..plain }.strips();
                let fits = |&sk_units: &usize| {
                    let enough =
                        (sk_tiles.max(1)..=wave).contains(&sk_units) && sk_tiles * self.k_tiles >= sk_units * DEEP;
                    enough && (strips || sk_units > sk_tiles)
                };
                let sk_units = SPLITS.map(|split| sk_tiles * split).into_iter().chain([wave]).filter(fits);
                let cuts = sk_units.map(|sk_units| WgmmaTiling { sk_units, strips, ..plain });
                tilings.extend(
                    cuts.filter(|cut| tail > 0 && (!strips || cut.strips() > 1)).min_by_key(|&cut| self.cycles(cut)),
                );
            }
        }
        tilings.dedup();
        tilings
    }
}

/// Whether the kernels by warpgroups can compute the product: channels in whole chunks of 16 bytes, at least one line of 64; in
/// the data gradient stride 1; and windows that a tensor map can describe.
pub(super) fn suits(direction: Direction, problem: &ConvProblem) -> bool {
    let chunks = [problem.c, problem.k].iter().all(|channels| channels % 8 == 0 && *channels >= 64);
    let unit = problem.stride == [1, 1];
    let corners = (0..2).all(|axis| {
        let (taps, stride, dilation) = ([problem.r, problem.s][axis], problem.stride[axis], problem.dilation[axis]);
        let reach = i64::from(taps - 1) * i64::from(dilation);
        let padding = i64::from(problem.padding[axis]);
        // Of the map's bounding box, and offsets in it, of 8 bits each.
        let lower = if direction == Direction::DataGradient { padding - reach } else { -padding };
        let fits = |corner: i64| (-128..=127).contains(&corner);
        reach <= 255 && fits(lower) && fits(padding - reach) && fits(-padding) && stride <= 8
    });
    chunks && corners && (unit || direction != Direction::DataGradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Conv2dSpec;

    fn problem(x: [usize; 4], [k, r]: [usize; 2], dilation: usize, stride: usize) -> ConvProblem {
        let spec = Conv2dSpec { stride: [stride; 2], padding: [dilation * (r / 2); 2], dilation: [dilation; 2] };
        ConvProblem::new(x, [k, r, r, x[3]], &spec).unwrap()
    }

    #[test]
    fn a_nearly_empty_tail_is_cut() {
        // 265 tiles of 128 x 256: two waves and one tile.
        let product = WgmmaProblem::new(Direction::Forward, &problem([4, 92, 92, 256], [256, 3], 2, 1));
        let whole = WgmmaTiling::data_parallel(WgmmaTile::Wide, 1);
        assert_eq!(product.tiles(whole), 265);
        let best = product.heuristic();
        // An H200 took 74 us, and 84 for whole tiles.
        assert!(best.sk_units > 1 && 10 * product.cycles(best) < 9 * product.cycles(whole), "{best:?}");
    }

    #[test]
    fn a_pair_has_half_as_many_rows_of_tiles() {
        let single = WgmmaTiling::data_parallel(WgmmaTile::Square, 1);
        let pair = WgmmaTiling { cluster: 2, ..single };
        assert_eq!(pair.grid(129, 128), (1, 1));
        assert_eq!(single.grid(129, 128), (2, 1));
    }

    /// A line of the file of timings: the problem, its tiling, microseconds.
    fn timing(line: &str) -> (String, WgmmaProblem, WgmmaTiling, f64) {
        let fields: Vec<&str> = line.split(',').collect();
        let numbers = |text: &str| text.split('x').map(|number| number.parse().unwrap()).collect::<Vec<usize>>();
        let (x, w) = (numbers(fields[1]), numbers(fields[2]));
        let [stride, padding, dilation] = [3, 4, 5].map(|i| [fields[i].parse().unwrap(); 2]);
        let x = [x[0], x[1], x[2], x[3]];
        let problem = ConvProblem::new(x, [w[0], w[1], w[2], w[3]], &Conv2dSpec { stride, padding, dilation }).unwrap();
        let direction = match fields[0] {
            "forward" => Direction::Forward,
            "data gradient" => Direction::DataGradient,
            _ => Direction::WeightGradient,
        };
        let warpgroups = WgmmaTile::ALL.into_iter().find(|tile| format!("{tile:?}").eq_ignore_ascii_case(fields[6]));
        let tiling = WgmmaTiling {
            warpgroups: warpgroups.unwrap(),
            cluster: fields[7].parse().unwrap(),
            sk_units: fields[8].parse().unwrap(),
            strips: fields[9].parse().unwrap(),
        };
        (fields[..6].join(","), WgmmaProblem::new(direction, &problem), tiling, fields[10].parse().unwrap())
    }

    /// The model against a card: what it prefers among the timed tilings takes little longer than the fastest.
    #[test]
    fn the_heuristic_is_nearly_the_fastest() {
        let timings = include_str!("../../../benches/results/2026-11-27-nvidia-h200-tilings.csv");
        let timings: Vec<_> = timings.lines().skip(1).map(timing).collect();
        let mut losses = Vec::new();
        for problem in timings.chunk_by(|a, b| a.0 == b.0) {
            let fastest = problem.iter().map(|timing| timing.3).fold(f64::MAX, f64::min);
            let preferred = problem.iter().min_by_key(|(_, product, tiling, _)| product.cycles(*tiling)).unwrap();
            losses.push(preferred.3 / fastest);
            assert!(
                preferred.3 < 1.15 * fastest,
                "{}: {:?} takes {}, not {fastest}",
                preferred.0,
                preferred.2,
                preferred.3
            );
        }
        let mean = losses.iter().map(|loss: &f64| loss.ln()).sum::<f64>() / losses.len() as f64;
        assert!(losses.len() > 60 && mean.exp() < 1.03, "{} problems: {}", losses.len(), mean.exp());
    }

    #[test]
    fn tilings_differ_and_keep_within_a_wave() {
        for direction in Direction::ALL {
            let product = WgmmaProblem::new(direction, &problem([4, 92, 92, 256], [256, 3], 2, 1));
            let all = product.all();
            assert!(all.contains(&product.heuristic()), "{direction:?}");
            for (i, tiling) in all.iter().enumerate() {
                assert!(!all[..i].contains(tiling), "{tiling:?}");
                let wave = MULTIPROCESSORS / tiling.cluster;
                let tail = product.tiles(*tiling) % wave;
                assert!(tiling.sk_units == 0 || tail > 0 && tiling.sk_units >= tail * tiling.strips(), "{tiling:?}");
                assert!(tiling.sk_units <= wave, "{tiling:?}");
            }
            assert!(all.iter().any(|tiling| tiling.cluster == 2), "{direction:?}");
        }
    }

    #[test]
    fn units_of_a_weight_gradient_fill_the_card() {
        let product = WgmmaProblem::new(Direction::WeightGradient, &problem([4, 92, 92, 256], [256, 3], 2, 1));
        let best = product.heuristic();
        assert_eq!(best.sk_units * best.cluster, MULTIPROCESSORS, "{best:?}");
        // At least two thirds of the time go into products; the rest is the fixup and the prologue.
        let efficiency = best.efficiency(Direction::WeightGradient);
        let products = 256 * 2304 * product.k_tiles * K_TILE * 100 / (PRODUCTS * efficiency * MULTIPROCESSORS);
        assert!(3 * products > 2 * product.cycles(best), "{products} of {}", product.cycles(best));
    }

    #[test]
    fn what_the_kernels_cannot_do_is_left_to_others() {
        for direction in Direction::ALL {
            assert!(suits(direction, &problem([1, 20, 20, 64], [72, 3], 24, 1)), "{direction:?}");
            assert!(!suits(direction, &problem([1, 20, 20, 64], [68, 3], 1, 1)), "{direction:?}: channels");
            assert!(!suits(direction, &problem([1, 20, 20, 32], [64, 3], 1, 1)), "{direction:?}: few channels");
            assert!(!suits(direction, &problem([1, 20, 20, 64], [64, 3], 130, 1)), "{direction:?}: dilation");
            let strided = suits(direction, &problem([1, 20, 20, 64], [64, 3], 1, 2));
            assert_eq!(strided, direction != Direction::DataGradient);
        }
    }

    #[test]
    fn blocks_have_the_shared_memory_that_a_card_grants() {
        for tile in WgmmaTile::ALL {
            assert!(tile.shared_bytes() <= 227 << 10, "{tile:?}");
        }
    }
}
