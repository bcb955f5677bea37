//! Which of the tilings that suit a product on tensor cores is taken: on a GPU the one that was the fastest when the shape was
//! first met.

use serde::{Deserialize, Serialize};

use crate::{
    DType, Device, Result,
    ops::conv2d::{
        ConvProblem,
        algorithm::{Algorithm, Choice},
        problem::Direction,
        tiling::{Product, Tiling},
        wgmma_tiling::{self, WgmmaProduct, WgmmaTiling},
    },
};

/// A way to compute a product on tensor cores, as it stands in a file of choices.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Way {
    Warps(Tiling),
    Warpgroups(WgmmaTiling),
}

impl Way {
    /// None off the tensor cores.
    fn of(Choice { algorithm, split }: Choice) -> Option<Self> {
        match algorithm {
            Algorithm::Mma(tile) => Some(Self::Warps(Tiling { tile, split })),
            Algorithm::Wgmma(tiling) => Some(Self::Warpgroups(tiling)),
            Algorithm::Simt(_) | Algorithm::Window(_) => None,
        }
    }

    fn choice(self) -> Choice {
        match self {
            Self::Warps(tiling) => tiling.into(),
            Self::Warpgroups(tiling) => tiling.into(),
        }
    }
}

/// A product by all that its time depends on.
pub(super) struct Problem<'a> {
    pub direction: Direction,
    pub params: &'a ConvProblem,
    pub dtype: DType,
    /// Groups of images whose moments are wanted.
    pub groups: Option<usize>,
    /// Whether a data gradient is added to what there is, and stored with the epilogue of a batch norm before.
    pub accumulate: bool,
    pub epilogue: bool,
}

impl Problem<'_> {
    /// The choice on this device, where `built_in` is the one without timing, and `run` does it.
    ///
    /// Errors: as [`Device::tuned`].
    pub fn tuned(
        &self,
        device: &Device,
        built_in: Choice,
        mut run: impl FnMut(Choice) -> Result<()>,
    ) -> Result<Choice> {
        let Some(built_in_way) = Way::of(built_in) else { return Ok(built_in) };
        let describe = || (self.name(), self.others(device, built_in_way));
        device.tuned(built_in_way, describe, |way| run(way.choice())).map(Way::choice)
    }

    /// What could be faster than the built-in way, on one card or another.
    fn others(&self, device: &Device, built_in: Way) -> Vec<Way> {
        let Self { direction, params, dtype, .. } = *self;
        let mut all: Vec<Way> = Vec::new();
        if device.has_warpgroup_products() && dtype == DType::Bf16 && wgmma_tiling::suits(direction, params) {
            all.extend(WgmmaProduct::new(direction, params).all().into_iter().map(Way::Warpgroups));
        }
        let product = Product::new(direction, params, dtype);
        all.push(Way::Warps(product.built_in()));
        all.extend(product.others().into_iter().map(Way::Warps));
        // Sums in parts leave the batch norm a pass of its own.
        let fuses = |way: &Way| !matches!(way, Way::Warps(tiling) if self.epilogue && tiling.split > 1);
        all.retain(|way| *way != built_in && fuses(way));
        all
    }

    /// As it stands in a file of choices.
    fn name(&self) -> String {
        let ConvProblem { n, h, w, c, k, r, s, stride, padding, dilation, .. } = self.params;
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
        let params = ConvProblem::new([2, 30, 20, 8], [16, 3, 5, 8], &spec).unwrap();
        let (direction, dtype) = (Direction::Forward, DType::Bf16);
        let problem = Problem { direction, params: &params, dtype, groups: None, accumulate: false, epilogue: false };
        let whole = "conv2d forward bf16 x 2x30x20x8 w 16x3x5x8 stride 1x2 padding 3x1 dilation 2x1";
        assert_eq!(problem.name(), whole);
        let grouped = Problem { groups: Some(2), ..problem };
        assert_eq!(grouped.name(), format!("{whole} moments of 2"));
        let stored = Problem { accumulate: true, epilogue: true, ..problem };
        assert_eq!(stored.name(), format!("{whole} added before a batch norm"));
        let names: Vec<String> = Direction::ALL.map(|direction| Problem { direction, ..grouped }.name()).to_vec();
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
    }
}
