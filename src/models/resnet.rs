//! ResNet (He et al., CVPR 2016) with output stride 8: the last two stages dilate instead of striding, in Caffe's or
//! torchvision's layout. Parameters carry torchvision's names.

use super::backbone::{Backbone, Layout, StagePlan};
use crate::{
    Error, Result,
    autograd::Var,
    nn::{BatchNorm, Conv2d, ConvShape, Forward, Parameters},
    ops,
    tensor::Rng,
};

/// What all stages share.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Depth.
    pub backbone: Backbone,
    /// Where strides and dilations stand.
    pub layout: Layout,
    /// Inner channels of the first stage's blocks: 64 in the published networks.
    pub width: usize,
    /// Channels of the 7x7 convolution: 64 in the published networks.
    pub stem_width: usize,
    /// Batch norms keep running statistics per domain.
    pub domain_statistics: bool,
}

/// A residual block; one with three convolutions is a bottleneck.
struct Block {
    convs: Vec<(Conv2d, BatchNorm)>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn forward(&self, pass: &Forward<'_>, x: &Var) -> Result<Var> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.after(pass, conv, x, None, false)?,
            None => x.clone(),
        };
        let Some(((last_conv, last_norm), inner)) = self.convs.split_last() else {
            return Err(Error::Internal("a residual block without convolutions".into()));
        };
        let mut y = x.clone();
        for (conv, norm) in inner {
            y = norm.after(pass, conv, &y, None, true)?;
        }
        last_norm.after(pass, last_conv, &y, Some(&shortcut), true)
    }
}

/// The 7x7 convolution, its batch norm, the max pool, and the first stage: what `domain_stem` keeps
/// one copy of per domain.
pub struct Stem {
    conv: Conv2d,
    norm: BatchNorm,
    layer1: Vec<Block>,
}

/// Stages 2 to 4.
pub struct ResNet {
    layers: [Vec<Block>; 3],
    channels: usize,
}

fn blocks(parameters: &mut Parameters, rng: &mut Rng, prefix: &str, stage: usize, net: Shape) -> Result<Vec<Block>> {
    let Shape { backbone, layout, width, stem_width, .. } = net;
    let name = format!("{prefix}layer{}", stage + 1);
    let inner = width << stage;
    let output = inner * backbone.expansion();
    let StagePlan { stride, first, rest } = layout.stage(stage);
    let mut input = match stage {
        0 => stem_width,
        _ => output / 2,
    };
    let mut list = Vec::new();
    for index in 0..backbone.blocks()[stage] {
        let prefix = format!("{name}.{index}");
        let (stride, dilation) = if index == 0 { (stride, first) } else { (1, rest) };
        let plan: &[(usize, usize, usize, usize, usize)] = if backbone.expansion() == 1 {
            // input, output, kernel, stride, dilation
            &[(input, inner, 3, stride, dilation), (inner, inner, 3, 1, dilation)]
        } else {
            let [one, three] = layout.bottleneck_strides(stride);
            &[(input, inner, 1, one, 1), (inner, inner, 3, three, dilation), (inner, output, 1, 1, 1)]
        };
        let mut convs = Vec::new();
        for (i, &(input, output, kernel, stride, dilation)) in plan.iter().enumerate() {
            let shape = ConvShape { input, output, kernel, stride, dilation };
            let conv = Conv2d::backbone(parameters, rng, &format!("{prefix}.conv{}", i + 1), shape)?;
            convs.push((
                conv,
                BatchNorm::new(parameters, &format!("{prefix}.bn{}", i + 1), output, net.domain_statistics)?,
            ));
        }
        let downsample = if index == 0 && (stride != 1 || input != output) {
            let shape = ConvShape { input, output, kernel: 1, stride, dilation: 1 };
            let conv = Conv2d::backbone(parameters, rng, &format!("{prefix}.downsample.0"), shape)?;
            Some((conv, BatchNorm::new(parameters, &format!("{prefix}.downsample.1"), output, net.domain_statistics)?))
        } else {
            None
        };
        list.push(Block { convs, downsample });
        input = output;
    }
    Ok(list)
}

impl Stem {
    /// Adds its parameters under `prefix` (empty, or [`TARGET_PREFIX`](crate::nn::TARGET_PREFIX)).
    pub fn new(parameters: &mut Parameters, rng: &mut Rng, prefix: &str, net: Shape) -> Result<Self> {
        let width = net.stem_width;
        let shape = ConvShape { input: 3, output: width, kernel: 7, stride: 2, dilation: 1 };
        Ok(Self {
            conv: Conv2d::backbone(parameters, rng, &format!("{prefix}conv1"), shape)?,
            norm: BatchNorm::new(parameters, &format!("{prefix}bn1"), width, net.domain_statistics)?,
            layer1: blocks(parameters, rng, prefix, 0, net)?,
        })
    }

    /// `[N,H,W,3]` -> `[N,H/4,W/4,width * expansion]`.
    pub fn forward(&self, pass: &Forward<'_>, x: &Var) -> Result<Var> {
        let x = self.norm.after(pass, &self.conv, x, None, true)?;
        let x = ops::max_pool2d(
            &x,
            &ops::MaxPool2dSpec { kernel: [3; 2], stride: [2; 2], padding: [1; 2], ceil_mode: true },
        )?;
        self.layer1.iter().try_fold(x, |x, block| block.forward(pass, &x))
    }
}

impl ResNet {
    /// Adds the parameters of stages 2 to 4.
    pub fn new(parameters: &mut Parameters, rng: &mut Rng, net: Shape) -> Result<Self> {
        let mut stage = |number: usize| blocks(parameters, rng, "", number, net);
        Ok(Self { layers: [stage(1)?, stage(2)?, stage(3)?], channels: (net.width << 3) * net.backbone.expansion() })
    }

    /// Channels of its output: 2048 for ResNet-50 and -101 of width 64.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The stem's output -> [N,H/8,W/8,channels].
    pub fn forward(&self, pass: &Forward<'_>, x: Var) -> Result<Var> {
        self.layers.iter().flatten().try_fold(x, |x, block| block.forward(pass, &x))
    }
}
