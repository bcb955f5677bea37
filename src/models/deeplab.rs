//! DeepLab-V2 (Chen et al., PAMI 2018): a dilated ResNet and atrous spatial pyramid pooling. docs/method.md, "Features".

use serde::{Deserialize, Serialize};

use super::{
    backbone::{Backbone, Layout},
    resnet::{ResNet, Shape, Stem},
};
use crate::{
    Error, Result, Tensor,
    autograd::Var,
    nn::{Aspp, Domain, Forward, Normalization, Parameters, TARGET_PREFIX},
    ops,
    tensor::Rng,
};

/// Dilations of the head's four branches.
pub const RATES: [usize; 4] = [6, 12, 18, 24];

/// Which map the contrastive terms work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// The outputs of the head's four branches, concatenated: d = 4 C.
    Aspp,
    /// The map that enters the head: d = 2048 for ResNet-101.
    Backbone,
}

/// The shape of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepLabConfig {
    /// Depth.
    pub backbone: Backbone,
    /// Where strides and dilations stand. Files of before this key are of torchvision's layout.
    #[serde(default)]
    pub layout: Layout,
    /// Inner channels of the first stage's blocks: 64 in the published networks.
    pub width: usize,
    /// Channels of the stem's convolution, where they are not `width`: thin networks have 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_width: Option<usize>,
    /// Classes.
    pub classes: usize,
    /// Which map the contrastive terms work on.
    pub feature: FeatureKind,
    /// One copy of stem and first stage per domain.
    pub domain_stem: bool,
    /// Batch norms keep running statistics per domain: training normalises each domain by its own batch, and so does
    /// evaluation then.
    pub domain_statistics: bool,
}

impl DeepLabConfig {
    /// What the stages share.
    pub fn shape(&self) -> Shape {
        let Self { backbone, layout, width, domain_statistics, .. } = *self;
        Shape { backbone, layout, width, stem_width: self.stem_width.unwrap_or(width), domain_statistics }
    }

    /// Channels of the map that enters the head: 2048 for ResNet-50 and deeper of width 64.
    pub fn channels(&self) -> usize {
        (self.width << 3) * self.backbone.expansion()
    }
}

/// What a pass gives.
pub struct Output {
    /// `[N,h,w,d]` at stride 8, for the contrastive terms.
    pub features: Var,
    /// `[N,h,w,C]` at stride 8, for the segmentation losses and predictions.
    pub logits: Var,
}

/// The network's structure; its numbers live in [`Parameters`].
pub struct DeepLab {
    stem: Stem,
    target_stem: Option<Stem>,
    backbone: ResNet,
    head: Aspp,
    feature: FeatureKind,
    domain_statistics: bool,
}

impl DeepLab {
    /// Adds the network's parameters, initialised from `seed`.
    pub fn new(parameters: &mut Parameters, config: &DeepLabConfig, seed: u64) -> Result<Self> {
        let rng = &mut Rng::new(seed);
        let (shape, domain_statistics) = (config.shape(), config.domain_statistics);
        // A stem per domain has statistics per domain.
        let stem_shape = Shape { domain_statistics: domain_statistics && !config.domain_stem, ..shape };
        let stem = Stem::new(parameters, rng, "", stem_shape)?;
        let backbone = ResNet::new(parameters, rng, shape)?;
        let head = Aspp::new(parameters, rng, "classifier.convs", [backbone.channels(), config.classes], &RATES)?;
        let target_stem = match config.domain_stem {
            true => Some(Stem::new(parameters, rng, TARGET_PREFIX, stem_shape)?),
            false => None,
        };
        Ok(Self { stem, target_stem, backbone, head, feature: config.feature, domain_statistics })
    }

    /// Whether images of both domains can pass through as one batch: nothing that they need is one domain's own.
    pub fn takes_both_domains(&self, normalization: Normalization) -> bool {
        self.target_stem.is_none() && (normalization == Normalization::Batch || !self.domain_statistics)
    }

    /// Images `[N,H,W,3]`, normalised -> features and logits at stride 8. The batch divides into a run of N / `domains.len()`
    /// images for each of `domains`; with several, [`DeepLab::takes_both_domains`] must hold.
    pub fn forward(&self, pass: &Forward<'_>, images: &Tensor, domains: &'static [Domain]) -> Result<Output> {
        pass.enter(domains);
        let images = pass.input(images)?;
        let stem = match (&self.target_stem, domains) {
            (Some(target), [Domain::Target]) => target,
            (Some(_), [_, _, ..]) => return Err(Error::Internal("one batch of two domains with a stem each".into())),
            _ => &self.stem,
        };
        let map = self.backbone.forward(pass, stem.forward(pass, &images)?)?;
        let branches = self.head.forward(pass, &map)?;
        let logits = ops::sum_channel_groups(&branches, RATES.len())?;
        let features = match self.feature {
            FeatureKind::Aspp => branches,
            FeatureKind::Backbone => map,
        };
        Ok(Output { features, logits })
    }

    /// Starts what the target has of its own from the source's.
    pub fn copy_source_to_target(parameters: &mut Parameters) -> Result<()> {
        let pairs: Vec<_> = parameters
            .ids()
            .filter_map(|id| {
                let source = parameters.name(id).strip_prefix(TARGET_PREFIX)?;
                Some((parameters.find(source)?, id))
            })
            .collect();
        for (source, target) in pairs {
            let value = parameters.get(source).duplicate()?;
            parameters.set(target, value)?;
        }
        Ok(())
    }
}
