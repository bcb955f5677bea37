//! Autotuning: of the tilings that suit a GEMM on tensor cores, a GPU takes the one that was the fastest when it first met the shape.

use serde::{Deserialize, Serialize};

use crate::{
    DType, Device, Result,
    ops::conv2d::{
        ConvProblem,
        heuristic::{Algorithm, Choice},
        mma_tiling::{GemmProblem, Tiling},
        problem::Direction,
        wgmma_tiling::{self, WgmmaProblem, WgmmaTiling},
    },
};

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
