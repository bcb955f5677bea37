//! What comes out of a run: scores, tables, pictures, progress and the log.

mod atomic;
mod confusion;
mod ensemble;
mod evaluate;
mod log;
mod memory;
mod metrics;
mod samples;
mod table;

pub(super) use atomic::{write_atomically, write_streamed};
pub use confusion::Confusion;
pub use ensemble::{Looks, predict_looks};
pub use evaluate::{Scored, evaluate, evaluate_looks, predict_image};
pub(super) use log::{Log, Progress, step_line};
pub(super) use memory::format as format_bytes;
pub use metrics::{Scores, gain, percent};
pub use samples::colorize;
pub(super) use samples::write as write_samples;
pub use table::{scores_table, side_by_side};
