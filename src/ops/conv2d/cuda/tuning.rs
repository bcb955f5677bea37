//! Which of the tilings that suit a product on tensor cores is taken: on a GPU the one that was the fastest when the shape was
//! first met.

use crate::{
    DType, Device, Result,
    ops::conv2d::{
        ConvParams,
        algorithm::{Algorithm::Mma, Choice, Direction},
        tiling::{Product, Tiling},
    },
};

/// A product by all that its time depends on.
pub(super) struct Problem<'a> {
    pub direction: Direction,
    pub params: &'a ConvParams,
    pub dtype: DType,
    /// Groups of images whose moments are wanted.
    pub groups: Option<usize>,
}

impl Problem<'_> {
    /// The choice on this device, where `built_in` is the one without timing, and `run` does it.
    pub fn tuned(&self, device: &Device, built_in: Choice, mut run: impl FnMut(Choice) -> Result<()>) -> Choice {
        let Choice { algorithm: Mma(tile), split } = built_in else { return built_in };
        let choice = |Tiling { tile, split }| Choice { algorithm: Mma(tile), split };
        let describe = || (self.name(), Product::new(self.direction, self.params, self.dtype).others());
        choice(device.tuned(Tiling { tile, split }, describe, |tiling| run(choice(tiling))))
    }

    /// As it stands in a file of choices.
    fn name(&self) -> String {
        let ConvParams { n, h, w, c, k, r, s, stride, padding, dilation, .. } = self.params;
        let direction = match self.direction {
            Direction::Forward => "forward",
            Direction::DataGradient => "data gradient",
            Direction::WeightGradient => "weight gradient",
        };
        let pair = |[down, across]: &[i32; 2]| format!("{down}x{across}");
        let (stride, padding, dilation) = (pair(stride), pair(padding), pair(dilation));
        let groups = self.groups.map(|groups| format!(" moments of {groups}")).unwrap_or_default();
        format!(
            "conv2d {direction} {} x {n}x{h}x{w}x{c} w {k}x{r}x{s}x{c} stride {stride} padding {padding} dilation {dilation}{groups}",
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
        let params = ConvParams::new([2, 30, 20, 8], [16, 3, 5, 8], &spec).unwrap();
        let problem = Problem { direction: Direction::Forward, params: &params, dtype: DType::Bf16, groups: None };
        let whole = "conv2d forward bf16 x 2x30x20x8 w 16x3x5x8 stride 1x2 padding 3x1 dilation 2x1";
        assert_eq!(problem.name(), whole);
        let grouped = Problem { groups: Some(2), ..problem };
        assert_eq!(grouped.name(), format!("{whole} moments of 2"));
        let names: Vec<String> = Direction::ALL.map(|direction| Problem { direction, ..grouped }.name()).to_vec();
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
    }
}
