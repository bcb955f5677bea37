//! How a product by warpgroups (kernels/include/conv_wgmma.cuh) is cut up, by the same kind of model as [`super::tiling`]'s.

use serde::{Deserialize, Serialize};

use super::{
    ConvProblem,
    problem::{Direction, extents},
    tiling::{COPIED, LAUNCH, MULTIPROCESSORS},
};
use crate::tensor::Variant;

/// Tiles of a product by warpgroups (kernels/conv2d_sm90.cu).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WgmmaTile {
    /// 128 x 256, of both warpgroups together: few bytes for each product.
    Wide,
    /// 256 x 128, of both together.
    Tall,
    /// 128 x 128, of each warpgroup: one stores while the other multiplies.
    Square,
    /// 128 x 64, of each: up to 64 columns.
    Narrow,
}

/// A tile, how many blocks work together, and how the tiles of the last round are cut where they do not fill the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WgmmaTiling {
    pub warpgroups: WgmmaTile,
    /// Blocks whose tiles lie below each other, and which copy the slices of their columns for each other: 1 or 2.
    pub cluster: usize,
    /// Into so many segments all their slices are cut, each for one cluster; 0: the tiles stay whole.
    pub segments: usize,
    /// Whether the tiles are first cut into strips of [`STRIP`] columns.
    pub strips: bool,
}

/// Depth of a slice (WGMMA_SLICE).
pub(super) const SLICE: usize = 64;
/// Pixels of a piece whose moments or sums a warpgroup takes.
pub(super) const PIECE: usize = 64;

/// Columns of a strip of a tile.
pub(super) const STRIP: usize = 64;

/// Into how many parts each tile of the last round may be cut, if not into as many segments as the card takes; these have at least
/// so many slices.
const PARTS: [usize; 6] = [1, 2, 3, 4, 6, 8];
const DEEP: usize = 4;

/// Products of a multiprocessor in a cycle, by its data sheet. All cycles are of its clock, 1.83 GHz.
const PRODUCTS: usize = 2048;

// As fitted to the times that an H200 took for 497 tilings of forward passes and data gradients, and for whole tiles of weight
// gradients (benches/results/2026-11-27-nvidia-h200-tilings.csv); in percent, and in cycles of 64 x 64 results.

/// A part's slice where a strip is cut out of 128 rows.
const STRIP_SLICE: usize = 1200;
/// From the launch to the first product, and from the last result to the end.
const FILL: usize = 5200;
/// Until the parts of a tile are added up, and for each part of 64 x 64.
const MEET: usize = 1660;
const MEET_PART: usize = 2640;

impl WgmmaTile {
    pub const ALL: [Self; 4] = [Self::Wide, Self::Tall, Self::Square, Self::Narrow];

    /// Rows and columns.
    pub fn extent(self) -> (usize, usize) {
        match self {
            Self::Wide => (128, 256),
            Self::Tall => (256, 128),
            Self::Square => (128, 128),
            Self::Narrow => (128, 64),
        }
    }

    /// Whether each warpgroup has tiles of its own (OWN).
    pub fn is_own(self) -> bool {
        matches!(self, Self::Square | Self::Narrow)
    }

    /// Strips of 64 columns.
    pub fn strips(self) -> usize {
        self.extent().1 / STRIP
    }

    /// Slices on the way, and blocks of results and what they need (STAGES, SLOTS): of the tile as it is, and where results are
    /// stored with several images besides.
    fn rings(self) -> [[usize; 2]; 2] {
        match self {
            Self::Wide | Self::Tall => [[4, 2], [3, 5]],
            Self::Square => [[6, 2], [4, 6]],
            Self::Narrow => [[8, 2], [5, 6]],
        }
    }

    /// Bytes of a slice.
    fn stage_bytes(self) -> usize {
        let (down, across) = self.extent();
        (down + across) * SLICE * 2
    }

    /// Dynamic shared memory of a block: the slices, two warpgroups' slots and notes, and all their barriers (SHARED_BYTES), for
    /// either way.
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
    /// With whole tiles only.
    fn whole(warpgroups: WgmmaTile, cluster: usize) -> Self {
        Self { warpgroups, cluster, segments: 0, strips: false }
    }

    /// Strips into which a tile of the last round is cut.
    pub fn strips(self) -> usize {
        if self.strips { self.warpgroups.strips() } else { 1 }
    }

    /// Stacks of tiles, one of each block of a cluster, down and across a product of `rows` x `columns`.
    pub fn grid(self, rows: usize, columns: usize) -> (usize, usize) {
        let (down, across) = self.warpgroups.extent();
        (rows.div_ceil(down).div_ceil(self.cluster), columns.div_ceil(across))
    }

    /// Elements of the sums of a part of a cut tile, of one block.
    pub fn part_elements(self) -> usize {
        let (down, across) = self.warpgroups.extent();
        down * across / self.strips()
    }

    /// Lines that a block copies of a slice.
    fn slice_lines(self) -> usize {
        let (down, across) = self.warpgroups.extent();
        down + across / self.cluster
    }

    /// How much of the data sheet's products the main loop makes, in percent. A weight gradient has both factors transposed in
    /// shared memory, which is slower where each warpgroup has a tile of its own.
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

    /// Cycles of a multiprocessor for a slice.
    fn slice_cycles(self, direction: Direction) -> usize {
        let (down, across) = self.warpgroups.extent();
        down * across * SLICE * 100 / (PRODUCTS * self.efficiency(direction))
    }

    /// The same of a slice of a part.
    fn part_slice_cycles(self, direction: Direction) -> usize {
        match self.strips {
            false => self.slice_cycles(direction),
            true => self.warpgroups.extent().0 * STRIP_SLICE / 128,
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

/// A product as far as these tilings matter.
pub(super) struct WgmmaProduct {
    direction: Direction,
    rows: usize,
    columns: usize,
    /// Slices of each sum.
    slices: usize,
}

impl WgmmaProduct {
    pub fn new(direction: Direction, params: &ConvProblem) -> Self {
        let ([k, r, s, c], pixels) = (params.filter(), params.output()[..3].iter().product());
        let (rows, columns) = extents(direction, params);
        let (columns, slices) = match direction {
            Direction::Forward => (columns, r * s * c.div_ceil(SLICE)),
            Direction::DataGradient => (columns, r * s * k.div_ceil(SLICE)),
            // In blocks of 64 channels of a tap.
            Direction::WeightGradient => (r * s * c.next_multiple_of(64), usize::div_ceil(pixels, SLICE)),
        };
        Self { direction, rows, columns, slices }
    }

    /// Tiles, counted by clusters.
    fn tiles(&self, tiling: WgmmaTiling) -> usize {
        let (down, across) = tiling.grid(self.rows, self.columns);
        down * across
    }

    /// Cycles of the launch, and of the one that adds up its parts.
    pub fn cycles(&self, tiling: WgmmaTiling) -> usize {
        let (tiles, round) = (self.tiles(tiling), MULTIPROCESSORS / tiling.cluster);
        let (rounds, rest) = (tiles / round, tiles % round);
        let (down, across) = tiling.warpgroups.extent();
        let store = store_cycles(self.direction);
        let main = self.slices * tiling.slice_cycles(self.direction) + down * across / (64 * 64) * store;
        let rest = match (rest, tiling.segments) {
            (0, _) => 0,
            (_, 0) => main,
            (_, segments) => {
                let units = rest * tiling.strips();
                let length = (units * self.slices).div_ceil(segments);
                let blocks = self.part_elements(tiling, rest).div_ceil(64 * 64);
                // Where segments do not end with tiles, one tile has parts of one more.
                let parts = if segments % units == 0 { segments / units } else { segments / units + 2 };
                let join = match (parts, self.direction) {
                    (1, _) => 0,
                    (_, Direction::WeightGradient) => LAUNCH + self.join_bytes(tiling, segments) / COPIED,
                    _ => MEET + MEET_PART * parts * blocks,
                };
                length * tiling.part_slice_cycles(self.direction) + blocks * store + join
            }
        };
        FILL + rounds * main + rest
    }

    /// Elements of a part of one of the `rest` tiles of the last round. The tiles below all others may have few rows.
    fn part_elements(&self, tiling: WgmmaTiling, rest: usize) -> usize {
        let ((down, across), (height, _)) = (tiling.grid(self.rows, self.columns), tiling.warpgroups.extent());
        let above = (down - 1) * height * tiling.cluster;
        let rows = if rest <= across { (self.rows - above).min(height) } else { height };
        tiling.part_elements() * rows.next_multiple_of(16) / height
    }

    /// Bytes of all parts, which are written and read again.
    fn join_bytes(&self, tiling: WgmmaTiling, segments: usize) -> usize {
        2 * 4 * segments * tiling.cluster * tiling.part_elements()
    }

    /// The tiling where nothing is timed.
    pub fn built_in(&self) -> WgmmaTiling {
        let all = WgmmaTile::ALL.into_iter().flat_map(|tile| self.tilings(tile));
        // Of two alike the one that copies less.
        let least = all.min_by_key(|&tiling| (self.cycles(tiling), tiling.slice_lines()));
        least.unwrap_or(WgmmaTiling::whole(WgmmaTile::Square, 1))
    }

    /// All tilings that could be the fastest.
    pub fn all(&self) -> Vec<WgmmaTiling> {
        let suits = |tile: &WgmmaTile| match tile {
            WgmmaTile::Wide => self.columns > 128,
            WgmmaTile::Tall => self.rows > 128 && self.columns > 64,
            WgmmaTile::Square => self.columns > 64,
            WgmmaTile::Narrow => self.columns <= 128,
        };
        WgmmaTile::ALL.into_iter().filter(suits).flat_map(|tile| self.tilings(tile)).collect()
    }

    /// With a tile: by single blocks and by pairs, and of each the ways to cut that seem best.
    fn tilings(&self, tile: WgmmaTile) -> Vec<WgmmaTiling> {
        let mut tilings = Vec::new();
        // A pair has two tiles below each other, and halves of columns to copy.
        let pairs = tile.strips() > 1 && self.rows > tile.extent().0;
        for cluster in if pairs { 1..=2 } else { 1..=1 } {
            let whole = WgmmaTiling::whole(tile, cluster);
            tilings.push(whole);
            let round = MULTIPROCESSORS / cluster;
            let rest = self.tiles(whole) % round;
            for strips in [false, true] {
                let units = rest * WgmmaTiling { strips, ..whole }.strips();
                let fits = |&segments: &usize| {
                    let enough = (units.max(1)..=round).contains(&segments) && units * self.slices >= segments * DEEP;
                    enough && (strips || segments > units)
                };
                let segments = PARTS.map(|parts| units * parts).into_iter().chain([round]).filter(fits);
                let cuts: Vec<_> = segments.map(|segments| WgmmaTiling { segments, strips, ..whole }).collect();
                if rest > 0 && (!strips || whole.warpgroups.strips() > 1) {
                    // What the model prefers, and the most parts, of whose cost it knows least.
                    tilings.extend(cuts.iter().min_by_key(|&&cut| self.cycles(cut)));
                    tilings.extend(cuts.iter().max_by_key(|cut| cut.segments));
                }
            }
        }
        tilings.dedup();
        tilings
    }
}

/// Whether the kernels by warpgroups can compute the product: channels in whole chunks of 16 bytes, at least one line of 64; in
/// the data gradient stride 1; and windows that a tensor map can describe.
pub(super) fn suits(direction: Direction, params: &ConvProblem) -> bool {
    let chunks = [params.c, params.k].iter().all(|channels| channels % 8 == 0 && *channels >= 64);
    let unit = params.stride == [1, 1];
    let corners = (0..2).all(|axis| {
        let (taps, stride, dilation) = ([params.r, params.s][axis], params.stride[axis], params.dilation[axis]);
        let reach = i64::from(taps - 1) * i64::from(dilation);
        let padding = i64::from(params.padding[axis]);
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

    fn params(x: [usize; 4], [k, r]: [usize; 2], dilation: usize, stride: usize) -> ConvProblem {
        let spec = Conv2dSpec { stride: [stride; 2], padding: [dilation * (r / 2); 2], dilation: [dilation; 2] };
        ConvProblem::new(x, [k, r, r, x[3]], &spec).unwrap()
    }

    #[test]
    fn the_last_round_is_cut_where_it_is_nearly_empty() {
        // 265 tiles of 128 x 256: two rounds and one tile.
        let product = WgmmaProduct::new(Direction::Forward, &params([4, 92, 92, 256], [256, 3], 2, 1));
        let whole = WgmmaTiling::whole(WgmmaTile::Wide, 1);
        assert_eq!(product.tiles(whole), 265);
        let best = product.built_in();
        // An H200 took 74 us, and 84 for whole tiles.
        assert!(best.segments > 1 && 10 * product.cycles(best) < 9 * product.cycles(whole), "{best:?}");
    }

    #[test]
    fn a_pair_has_half_as_many_rows_of_tiles() {
        let single = WgmmaTiling::whole(WgmmaTile::Square, 1);
        let pair = WgmmaTiling { cluster: 2, ..single };
        assert_eq!(pair.grid(129, 128), (1, 1));
        assert_eq!(single.grid(129, 128), (2, 1));
    }

    /// What one line of the file of timings says: the product, its tiling, microseconds.
    fn timing(line: &str) -> (String, WgmmaProduct, WgmmaTiling, f64) {
        let fields: Vec<&str> = line.split(',').collect();
        let numbers = |text: &str| text.split('x').map(|number| number.parse().unwrap()).collect::<Vec<usize>>();
        let (x, w) = (numbers(fields[1]), numbers(fields[2]));
        let [stride, padding, dilation] = [3, 4, 5].map(|i| [fields[i].parse().unwrap(); 2]);
        let x = [x[0], x[1], x[2], x[3]];
        let params = ConvProblem::new(x, [w[0], w[1], w[2], w[3]], &Conv2dSpec { stride, padding, dilation }).unwrap();
        let direction = match fields[0] {
            "forward" => Direction::Forward,
            "data gradient" => Direction::DataGradient,
            _ => Direction::WeightGradient,
        };
        let warpgroups = WgmmaTile::ALL.into_iter().find(|tile| format!("{tile:?}").eq_ignore_ascii_case(fields[6]));
        let tiling = WgmmaTiling {
            warpgroups: warpgroups.unwrap(),
            cluster: fields[7].parse().unwrap(),
            segments: fields[8].parse().unwrap(),
            strips: fields[9].parse().unwrap(),
        };
        (fields[..6].join(","), WgmmaProduct::new(direction, &params), tiling, fields[10].parse().unwrap())
    }

    /// The model against a card: what it prefers among the timed tilings takes little longer than the fastest.
    #[test]
    fn the_choice_without_timing_is_nearly_the_fastest() {
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
    fn tilings_are_told_apart_and_keep_within_a_round() {
        for direction in Direction::ALL {
            let product = WgmmaProduct::new(direction, &params([4, 92, 92, 256], [256, 3], 2, 1));
            let all = product.all();
            assert!(all.contains(&product.built_in()), "{direction:?}");
            for (i, tiling) in all.iter().enumerate() {
                assert!(!all[..i].contains(tiling), "{tiling:?}");
                let round = MULTIPROCESSORS / tiling.cluster;
                let rest = product.tiles(*tiling) % round;
                assert!(tiling.segments == 0 || rest > 0 && tiling.segments >= rest * tiling.strips(), "{tiling:?}");
                assert!(tiling.segments <= round, "{tiling:?}");
            }
            assert!(all.iter().any(|tiling| tiling.cluster == 2), "{direction:?}");
        }
    }

    #[test]
    fn segments_of_a_weight_gradient_fill_the_card() {
        let product = WgmmaProduct::new(Direction::WeightGradient, &params([4, 92, 92, 256], [256, 3], 2, 1));
        let best = product.built_in();
        assert_eq!(best.segments * best.cluster, MULTIPROCESSORS, "{best:?}");
        // At least two thirds of the time go into products; the rest is the sum of the parts, and the beginning.
        let efficiency = best.efficiency(Direction::WeightGradient);
        let products = 256 * 2304 * product.slices * SLICE * 100 / (PRODUCTS * efficiency * MULTIPROCESSORS);
        assert!(3 * products > 2 * product.cycles(best), "{products} of {}", product.cycles(best));
    }

    #[test]
    fn what_the_kernels_cannot_do_is_left_to_others() {
        for direction in Direction::ALL {
            assert!(suits(direction, &params([1, 20, 20, 64], [72, 3], 24, 1)), "{direction:?}");
            assert!(!suits(direction, &params([1, 20, 20, 64], [68, 3], 1, 1)), "{direction:?}: channels");
            assert!(!suits(direction, &params([1, 20, 20, 32], [64, 3], 1, 1)), "{direction:?}: few channels");
            assert!(!suits(direction, &params([1, 20, 20, 64], [64, 3], 130, 1)), "{direction:?}: dilation");
            let strided = suits(direction, &params([1, 20, 20, 64], [64, 3], 1, 2));
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
