//! The integration tests, in one binary: a binary for each file would link the library and the emulator's kernels each time.
//!
//!     cargo test --test it conv2d_mma     the tests of one file
//!     cargo test --test it kernels::      those that the GPU bundle runs

mod common;

mod abi;
mod bench_rows;
mod citations;
mod cli;
mod cli_data;
mod cli_doctor;
mod cli_files;
mod data_hostile;
mod data_layouts;
mod data_loader;
mod data_resize;
mod data_sets;
mod doctor;
mod golden;
mod interrupt;
mod layers;
mod miniature;
mod plan;
mod rehearsal;
mod resume;
mod scores;
mod suite;
mod tools;
mod training_golden;
mod weights;
mod weights_hostile;
mod words;

/// What runs on every device with kernels. These, and no others, also run on hosts with a GPU that lack the repository.
mod kernels {
    mod align_labels;
    mod argmax;
    mod aspp;
    mod aspp_taps;
    mod autograd;
    mod autotune;
    mod batch_norm;
    mod bidirectional_contrast;
    mod calibration;
    mod contrastive_loss;
    mod conv2d;
    mod conv2d_batch_norm;
    mod conv2d_mma;
    mod conv2d_moments;
    mod conv2d_norm_sums;
    mod conv2d_wgmma;
    mod cross_entropy;
    mod elementwise;
    mod entropy;
    mod graph;
    mod graph_step;
    mod layouts;
    mod masked_average_pool;
    mod max_pool2d;
    mod network_layouts;
    mod pairs;
    mod predict;
    mod relu;
    mod segmentation_loss;
    mod sgd;
    mod similarity;
    mod split_images;
    mod tensor;
    mod transfer_labels;
    mod upsample_bilinear;
}
