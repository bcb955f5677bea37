//! Every test of the kernels in one binary: tools/gpu-bundle.sh takes it to hosts with a GPU, where a binary for each
//! operation would carry all kernels each time. `gpu relu::` runs one operation's; gpu-bundle.sh refuses a list that
//! misses a file.

#![allow(clippy::duplicate_mod)] // Each file brings its own `common`.

#[path = "align_labels.rs"]
mod align_labels;
#[path = "argmax.rs"]
mod argmax;
#[path = "aspp.rs"]
mod aspp;
#[path = "aspp_taps.rs"]
mod aspp_taps;
#[path = "autograd.rs"]
mod autograd;
#[path = "autotune.rs"]
mod autotune;
#[path = "batch_norm.rs"]
mod batch_norm;
#[path = "bidirectional_contrast.rs"]
mod bidirectional_contrast;
#[path = "calibration.rs"]
mod calibration;
#[path = "contrastive_loss.rs"]
mod contrastive_loss;
#[path = "conv2d.rs"]
mod conv2d;
#[path = "conv2d_batch_norm.rs"]
mod conv2d_batch_norm;
#[path = "conv2d_mma.rs"]
mod conv2d_mma;
#[path = "conv2d_moments.rs"]
mod conv2d_moments;
#[path = "conv2d_norm_sums.rs"]
mod conv2d_norm_sums;
#[path = "conv2d_wgmma.rs"]
mod conv2d_wgmma;
#[path = "cross_entropy.rs"]
mod cross_entropy;
#[path = "elementwise.rs"]
mod elementwise;
#[path = "entropy.rs"]
mod entropy;
#[path = "graph.rs"]
mod graph;
#[path = "graph_step.rs"]
mod graph_step;
#[path = "layouts.rs"]
mod layouts;
#[path = "masked_average_pool.rs"]
mod masked_average_pool;
#[path = "max_pool2d.rs"]
mod max_pool2d;
#[path = "pairs.rs"]
mod pairs;
#[path = "predict.rs"]
mod predict;
#[path = "relu.rs"]
mod relu;
#[path = "segmentation_loss.rs"]
mod segmentation_loss;
#[path = "sgd.rs"]
mod sgd;
#[path = "similarity.rs"]
mod similarity;
#[path = "split_images.rs"]
mod split_images;
#[path = "tensor.rs"]
mod tensor;
#[path = "transfer_labels.rs"]
mod transfer_labels;
#[path = "upsample_bilinear.rs"]
mod upsample_bilinear;
