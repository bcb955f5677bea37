//! Training, in folders that import only from those before them: `config` (every number that decides a run), `step` (the
//! network and one training step), `report` (scores, pictures, what a run says), `weights` (from and to other programs), `run` (stages, rounds, checkpoints).

mod config;
mod report;
mod run;
mod step;
pub mod weights;

pub use config::{AdaptConfig, BatchNormConfig, Config, DataConfig, LogConfig, OptimizerConfig, Preset, WarmupConfig};
pub use report::{
    Confusion, Looks, Scored, Scores, colorize, evaluate, evaluate_looks, gain, percent, predict_image, predict_looks,
    scores_table, side_by_side,
};
pub use run::{
    Checkpoint, Evaluation, Interrupt, Outcome, Phase, Position, RunOptions, Schedule, expect_memory, expect_no_run,
    open_network, train,
};
pub use step::{Architecture, Network, PendingLosses, StepPlan, Stepper, plan_step};
