//! Networks: ResNet as a dilated feature extractor, DeepLab-V2 on top of it.

mod deeplab;
mod resnet;

pub use deeplab::{DeepLab, DeepLabConfig, FeatureKind, Output};
pub use resnet::{Backbone, ResNet, Shape, Stem};
