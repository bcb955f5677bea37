//! What a run says: a progress bar on a terminal, plain lines elsewhere, and metrics.jsonl in the run folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{atomic::write_atomically, memory};
use crate::{Device, Error, Result};

/// A plain line at least this often when there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The run's voice.
pub(in crate::train) struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
    quiet: bool,
    device: Device,
}

impl Log {
    /// Opens metrics.jsonl, dropping what follows the first `lines` lines: a killed run may have logged steps that its
    /// checkpoint does not hold, and will do them again. Progress shows the memory used on `device`.
    pub fn open(path: &Path, lines: usize, quiet: bool, device: &Device) -> Result<Self> {
        let failed = |error| Error::io(path, error);
        if path.exists() {
            let old = fs::read_to_string(path).map_err(failed)?;
            let kept: String = old.split_inclusive('\n').take(lines).collect();
            if kept != old {
                write_atomically(path, kept.as_bytes())?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, lines, quiet, device: device.clone() })
    }

    /// One line of metrics.jsonl.
    pub fn record(&mut self, value: &Value) -> Result<()> {
        self.lines += 1;
        // One write a line: a kill leaves whole lines.
        self.file.write_all(format!("{value}\n").as_bytes()).map_err(|error| Error::io(&self.path, error))
    }

    /// Lines so far, for a checkpoint.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// A line for the reader.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            // A closed pipe is no reason to stop training.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// Progress through `length` units of which `done` are done already.
    pub fn progress(&self, name: &str, length: u64, done: u64) -> Progress {
        let terminal = std::io::stderr().is_terminal() && !self.quiet;
        let bar = ProgressBar::with_draw_target(
            Some(length),
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{prefix:13} {bar:6} {pos:>6}/{len} eta {eta:>4} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        let now = Instant::now();
        Progress {
            bar,
            name: name.to_owned(),
            device: self.device.clone(),
            plain: !terminal && !self.quiet,
            first: done,
            start: now,
            last: now,
        }
    }
}

/// Progress through a stage.
pub(in crate::train) struct Progress {
    bar: ProgressBar,
    name: String,
    device: Device,
    plain: bool,
    first: u64,
    start: Instant,
    last: Instant,
}

impl Progress {
    /// `done` units of the whole are done; `message` gets the peak of memory to show.
    pub fn set(&mut self, done: u64, message: impl FnOnce(&str) -> String) {
        self.bar.set_position(done);
        let length = self.bar.length().unwrap_or(done);
        if !self.plain {
            if self.last.elapsed() > Duration::from_millis(100) || done == length {
                self.bar.set_message(message(&self.peak()));
                self.last = Instant::now();
            }
            return;
        }
        if self.last.elapsed() < LINE_EVERY && done != length {
            return;
        }
        self.last = Instant::now();
        let rate = (done - self.first) as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let eta = (length.saturating_sub(done)) as f64 / rate.max(1e-9);
        let _ = writeln!(
            std::io::stdout(),
            "{:<14} {done:>6}/{length} eta {:>4}  {}",
            self.name,
            format_seconds(eta),
            message(&self.peak())
        );
    }

    /// The most memory used so far, where it is known.
    fn peak(&self) -> String {
        memory::peak(&self.device).map_or_else(String::new, |bytes| format!("peak {}", memory::format(bytes)))
    }

    /// Units a second since the start.
    pub fn rate(&self, done: u64) -> f64 {
        done.saturating_sub(self.first) as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn format_seconds(seconds: f64) -> String {
    let seconds = seconds.min(359_999.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
    }
}

/// A line of metrics.jsonl for a training step.
pub(in crate::train) fn step_line(stage: &str, step: u64, rate: f64, parts: &[(&'static str, f64)]) -> Value {
    let mut line = json!({ "step": step, "stage": stage, "learning_rate": rate });
    for (name, value) in parts {
        line[*name] = json!(value);
    }
    line
}
