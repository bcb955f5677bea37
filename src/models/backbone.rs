//! What a residual network is: its depth, and where its strides and dilations stand.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Depth of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// 2+2+2+2 basic blocks.
    ResNet18,
    /// 3+4+6+3 basic blocks.
    ResNet34,
    /// 3+4+6+3 bottleneck blocks.
    ResNet50,
    /// 3+4+23+3 bottleneck blocks.
    ResNet101,
    /// 3+8+36+3 bottleneck blocks.
    ResNet152,
}

impl Backbone {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::ResNet18, Self::ResNet34, Self::ResNet50, Self::ResNet101, Self::ResNet152];

    /// Blocks of each stage.
    pub fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
        }
    }

    /// Whether its blocks are bottlenecks: 1 x 1, 3 x 3, 1 x 1.
    pub fn has_bottlenecks(self) -> bool {
        !matches!(self, Self::ResNet18 | Self::ResNet34)
    }

    /// Output channels of a block over its inner width.
    pub fn expansion(self) -> usize {
        if self.has_bottlenecks() { 4 } else { 1 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::ResNet101 => "resnet101",
            Self::ResNet152 => "resnet152",
        }
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backbone {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|backbone| backbone.name() == text);
        let known = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| Error::Config(format!("unknown backbone {text:?}; use one of {known}")))
    }
}

/// Where strides and dilations stand. Weights of one layout compute something else in the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The published network's: a bottleneck's stride is that of its first 1 x 1 convolution, and every block of stages 3
    /// and 4 has dilation 2 and 4.
    Caffe,
    /// A bottleneck's stride is that of its 3 x 3 convolution, and the first block of stages 3 and 4 keeps its
    /// predecessor's dilation (`replace_stride_with_dilation`).
    #[default]
    Torchvision,
}

/// Stride and dilations of a stage: stages 3 and 4 trade their stride for dilation, so that the output stride is 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagePlan {
    /// Stride of the first block.
    pub stride: usize,
    /// Dilation of the first block's 3 x 3 convolutions.
    pub first: usize,
    /// Dilation of the others'.
    pub rest: usize,
}

impl Layout {
    /// The plan of stage 0 to 3.
    pub fn stage(self, stage: usize) -> StagePlan {
        let (stride, before, rest) = match stage {
            0 => (1, 1, 1),
            1 => (2, 1, 1),
            2 => (1, 1, 2),
            _ => (1, 2, 4),
        };
        StagePlan { stride, first: if self == Self::Caffe { rest } else { before }, rest }
    }

    /// Strides of a bottleneck's first two convolutions, in a block of this stride.
    pub fn bottleneck_strides(self, stride: usize) -> [usize; 2] {
        match self {
            Self::Caffe => [stride, 1],
            Self::Torchvision => [1, stride],
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caffe => "caffe",
            Self::Torchvision => "torchvision",
        })
    }
}
