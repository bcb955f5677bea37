//! The one place where the kernels of a convolution are chosen. The heuristic knows the shape, the dtype, and whether the device has
//! kernels by warpgroups, and nothing else: the same problem gives the same bits on every run. Autotuning ([`TuneKey`]) lets a GPU
//! take, of the tilings that suit the problem, the one that was the fastest when it first met it.

use serde::{Deserialize, Serialize};

use super::{
    ConvProblem, MathMode,
    mma_tiling::{self, BLOCKS, GemmProblem, MmaTile, Tiling},
    problem::{Direction, extents},
    wgmma_tiling::{self, WgmmaProblem, WgmmaTiling},
};
use crate::{DType, Device, Result};

/// How a GEMM is computed on a GPU: by which kernel, and the factor of split-K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub algorithm: Algorithm,
    pub split_k: usize,
}

/// The kinds of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Implicit GEMM on the ordinary arithmetic units, for any shape (kernels/include/conv_simt.cuh).
    Simt(SimtTile),
    /// Implicit GEMM on tensor cores, for bf16 and tf32 (kernels/include/conv_mma.cuh).
    Mma(MmaTile),
    /// The same for images of few channels, a row of taps at a time (kernels/conv2d_few_channels.cu).
    FewChannels(MmaTile),
    /// By warpgroups, on Hopper (kernels/include/conv_wgmma.cuh).
    Wgmma(WgmmaTiling),
}

/// Tiles of [`Algorithm::Simt`], which all have 128 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimtTile {
    /// 64 columns.
    Wide,
    /// 32 columns: few columns, few tiles, or f64, which has room for no more.
    Narrow,
}

impl SimtTile {
    /// M and N.
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Wide => (128, 64),
            Self::Narrow => (128, 32),
        }
    }
}

impl From<Tiling> for Choice {
    fn from(Tiling { tile, split_k }: Tiling) -> Self {
        Self { algorithm: Algorithm::Mma(tile), split_k }
    }
}

impl From<WgmmaTiling> for Choice {
    fn from(tiling: WgmmaTiling) -> Self {
        Self { algorithm: Algorithm::Wgmma(tiling), split_k: 1 }
    }
}

impl Algorithm {
    fn extent(self) -> (usize, usize) {
        match self {
            Self::Simt(tile) => tile.extent(),
            Self::Mma(tile) | Self::FewChannels(tile) => tile.extent(),
            Self::Wgmma(tiling) => tiling.warpgroups.extent(),
        }
    }

    /// Tiles of `m` x `n` results.
    pub fn tiles(self, m: usize, n: usize) -> usize {
        let (down, across) = self.extent();
        m.div_ceil(down) * n.div_ceil(across)
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(self) -> u32 {
        match self {
            Self::Simt(_) => 0,
            Self::Mma(tile) | Self::FewChannels(tile) => tile.shared_bytes(),
            Self::Wgmma(tiling) => tiling.warpgroups.shared_bytes(),
        }
    }
}

/// The choice for one GEMM where none is timed.
pub(super) fn choose(
    direction: Direction,
    problem: &ConvProblem,
    dtype: DType,
    math_mode: MathMode,
    warpgroups: bool,
) -> Choice {
    let tensor_cores = dtype == DType::Bf16 || (dtype == DType::F32 && math_mode == MathMode::Tf32);
    if tensor_cores && whole_chunks(direction, problem, dtype) {
        let by_warpgroups = warpgroups && dtype == DType::Bf16 && wgmma_tiling::suits(direction, problem);
        if by_warpgroups && !is_small_weight_gradient(direction, problem) {
            return WgmmaProblem::new(direction, problem).heuristic().into();
        }
        return GemmProblem::new(direction, problem, dtype).heuristic().into();
    }
    let algorithm = match tensor_cores && has_few_channels(direction, problem, dtype) {
        true => few_channels(direction, problem),
        false => simt(direction, problem, dtype),
    };
    let (m, n) = extents(direction, problem);
    let split_k = match direction {
        Direction::WeightGradient => {
            mma_tiling::split_k(algorithm.tiles(m, n), problem.output()[..3].iter().product()).0
        }
        Direction::Forward | Direction::DataGradient => 1,
    };
    Choice { algorithm, split_k }
}

/// Whether the filter is so small that warps, of which a multiprocessor holds more blocks, sum its gradient faster than warpgroups:
/// as timed on an H200 for the eight such layers of the published network.
fn is_small_weight_gradient(direction: Direction, problem: &ConvProblem) -> bool {
    direction == Direction::WeightGradient && problem.filter().iter().product::<usize>() <= 1 << 16
}

fn few_channels(direction: Direction, problem: &ConvProblem) -> Algorithm {
    let narrow = direction == Direction::Forward && problem.k as usize <= MmaTile::Slim.extent().1;
    let tile = if direction == Direction::WeightGradient { MmaTile::Small } else { MmaTile::Medium };
    Algorithm::FewChannels(if narrow { MmaTile::Slim } else { tile })
}

fn simt(direction: Direction, problem: &ConvProblem, dtype: DType) -> Algorithm {
    let (m, n) = extents(direction, problem);
    let wide = Algorithm::Simt(SimtTile::Wide);
    let tail = n % SimtTile::Wide.extent().1;
    let wasted = (1..=32).contains(&tail) && n < 256;
    let few = direction != Direction::WeightGradient && wide.tiles(m, n) < BLOCKS;
    let narrow = dtype == DType::F64 || wasted || few;
    if narrow { Algorithm::Simt(SimtTile::Narrow) } else { wide }
}

/// Whether the channels along which 16 bytes are copied come in whole chunks.
fn whole_chunks(direction: Direction, problem: &ConvProblem, dtype: DType) -> bool {
    let chunk = (16 / dtype.size()) as i32;
    problem.c % chunk == 0 && (direction == Direction::Forward || problem.k % chunk == 0)
}

/// Taps of a row, padded: with four channels each they fill a K tile.
pub(super) const ROW_TAPS: usize = 8;

/// Whether a row of taps fits [`ROW_TAPS`] that begin at a multiple of 16 bytes.
fn has_few_channels(direction: Direction, problem: &ConvProblem, dtype: DType) -> bool {
    let fits = match direction {
        Direction::Forward => true,
        Direction::WeightGradient => problem.k % (16 / dtype.size()) as i32 == 0,
        Direction::DataGradient => false,
    };
    let row =
        problem.s + problem.padding[1] % 2 <= ROW_TAPS as i32 && problem.dilation[1] == 1 && problem.stride[1] % 2 == 0;
    // The padded image is indexed with 32 bits too.
    let [n, h, w, c] = problem.input();
    fits && row && c <= 4 && n * h * (w + 1) <= i32::MAX as usize / 4
}

/// A tiling of a GEMM on tensor cores, as it stands in the tune cache.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Config {
    Warps(Tiling),
    Warpgroups(WgmmaTiling),
}

impl Config {
    /// None off the tensor cores.
    fn of(Choice { algorithm, split_k }: Choice) -> Option<Self> {
        match algorithm {
            Algorithm::Mma(tile) => Some(Self::Warps(Tiling { tile, split_k })),
            Algorithm::Wgmma(tiling) => Some(Self::Warpgroups(tiling)),
            Algorithm::Simt(_) | Algorithm::FewChannels(_) => None,
        }
    }

    fn choice(self) -> Choice {
        match self {
            Self::Warps(tiling) => tiling.into(),
            Self::Warpgroups(tiling) => tiling.into(),
        }
    }
}

/// A GEMM by all that its time depends on: the key of the tune cache.
pub(super) struct TuneKey<'a> {
    pub direction: Direction,
    pub problem: &'a ConvProblem,
    pub dtype: DType,
    /// Groups of images whose moments are wanted.
    pub groups: Option<usize>,
    /// Whether a data gradient is added to what there is, and stored with the epilogue of a batch norm before.
    pub accumulate: bool,
    pub epilogue: bool,
}

impl TuneKey<'_> {
    /// The choice on this device, where `heuristic` is the one without timing, and `run` runs one.
    ///
    /// Errors: as [`Device::tuned`].
    pub fn tuned(
        &self,
        device: &Device,
        heuristic: Choice,
        mut run: impl FnMut(Choice) -> Result<()>,
    ) -> Result<Choice> {
        let Some(heuristic_config) = Config::of(heuristic) else { return Ok(heuristic) };
        let describe = || (self.name(), self.others(device, heuristic_config));
        device.tuned(heuristic_config, describe, |config| run(config.choice())).map(Config::choice)
    }

    /// What could be faster than the heuristic, on one card or another.
    fn others(&self, device: &Device, heuristic: Config) -> Vec<Config> {
        let Self { direction, problem, dtype, .. } = *self;
        let mut all: Vec<Config> = Vec::new();
        if device.has_warpgroup_products() && dtype == DType::Bf16 && wgmma_tiling::suits(direction, problem) {
            all.extend(WgmmaProblem::new(direction, problem).all().into_iter().map(Config::Warpgroups));
        }
        let product = GemmProblem::new(direction, problem, dtype);
        all.push(Config::Warps(product.heuristic()));
        all.extend(product.others().into_iter().map(Config::Warps));
        // Split-K leaves the batch norm a pass of its own.
        let fuses = |config: &Config| !matches!(config, Config::Warps(tiling) if self.epilogue && tiling.split_k > 1);
        all.retain(|config| *config != heuristic && fuses(config));
        all
    }

    /// As it stands in the tune cache.
    fn name(&self) -> String {
        let ConvProblem { n, h, w, c, k, r, s, stride, padding, dilation, .. } = self.problem;
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::DataGradient => "data gradient",
            Direction::WeightGradient => "weight gradient",
        };
        let pair = |[down, across]: &[i32; 2]| format!("{down}x{across}");
        let (stride, padding, dilation) = (pair(stride), pair(padding), pair(dilation));
        let groups = self.groups.map(|groups| format!(" moments of {groups}")).unwrap_or_default();
        let accumulate = if self.accumulate { " added" } else { "" };
        let epilogue = if self.epilogue { " before a batch norm" } else { "" };
        format!(
            "conv2d {direction} {} x {n}x{h}x{w}x{c} w {k}x{r}x{s}x{c} stride {stride} padding {padding} dilation {dilation}{groups}{accumulate}{epilogue}",
            self.dtype
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Conv2dSpec;

    fn chosen(direction: Direction, x: [usize; 4], w: [usize; 3], dtype: DType, math_mode: MathMode) -> Algorithm {
        let spec = Conv2dSpec { padding: [w[1] / 2, w[2] / 2], ..Conv2dSpec::default() };
        let problem = ConvProblem::new(x, [w[0], w[1], w[2], x[3]], &spec).unwrap();
        choose(direction, &problem, dtype, math_mode, false).algorithm
    }

    /// The backbone of the published network on two and two crops: large tiles, all on tensor cores.
    #[test]
    fn large_convolutions_take_large_tiles() {
        for (c, w) in [(256, [256, 3, 3]), (512, [512, 3, 3]), (256, [1024, 1, 1]), (1024, [256, 1, 1])] {
            for direction in Direction::ALL {
                let large = Algorithm::Mma(MmaTile::Large);
                assert_eq!(chosen(direction, [4, 92, 92, c], w, DType::Bf16, MathMode::Full), large);
                assert_eq!(chosen(direction, [4, 92, 92, c], w, DType::F32, MathMode::Tf32), large);
                let wide = Algorithm::Simt(SimtTile::Wide);
                assert_eq!(chosen(direction, [4, 92, 92, c], w, DType::F32, MathMode::Full), wide);
            }
        }
    }

    #[test]
    fn channels_off_the_chunks_stay_off_the_tensor_cores() {
        let head = |direction| chosen(direction, [4, 92, 92, 2048], [19, 3, 3], DType::Bf16, MathMode::Full);
        assert_eq!(head(Direction::Forward), Algorithm::Mma(MmaTile::Slim));
        assert!(matches!(head(Direction::DataGradient), Algorithm::Simt(_)));
        assert!(matches!(head(Direction::WeightGradient), Algorithm::Simt(_)));
        for direction in Direction::ALL {
            let five = chosen(direction, [4, 730, 730, 5], [64, 7, 7], DType::Bf16, MathMode::Full);
            assert!(matches!(five, Algorithm::Simt(_)));
        }
    }

    #[test]
    fn the_stem_goes_by_rows_of_taps() {
        let spec = Conv2dSpec { stride: [2, 2], padding: [3, 3], ..Conv2dSpec::default() };
        let stem = ConvProblem::new([4, 730, 730, 3], [64, 7, 7, 3], &spec).unwrap();
        let by = |direction, dtype, math_mode| choose(direction, &stem, dtype, math_mode, false).algorithm;
        for (dtype, math_mode) in [(DType::Bf16, MathMode::Full), (DType::F32, MathMode::Tf32)] {
            assert_eq!(by(Direction::Forward, dtype, math_mode), Algorithm::FewChannels(MmaTile::Medium));
            assert_eq!(by(Direction::WeightGradient, dtype, math_mode), Algorithm::FewChannels(MmaTile::Small));
            assert!(matches!(by(Direction::DataGradient, dtype, math_mode), Algorithm::Simt(_)));
        }
        assert!(matches!(by(Direction::Forward, DType::F32, MathMode::Full), Algorithm::Simt(_)));
    }

    #[test]
    fn small_problems_take_small_tiles() {
        for direction in Direction::ALL {
            let small = chosen(direction, [1, 20, 20, 64], [64, 3, 3], DType::Bf16, MathMode::Full);
            assert_eq!(small, Algorithm::Mma(MmaTile::Small), "{direction:?}");
        }
    }

    /// On Hopper the backbone goes by warpgroups, and what they cannot do stays with warps.
    #[test]
    fn warpgroups_take_what_they_can() {
        let by = |direction, x: [usize; 4], [k, r]: [usize; 2], dtype| {
            let spec = Conv2dSpec { padding: [r / 2; 2], ..Conv2dSpec::default() };
            let problem = ConvProblem::new(x, [k, r, r, x[3]], &spec).unwrap();
            choose(direction, &problem, dtype, MathMode::Tf32, true).algorithm
        };
        for direction in Direction::ALL {
            for (c, w) in [(256, [256, 3]), (512, [512, 3]), (256, [1024, 1]), (1024, [256, 1]), (128, [128, 3])] {
                let chosen = by(direction, [4, 92, 92, c], w, DType::Bf16);
                assert!(matches!(chosen, Algorithm::Wgmma(_)), "{direction:?} {c} {w:?}: {chosen:?}");
                assert!(matches!(by(direction, [4, 92, 92, c], w, DType::F32), Algorithm::Mma(_)));
            }
            assert!(!matches!(by(direction, [4, 92, 92, 2048], [19, 3], DType::Bf16), Algorithm::Wgmma(_)));
            let small = by(direction, [4, 92, 92, 512], [128, 1], DType::Bf16);
            assert_eq!(matches!(small, Algorithm::Wgmma(_)), direction != Direction::WeightGradient);
        }
    }

    #[test]
    fn names_tell_problems_apart() {
        let spec = Conv2dSpec { stride: [1, 2], padding: [3, 1], dilation: [2, 1] };
        let problem = ConvProblem::new([2, 30, 20, 8], [16, 3, 5, 8], &spec).unwrap();
        let (direction, dtype) = (Direction::Forward, DType::Bf16);
        let key = TuneKey { direction, problem: &problem, dtype, groups: None, accumulate: false, epilogue: false };
        let whole = "conv2d forward bf16 x 2x30x20x8 w 16x3x5x8 stride 1x2 padding 3x1 dilation 2x1";
        assert_eq!(key.name(), whole);
        let grouped = TuneKey { groups: Some(2), ..key };
        assert_eq!(grouped.name(), format!("{whole} moments of 2"));
        let stored = TuneKey { accumulate: true, epilogue: true, ..key };
        assert_eq!(stored.name(), format!("{whole} added before a batch norm"));
        let names: Vec<String> = Direction::ALL.map(|direction| TuneKey { direction, ..grouped }.name()).to_vec();
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
    }
}
