//! A run: warm-up on the source, rounds of adaptation, an evaluation after each, and a folder that holds it all.
//!
//! ```text
//! runs/NAME/config.toml              the resolved configuration
//!           metrics.jsonl            a line per logged step and per evaluation
//!           checkpoint.safetensors   from which --resume continues bit for bit
//!           source-only.safetensors  the network after the warm-up, as a checkpoint
//!           adapted.safetensors      the network at the end, as a checkpoint
//!           labels/round-R/          static pseudo labels
//!           samples/STAGE/           predictions on target images
//! ```

mod checkpoint;
mod describe;
mod domains;
mod interrupt;
mod memory_check;
mod open;
mod precise_batch_norm;
mod schedule;
mod static_labels;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use checkpoint::{Checkpoint, Evaluation, Phase, Position};
use describe::describe;
use domains::Domains;
pub use interrupt::Interrupt;
pub use memory_check::expect_memory;
use open::initial_weights;
pub use open::open_network;
use precise_batch_norm::measure_statistics;
pub use schedule::Schedule;
use serde_json::json;
use static_labels::make_static_labels;

use super::{
    Architecture, Config, Network, PendingLosses, Scores, Stepper, evaluate,
    report::{Log, Progress, percent, step_line, write_atomically, write_samples},
    step::expect_finite,
    weights::Report,
};
use crate::{
    Device, Error, Result,
    data::{Dataset, Loader, LoaderOptions, TrainTransform},
    models::DeepLab,
};

/// Weights to start from, and where the run lives.
pub struct RunOptions {
    /// The run folder.
    pub out: PathBuf,
    /// Continue the run in the folder instead of starting one.
    pub resume: bool,
    /// A file of initial weights: docs/weights.md.
    pub init_weights: Option<PathBuf>,
    /// Take what fits of a file that fills less than the backbone.
    pub partial: bool,
    /// End after so many steps in all, as Ctrl-C would.
    pub max_steps: Option<u64>,
    /// Print nothing.
    pub quiet: bool,
    /// Set from outside to end the run.
    pub interrupt: Interrupt,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All stages are done: the evaluations in order, the first of which is `source only`. None of a target without labels.
    Done(Vec<(String, Scores)>),
    /// It was interrupted or reached its limit of steps, and can be resumed.
    Stopped {
        /// Steps done.
        steps: u64,
    },
}

/// Errors where a run folder holds a run already, which a new one would overwrite.
pub fn expect_no_run(out: &Path) -> Result<()> {
    match out.join("checkpoint.safetensors").exists() {
        true => Err(Error::data(out, "holds a run already; continue it with --resume or choose another --out")),
        false => Ok(()),
    }
}

/// Trains by `config` on `device`.
pub fn train(config: &Config, device: &Device, options: &RunOptions) -> Result<Outcome> {
    config.expect_runs_on(device)?;
    if let Some(cuda) = device.as_cuda() {
        expect_memory(config, Architecture::of(device), cuda.memory()?.0)?;
    }
    Run::open(config, device, options)?.execute()
}

struct Run<'a> {
    config: &'a Config,
    options: &'a RunOptions,
    network: Network,
    stepper: Stepper,
    position: Position,
    evaluations: Vec<Evaluation>,
    source: Arc<Dataset>,
    target: Arc<Dataset>,
    /// What is scored after each stage; none where the target has no labels.
    validation: Option<Arc<Dataset>>,
    log: Log,
}

/// A step under way: its number in the stage and in all, and what it will have cost.
struct Launched {
    done: u64,
    total: u64,
    rate: f64,
    losses: PendingLosses,
}

/// Whether a stage came to its end.
enum Stage {
    Complete,
    Stopped,
}

impl<'a> Run<'a> {
    fn open(config: &'a Config, device: &'a Device, options: &'a RunOptions) -> Result<Self> {
        config.expect_classes()?;
        let Domains { source, target, validation, said } = Domains::open(config)?;
        let mut network = Network::new(&config.model, config.precision, config.seed, device)?;
        let mut stepper = Stepper::new();
        let mut position = Position { phase: Phase::Warmup, step: 0, total: 0 };
        let mut evaluations = Vec::new();
        let mut log_lines = 0;
        let mut taken: Option<Report> = None;
        let checkpoint = options.out.join("checkpoint.safetensors");
        if options.resume {
            if !checkpoint.exists() {
                let advice =
                    "holds no checkpoint.safetensors: the run ended before its first; start it again with --out";
                return Err(Error::data(&options.out, advice));
            }
            let saved = Checkpoint::read(&checkpoint, &mut network.parameters, device)?;
            position = saved.position;
            evaluations = saved.evaluations;
            log_lines = saved.log_lines;
            stepper.restore(&network, saved.momentum, saved.calibration);
        } else {
            expect_no_run(&options.out)?;
            taken = initial_weights(&mut network, config, options.init_weights.as_deref(), options.partial)?;
            fs::create_dir_all(&options.out).map_err(|error| Error::io(&options.out, error))?;
            write_atomically(&options.out.join("config.toml"), config.to_toml()?.as_bytes())?;
        }
        let mut log = Log::open(&options.out.join("metrics.jsonl"), log_lines, options.quiet, device)?;
        if let Some(report) = taken {
            report.lines().iter().for_each(|line| log.say(line));
            log.record(&json!({ "step": 0, "init_weights": report }))?;
        }
        said.iter().for_each(|line| log.say(line));
        Ok(Self { config, options, network, stepper, position, evaluations, source, target, validation, log })
    }

    fn execute(mut self) -> Result<Outcome> {
        if !self.options.resume {
            self.save()?;
        }
        loop {
            let stage = match self.position.phase {
                Phase::Warmup => self.warmup()?,
                Phase::Round(round) if round < self.config.adapt.rounds => self.round(round)?,
                Phase::Round(_) => {
                    self.enter(Phase::Done);
                    // The checkpoint last: it says that the rest is there.
                    self.save_to("adapted.safetensors")?;
                    self.save()?;
                    continue;
                }
                Phase::Done => {
                    let named = self.evaluations.into_iter().map(|e| (e.name, e.scores));
                    return Ok(Outcome::Done(named.collect()));
                }
            };
            if matches!(stage, Stage::Stopped) {
                return Ok(Outcome::Stopped { steps: self.position.total });
            }
        }
    }

    fn warmup(&mut self) -> Result<Stage> {
        let warmup = &self.config.warmup;
        let transform = TrainTransform {
            short_side: (warmup.short_side > 0).then_some(warmup.short_side),
            scale: warmup.scale,
            crop: (warmup.crop[1], warmup.crop[0]),
            ..self.config.data.transform()
        };
        let mut loader = self.loader(&self.source, transform, warmup.batch, 0)?;
        let schedule = Schedule::new(&self.config.optimizer, warmup.learning_rate, warmup.steps);
        let images = warmup.batch;
        let read = || loader.next();
        let stage = self.steps("source only", warmup.steps, images, &schedule, read, |run, source, rate| {
            run.stepper.launch_warmup(&mut run.network, run.config, source, rate)
        })?;
        if matches!(stage, Stage::Stopped) {
            return Ok(Stage::Stopped);
        }
        // Initial weights have seen to it, and may have a target of their own.
        if warmup.steps > 0 {
            DeepLab::copy_source_to_target(&mut self.network.parameters)?;
        }
        let stage = self.evaluate("source only")?;
        if matches!(stage, Stage::Complete) {
            self.enter(Phase::Round(0));
            self.save_to("source-only.safetensors")?;
            self.save()?;
        }
        Ok(stage)
    }

    fn round(&mut self, round: u64) -> Result<Stage> {
        let folder = self.options.out.join(format!("labels/round-{round}"));
        if self.position.step == 0 {
            if self.must_stop() {
                return Ok(Stage::Stopped);
            }
            let share = make_static_labels(
                &self.network,
                &self.target,
                self.config,
                &folder,
                &self.log,
                &self.options.interrupt,
            )?;
            match share {
                Some(share) => {
                    self.log.say(&format!("round {round}: static labels on {:.1} % of target pixels", 100.0 * share));
                    let step = self.position.total;
                    self.log.record(&json!({ "step": step, "round": round, "static_label_share": share }))?;
                }
                None => return Ok(Stage::Stopped),
            }
        }
        let (adapt, data) = (&self.config.adapt, &self.config.data);
        let labelled = self.target.with_pseudo_labels(&folder)?;
        let stream = 2 * round;
        let mut source = self.loader(&self.source, data.transform(), data.batch, stream + 1)?;
        let mut target = self.loader(&Arc::new(labelled), data.transform(), data.batch, stream + 2)?;
        let base = adapt.learning_rate * adapt.round_decay.powi(round as i32);
        let schedule = Schedule::new(&self.config.optimizer, base, adapt.steps);
        let name = format!("round {round}");
        let read = || Ok((source.next()?, target.next()?));
        let stage =
            self.steps(&name, adapt.steps, 2 * data.batch, &schedule, read, |run, (source, target), rate| {
                run.stepper.launch_adapt(&mut run.network, run.config, source, target, rate)
            })?;
        if matches!(stage, Stage::Stopped) {
            return Ok(Stage::Stopped);
        }
        if self.config.batch_norm.precise {
            let (target, log, interrupt) = (&self.target, &self.log, &self.options.interrupt);
            if !measure_statistics(&mut self.network, target, self.config, log, interrupt)? {
                return Ok(Stage::Stopped);
            }
        }
        let stage = self.evaluate(&name)?;
        if matches!(stage, Stage::Complete) {
            self.enter(Phase::Round(round + 1));
            self.save()?;
        }
        Ok(stage)
    }

    /// Whether the user or the limit of steps ends the run here.
    fn must_stop(&self) -> bool {
        self.options.interrupt.is_set() || self.options.max_steps.is_some_and(|limit| self.position.total >= limit)
    }

    /// Runs the rest of a stage's steps, each on what `read` gives.
    fn steps<B>(
        &mut self,
        name: &str,
        length: u64,
        images: usize,
        schedule: &Schedule,
        mut read: impl FnMut() -> Result<B>,
        mut step: impl FnMut(&mut Self, B, f64) -> Result<PendingLosses>,
    ) -> Result<Stage> {
        let mut progress = self.log.progress(name, length, self.position.step);
        let mut launched: Option<Launched> = None;
        while self.position.step < length {
            if self.must_stop() {
                if let Some(last) = launched.take() {
                    self.settle(name, length, images, last, &mut progress)?;
                }
                progress.finish();
                self.save_inside()?;
                return Ok(Stage::Stopped);
            }
            let rate = schedule.rate(self.position.step);
            let batch = match read() {
                Ok(batch) => batch,
                Err(error) => {
                    if let Some(last) = launched.take() {
                        self.settle(name, length, images, last, &mut progress)?;
                    }
                    // A broken file must not cost the steps since the last checkpoint.
                    progress.finish();
                    self.save_inside()?;
                    let steps = self.position.total;
                    self.log.say(&format!("step {steps} is saved; --resume {} goes on", self.options.out.display()));
                    return Err(error);
                }
            };
            let losses = step(self, batch, rate)?;
            self.position.step += 1;
            self.position.total += 1;
            let now = Launched { done: self.position.step, total: self.position.total, rate, losses };
            let done = now.done;
            // The GPU works on this step while the last one's losses are looked at; elsewhere it is done.
            let ahead = self.network.parameters.device().is_cuda();
            if let Some(last) = launched.replace(now) {
                self.settle(name, length, images, last, &mut progress)?;
            }
            let save = done.is_multiple_of(self.config.log.checkpoint_every) && done < length;
            if (!ahead || save || done == length)
                && let Some(last) = launched.take()
            {
                self.settle(name, length, images, last, &mut progress)?;
            }
            if save {
                self.save()?;
            }
        }
        progress.finish();
        // What follows reads images: a broken one must not cost steps either.
        self.save_inside()?;
        Ok(Stage::Complete)
    }

    /// Waits for a step's losses, checks them and says them.
    fn settle(
        &mut self,
        name: &str,
        length: u64,
        images: usize,
        step: Launched,
        progress: &mut Progress,
    ) -> Result<()> {
        let Launched { done, total, rate, losses } = step;
        let losses = losses.wait()?;
        expect_finite(&losses, total, || {
            let path = self.options.out.join("checkpoint.safetensors");
            format!("{} holds the last good state; lower the learning rate", path.display())
        })?;
        if done.is_multiple_of(self.config.log.log_every) || done == length {
            self.log.record(&step_line(name, total, rate, &losses))?;
        }
        let speed = progress.rate(done) * images as f64;
        progress.set(done, |peak| describe(&losses, speed, peak));
        Ok(())
    }

    /// Scores the network, where there are labels, and writes pictures. An interruption leaves the run at the end of the
    /// stage's steps.
    fn evaluate(&mut self, name: &str) -> Result<Stage> {
        let data = &self.config.data;
        let folder = self.options.out.join("samples").join(name.replace(' ', "-"));
        let samples = |dataset: &Arc<Dataset>| {
            let (transform, count) = (data.eval_transform(), self.config.log.samples);
            write_samples(&self.network, dataset, transform, data.classes(), count, &folder)
        };
        let Some(validation) = &self.validation else {
            samples(&self.target)?;
            return Ok(Stage::Complete);
        };
        let mut progress = self.log.progress("evaluation", validation.len() as u64, 0);
        let counted = evaluate(
            &self.network,
            validation,
            data.eval_transform(),
            data.threads,
            self.config.model.classes,
            |image| {
                progress.set(image.done as u64, str::to_owned);
                if self.options.interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        )?;
        progress.finish();
        let Some(confusion) = counted else { return Ok(Stage::Stopped) };
        let scores = confusion.scores(data.classes());
        let (miou, accuracy) = (percent(scores.miou), percent(scores.pixel_accuracy));
        self.log.say(&format!("{name}: target mIoU {miou} %, pixel accuracy {accuracy} %"));
        self.log.record(&json!({ "step": self.position.total, "evaluation": name, "scores": scores }))?;
        samples(validation)?;
        self.evaluations.push(Evaluation { name: name.into(), scores });
        Ok(Stage::Complete)
    }

    /// Goes to the beginning of a stage.
    fn enter(&mut self, phase: Phase) {
        self.position = Position { phase, step: 0, total: self.position.total };
        self.stepper.reset_momentum();
    }

    /// Saves inside a stage: at its beginning the checkpoint is that of the last stage's end.
    fn save_inside(&self) -> Result<()> {
        if self.position.step > 0 { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<()> {
        self.save_to("checkpoint.safetensors")
    }

    fn save_to(&self, file: &str) -> Result<()> {
        let checkpoint = Checkpoint {
            position: self.position,
            evaluations: self.evaluations.clone(),
            log_lines: self.log.lines(),
            momentum: self.stepper.momentum_by_name(&self.network),
            calibration: self.stepper.calibration().cloned(),
            config: self.config.to_toml()?,
        };
        checkpoint.write(&self.options.out.join(file), &self.network.parameters)
    }

    /// Stream `stream` of the run's seed, from the stage's current step on.
    fn loader(&self, dataset: &Arc<Dataset>, transform: TrainTransform, batch: usize, stream: u64) -> Result<Loader> {
        let data = &self.config.data;
        let options = LoaderOptions {
            batch,
            seed: self.config.seed.wrapping_mul(1_000_003).wrapping_add(stream),
            threads: data.threads,
            prefetch: 4,
            position: self.position.step,
            cache_bytes: data.cache_mib << 20,
        };
        Loader::new(dataset.clone(), transform, options)
    }
}
