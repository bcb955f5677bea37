//! The method: bi-directional pixel-prototype contrastive learning with dynamic pseudo labels (docs/method.md).

mod config;
mod losses;
mod pseudo_labels;

pub use config::MethodConfig;
pub use losses::{AdaptationStep, LossParts, PairOutput, adaptation_step, source_loss};
pub use pseudo_labels::{ConfidenceSample, Selection};

pub use crate::ops::{LabelSampling, PrototypeScope};
