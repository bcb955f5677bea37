//! What network a file's tensors are of, by their names and extents.

use std::{collections::BTreeMap, fmt};

use super::{file::WeightsFile, names::plain};
use crate::{
    Error, Result,
    models::{Backbone, DeepLabConfig, FeatureKind, Layout, RATES},
};

/// Our names, each with the file's.
pub(super) type Names = BTreeMap<String, String>;

/// Our names of a file's tensors, and those that are left out. Two names that come to the same are an error.
pub(super) fn names(file: &WeightsFile) -> Result<(Names, Vec<String>)> {
    let (mut names, mut left_out) = (Names::new(), Vec::new());
    for name in file.names() {
        let Some(ours) = plain(name) else {
            left_out.push(name.to_owned());
            continue;
        };
        if let Some(other) = names.insert(ours.clone(), name.to_owned()) {
            let advice = "save the state dict of one network alone";
            return Err(Error::data(file.path(), format!("{other} and {name} are both {ours}; {advice}")));
        }
    }
    Ok((names, left_out))
}

/// What could be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looks {
    pub backbone: Option<Backbone>,
    /// Inner channels of the first stage.
    pub width: Option<usize>,
    /// Channels of the first convolution.
    pub stem_width: Option<usize>,
    /// Classes of the head, where there is a whole one.
    pub classes: Option<usize>,
    /// Whether the target has a stem of its own.
    pub domain_stem: bool,
    /// A kind of names or network that this program does not have.
    foreign: Option<&'static str>,
}

/// Names that tell other networks.
const FOREIGN: [(&str, &str); 6] = [
    ("conv1.0.weight", "a ResNet with a deep stem of three convolutions, which this program does not have"),
    ("stem.0.weight", "a ResNet with a deep stem of three convolutions, which this program does not have"),
    ("stem.conv1.weight", "a network with Detectron2's names; rename them to torchvision's"),
    ("res2a_branch2a.weight", "a network with Caffe's names; rename them to torchvision's"),
    ("embedder.embedder.convolution.weight", "a network with Hugging Face's names; rename them to torchvision's"),
    ("patch_embed1.proj.weight", "a transformer"),
];

impl Looks {
    pub fn of(file: &WeightsFile, names: &Names) -> Self {
        let extent = |name: &str, axis: usize| file.shape(names.get(name)?)?.get(axis).copied();
        let mut blocks = [0; 4];
        for name in names.keys() {
            let mut parts = name.strip_prefix("layer").unwrap_or_default().split('.');
            let (stage, index) = (parts.next().and_then(|part| part.parse::<usize>().ok()), parts.next());
            let index = index.and_then(|part| part.parse::<usize>().ok()).filter(|index| *index < 1000);
            if let (Some(stage @ 1..=4), Some(index)) = (stage, index) {
                blocks[stage - 1] = blocks[stage - 1].max(index + 1);
            }
        }
        let bottlenecks = names.contains_key("layer1.0.conv3.weight");
        let fits = |backbone: &Backbone| backbone.blocks() == blocks && backbone.has_bottlenecks() == bottlenecks;
        let heads = (0..RATES.len()).map(|i| extent(&format!("classifier.convs.{i}.weight"), 0));
        let heads: Option<Vec<usize>> = heads.collect();
        Self {
            backbone: Backbone::ALL.into_iter().find(fits),
            width: extent("layer1.0.conv1.weight", 0),
            stem_width: extent("conv1.weight", 0),
            classes: heads.filter(|counts| counts.iter().all(|count| *count == counts[0])).map(|counts| counts[0]),
            domain_stem: names.contains_key("target.conv1.weight"),
            foreign: FOREIGN.iter().find(|(name, _)| names.contains_key(*name)).map(|(_, what)| *what),
        }
    }

    /// The network of a file that holds a whole one.
    pub fn model(&self, layout: Layout) -> Option<DeepLabConfig> {
        let (width, stem_width) = (self.width?, self.stem_width?);
        Some(DeepLabConfig {
            backbone: self.backbone?,
            layout,
            width,
            stem_width: (stem_width != width).then_some(stem_width),
            classes: self.classes?,
            feature: FeatureKind::Aspp,
            domain_stem: self.domain_stem,
            domain_statistics: false,
        })
    }

    /// The settings that fit the file.
    pub fn settings(&self) -> Option<String> {
        let (backbone, width, stem) = (self.backbone?, self.width?, self.stem_width?);
        let stem = if stem == width { String::new() } else { format!(" --set model.stem_width={stem}") };
        Some(format!("--set model.backbone={backbone} --set model.width={width}{stem}"))
    }
}

impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.foreign, self.backbone, self.width, self.stem_width) {
            (Some(foreign), ..) => f.write_str(foreign),
            (_, Some(backbone), Some(width), Some(stem)) if stem != width => {
                write!(f, "a {backbone} of width {width} with a stem of {stem}")
            }
            (_, Some(backbone), Some(width), _) => write!(f, "a {backbone} of width {width}"),
            _ => f.write_str("no whole ResNet"),
        }
    }
}
