//! Networks: ResNet as a dilated feature extractor, DeepLab-V2 on top of it.

mod backbone;
mod deeplab;
mod resnet;

pub use backbone::{Backbone, Layout, StagePlan};
pub use deeplab::{DeepLab, DeepLabConfig, FeatureKind, Output, RATES};
pub use resnet::{ResNet, Shape, Stem};
