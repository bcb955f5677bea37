//! Differentiable operations. Each folder holds one: `mod.rs` (what it computes, its shapes, its checks, its tape
//! closure), `cpu.rs` (Rust), `cuda.rs` (the launch of its kernels, for GPUs and the emulator). `epilogue`, `cosine` and
//! `partial_sums` hold what several of them share. No two operations import from each other, directly or through others.
//!
//! A page that begins with "Reference" is of an operation that no step on a GPU launches: it says in the plainest way what a
//! fused one computes, the CPU composes that of it, and tests hold the one against the other.

#[macro_use]
mod dispatch;

pub mod add;
pub mod align_labels;
pub mod argmax;
pub mod aspp;
pub mod batch_norm;
pub mod calibration;
pub mod cast;
mod composition;
pub mod concat_channels;
pub mod contrastive_loss;
pub mod conv2d;
pub mod conv2d_batch_norm;
mod cosine;
pub mod cross_entropy;
mod domain_pair;
pub mod entropy;
mod epilogue;
mod found_inf;
mod label_sampling;
pub mod masked_average_pool;
pub mod max_pool2d;
mod partial_sums;
pub mod pixel_prototype_similarity;
pub mod predict;
pub mod reduce;
pub mod relu;
pub mod resize_labels;
pub mod running_averages;
pub mod scale;
pub mod segmentation_loss;
pub mod sgd;
pub mod split_images;
pub mod sum_channel_groups;
pub mod transfer_labels;
pub mod upsample_bilinear;
pub mod weighted_sum;

pub use add::{add, add_relu};
pub use align_labels::align_labels;
pub use argmax::argmax;
pub use aspp::{AsppBranch, aspp};
pub use batch_norm::{BatchNormMode, BatchNormOutput, BatchNormSpec, batch_norm, batch_norm_with};
pub use calibration::{DomainPrototypes, calibrate, update_calibration};
pub use cast::cast;
pub use concat_channels::concat_channels;
pub use contrastive_loss::{Contrast, ContrastSpec, bidirectional_contrast, contrastive_loss};
pub use conv2d::{Conv2dSpec, conv2d, conv2d_with_moments};
pub use conv2d_batch_norm::conv2d_batch_norm;
pub use cross_entropy::cross_entropy;
pub use domain_pair::DomainPair;
pub use entropy::entropy;
pub use epilogue::BatchNormPartialStats;
pub use label_sampling::LabelSampling;
pub use masked_average_pool::{
    PrototypeScope, Prototypes, class_overlap, masked_average_pool, masked_average_pool_scoped,
};
pub use max_pool2d::{MaxPool2dSpec, max_pool2d};
pub use pixel_prototype_similarity::pixel_prototype_similarity;
pub use predict::{PredictSpec, Prediction, predict};
pub use reduce::{mean, sum};
pub use relu::relu;
pub use resize_labels::resize_labels_nearest;
pub use running_averages::{AverageItem, move_running_averages};
pub use scale::scale;
pub use segmentation_loss::{
    SegmentationLoss, SegmentationLosses, SegmentationWeights, segmentation_loss, segmentation_losses,
};
pub use sgd::{SgdItem, SgdSpec, sgd_step};
pub use split_images::split_images;
pub use sum_channel_groups::sum_channel_groups;
pub use transfer_labels::{hybrid_labels, transfer_labels};
pub use upsample_bilinear::upsample_bilinear;
pub use weighted_sum::weighted_sum;

use crate::tensor::Declaration;

include!(concat!(env!("OUT_DIR"), "/declarations.rs"));

/// Every kernel that operations and tensors declare, with the sizes of its parameters.
pub fn kernel_declarations() -> Vec<Declaration> {
    let mut all = crate::tensor::tensor_declarations();
    all.extend(declarations_of_ops());
    all
}
