//! The configuration: every number that decides a run. TOML, one table per part; unknown keys are errors.
//!
//! It is built in layers (`layers.rs`): preset (`presets.rs`), then the file, then `--set key=value`. The result is written
//! into the run folder.

mod layers;
mod presets;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Device, Error, Result,
    adapt::MethodConfig,
    data::{ClassList, Description, EvalSize, EvalTransform, Jitter, Normalize, TrainTransform},
    models::DeepLabConfig,
    nn::{Normalization, Precision},
};

pub use presets::Preset;

/// Everything that decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Initial weights, order of the data, crops: the same seed gives the same bits.
    pub seed: u64,
    /// Precision of activations and filters.
    pub precision: Precision,
    /// The network.
    pub model: DeepLabConfig,
    /// Batch norm.
    pub batch_norm: BatchNormConfig,
    /// Data sets and transforms.
    pub data: DataConfig,
    /// Momentum, decay, schedule.
    pub optimizer: OptimizerConfig,
    /// The source-only stage.
    pub warmup: WarmupConfig,
    /// The rounds of adaptation.
    pub adapt: AdaptConfig,
    /// The method's switches and weights.
    pub method: MethodConfig,
    /// Checkpoints, evaluation, pictures.
    pub log: LogConfig,
}

/// Batch norm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNormConfig {
    /// With which statistics batch norms normalise while training. docs/method.md, "Optimisation".
    pub statistics: Normalization,
    /// Whether scale and shift are trained.
    pub trainable: bool,
    /// Whether each round ends by measuring the running statistics anew, over the target's training images as
    /// evaluation sees them ("precise" batch norm: Wu and Johnson, 2021).
    pub precise: bool,
}

/// Data sets and transforms. docs/method.md, "Data".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The labelled data set: a built-in one's name, or a description.
    pub source: Description,
    /// The unlabelled one.
    pub target: Description,
    /// Folder of the source, as its download unpacks.
    pub source_root: PathBuf,
    /// Folder of the target.
    pub target_root: PathBuf,
    /// Images of each domain a step.
    pub batch: usize,
    /// Height and width of a training crop in pixels.
    pub crop: [usize; 2],
    /// Length of the shorter side after resizing; 0 keeps the images' size.
    pub short_side: usize,
    /// Range of the random scale.
    pub scale: [f64; 2],
    /// Probability of a horizontal mirror.
    pub mirror: f64,
    /// The network's input convention.
    pub normalize: Normalize,
    /// Photometric jitter, where the table is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Jitter>,
    /// Length of the shorter side in evaluation, predictions and pseudo labels; 0 keeps the images' size.
    pub eval_short_side: usize,
    /// Threads that prepare batches, for each domain.
    pub threads: usize,
    /// Memory for decoded images in MiB, for each domain.
    pub cache_mib: usize,
    /// Share of pairs of images and labels that may be left out because they cannot be used; at 0 the first one is an
    /// error. Above 0 every file is read once before the first step.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip_bad: f64,
    /// The classes, where they are not the source's: those of a file of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_list: Option<ClassList>,
}

impl DataConfig {
    /// The classes that the network tells apart.
    pub fn classes(&self) -> &ClassList {
        self.class_list.as_ref().unwrap_or(self.source.classes())
    }

    /// The random transform of training images.
    pub fn transform(&self) -> TrainTransform {
        TrainTransform {
            short_side: (self.short_side > 0).then_some(self.short_side),
            scale: self.scale,
            crop: (self.crop[1], self.crop[0]),
            mirror: self.mirror,
            jitter: self.jitter,
            normalize: self.normalize,
        }
    }

    /// The transform of whole images.
    pub fn eval_transform(&self) -> EvalTransform {
        let size =
            if self.eval_short_side == 0 { EvalSize::Original } else { EvalSize::ShortSide(self.eval_short_side) };
        EvalTransform { size, normalize: self.normalize }
    }
}

/// SGD and its schedule. docs/method.md, "Optimisation".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Learning rate of the head over the backbone's.
    pub head_multiplier: f64,
    /// Exponent of the polynomial decay.
    pub power: f64,
    /// Length of the decay over the length of the stage: the rate does not reach 0 at 1.2.
    pub horizon: f64,
}

/// The source-only stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmupConfig {
    /// Steps; 0 starts from the initial weights.
    pub steps: u64,
    /// Base learning rate.
    pub learning_rate: f64,
    /// Images a step.
    pub batch: usize,
    /// Height and width of a crop in pixels.
    pub crop: [usize; 2],
    /// Length of the shorter side after resizing; 0 keeps the images' size.
    pub short_side: usize,
    /// Range of the random scale.
    pub scale: [f64; 2],
}

/// The rounds of adaptation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptConfig {
    /// Rounds; each begins with new static labels.
    pub rounds: u64,
    /// Steps of a round (epochs times steps in the published code's terms).
    pub steps: u64,
    /// Base learning rate of the first round.
    pub learning_rate: f64,
    /// Factor on the base rate after each round.
    pub round_decay: f64,
}

/// Checkpoints, evaluation, pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between checkpoints (there is one at the end of each stage too).
    pub checkpoint_every: u64,
    /// Steps between the lines of metrics.jsonl.
    pub log_every: u64,
    /// Target images whose predictions are written as pictures after each stage.
    pub samples: usize,
}

impl Config {
    /// Errors where the network tells fewer classes apart than the data have, or the domains have different ones.
    pub fn expect_classes(&self) -> Result<()> {
        let (source, target, outputs) = (&self.data.source, &self.data.target, self.model.classes);
        let count = self.data.classes().len();
        if outputs < count {
            return Err(Error::Config(format!(
                "model.classes is {outputs}, the classes of {} are {count}; leave the setting out, or describe the data set with \
                 fewer classes (trainer datasets show {})",
                source.title(),
                source.name()
            )));
        }
        expect_same_classes(source, target)
    }

    /// Errors where training asks for what `device` cannot compute.
    pub fn expect_runs_on(&self, device: &Device) -> Result<()> {
        match self.precision == Precision::Tf32 && device.is_cpu() {
            true => Err(Error::Config("precision tf32 needs a GPU's tensor cores; use fp32 or --device cuda".into())),
            false => Ok(()),
        }
    }

    /// Keys and types, without the ranges: several layers may be needed to get those right.
    fn read_table(table: toml::Table) -> Result<Self, String> {
        table.try_into().map_err(|error: toml::de::Error| one_line(&error.to_string()))
    }

    /// The configuration that a run folder holds.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?)
    }

    /// The configuration in `text`, which comes from the file `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let table = text.parse().map_err(|error: toml::de::Error| Error::data(path, one_line(&error.to_string())))?;
        Self::from_table(table).map_err(|error| match error {
            Error::Config(message) => Error::data(path, message),
            error => error,
        })
    }

    fn from_table(table: toml::Table) -> Result<Self> {
        let config = Self::read_table(table).map_err(Error::Config)?;
        config.validate()?;
        Ok(config)
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Internal(format!("config: {error}")))
    }

    pub(in crate::train) fn validate(&self) -> Result<()> {
        let check = |ok: bool, key: &str, want: &str| match ok {
            true => Ok(()),
            false => Err(Error::Config(format!("{key} must be {want}"))),
        };
        let method = &self.method;
        check((1..=255).contains(&self.model.classes), "model.classes", "between 1 and 255")?;
        check((1..=1024).contains(&self.model.width), "model.width", "between 1 and 1024")?;
        let stem = self.model.shape().stem_width;
        check((1..=1024).contains(&stem), "model.stem_width", "between 1 and 1024")?;
        // The upper bounds are far above any sense: beyond them, sizes in bytes overflow before memory runs out.
        let data = &self.data;
        let batches = [data.batch, self.warmup.batch];
        check(batches.iter().all(|n| (1..=4096).contains(n)), "data.batch and warmup.batch", "between 1 and 4096")?;
        let crops = data.crop.iter().chain(&self.warmup.crop);
        check(crops.copied().all(|side| (8..=16384).contains(&side)), "crop", "between 8 x 8 and 16384 x 16384")?;
        let sides = [data.short_side, self.warmup.short_side, data.eval_short_side];
        check(sides.iter().all(|&side| side <= 16384), "short_side and eval_short_side", "at most 16384")?;
        check((0.0..1.0).contains(&data.skip_bad), "data.skip_bad", "at least 0 and below 1")?;
        check(data.threads <= 1024, "data.threads", "at most 1024")?;
        check(data.cache_mib <= 1 << 24, "data.cache_mib", "at most 16777216 (16 TiB)")?;
        let norm = &self.batch_norm;
        let of_batches = norm.statistics == Normalization::Batch || !norm.precise;
        check(of_batches, "batch_norm.precise", "false where batch_norm.statistics is \"frozen\"")?;
        check(method.temperature > 0.0, "method.temperature", "above 0")?;
        check((0.0..1.0).contains(&method.cb_prop), "method.cb_prop", "at least 0 and below 1")?;
        check((0.0..=1.0).contains(&method.calibration_momentum), "method.calibration_momentum", "between 0 and 1")?;
        check((0.0..=1.0).contains(&method.transfer_threshold), "method.transfer_threshold", "between 0 and 1")?;
        check(self.optimizer.horizon >= 1.0, "optimizer.horizon", "at least 1")?;
        check((0.0..1.0).contains(&self.optimizer.momentum), "optimizer.momentum", "at least 0 and below 1")?;
        let rates = [self.warmup.learning_rate, self.adapt.learning_rate, self.optimizer.weight_decay];
        check(rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0), "learning rates and decay", "finite")?;
        check(self.log.checkpoint_every > 0 && self.log.log_every > 0, "log.*_every", "at least 1")
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// Errors where labels of both domains mean different classes.
fn expect_same_classes(source: &Description, target: &Description) -> Result<()> {
    let names = |set: &Description| set.classes().iter().map(|class| class.name.clone()).collect::<Vec<_>>();
    let (ours, theirs) = (names(source), names(target));
    if target.labels().is_none() || ours == theirs {
        return Ok(());
    }
    let differ = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    let what = differ.map_or_else(
        || format!("{} and {} classes", ours.len(), theirs.len()),
        |at| format!("class {at} is {:?} in one and {:?} in the other", ours[at], theirs[at]),
    );
    Err(Error::Config(format!(
        "{} and {} have different classes: {what}; describe the target with the source's (trainer datasets show {})",
        source.title(),
        target.title(),
        target.name()
    )))
}

/// The parser's own message spans lines with a picture of the place; ours is one line.
fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "|").collect();
    let is_picture = |line: &&&str| !line.contains('|') && !line.starts_with('^');
    lines.iter().filter(is_picture).copied().collect::<Vec<_>>().join("; ")
}
