//! Training: configuration, schedule, the loop with its rounds, checkpoints, evaluation, the run folder.

mod checkpoint;
mod config;
mod evaluate;
mod inputs;
mod interrupt;
mod labels;
mod log;
mod losses;
mod memory;
mod memory_check;
mod metrics;
mod network;
mod plan;
mod presets;
mod run;
mod samples;
mod schedule;
mod statistics;
mod step;
mod stepper;
mod table;
pub mod weights;

pub use checkpoint::{Checkpoint, Evaluation, Phase, Position};
pub use config::{
    AdaptConfig, BatchNormConfig, Config, DataConfig, LogConfig, OptimizerConfig, Statistics, WarmupConfig,
};
pub use evaluate::{evaluate, predict_image};
pub use interrupt::Interrupt;
pub use losses::PendingLosses;
pub use memory_check::expect_memory;
pub use metrics::{Confusion, Scores};
pub use network::Network;
pub use plan::{Architecture, StepPlan, plan_step};
pub use presets::Preset;
pub use run::{Outcome, RunOptions, expect_no_run, train};
pub use samples::colorize;
pub use schedule::Schedule;
pub use stepper::Stepper;
pub use table::{scores_table, side_by_side};
