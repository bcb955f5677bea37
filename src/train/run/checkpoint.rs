//! Checkpoints: one safetensors file with the model, the momentum, the calibration and the place in the run, from
//! which a run continues bit for bit.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    Device, Error, Result, Tensor,
    nn::Parameters,
    train::{
        Config, Network, Scores,
        weights::{CHECKPOINT_KEY, WeightsFile, with_values, write_tensors},
    },
};

/// Marks our files and their version.
const FORMAT: &str = "bicl-checkpoint-1";

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Source only.
    Warmup,
    /// Adaptation round, from 0.
    Round(u64),
    /// Nothing is left to do.
    Done,
}

/// The place in a run. The loaders' random streams are functions of the seed, the phase and the batches drawn, so this
/// is all there is to know about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The stage.
    pub phase: Phase,
    /// Steps done in it: also the batches that each of its loaders has given.
    pub step: u64,
    /// Steps done in the run.
    pub total: u64,
}

/// An evaluation that a run has made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `source only`, `round 0`, ...
    pub name: String,
    /// What came out.
    pub scores: Scores,
}

/// What a run needs to go on.
pub struct Checkpoint {
    /// The place.
    pub position: Position,
    /// Evaluations so far.
    pub evaluations: Vec<Evaluation>,
    /// Lines of the log that belong to the run up to here.
    pub log_lines: usize,
    /// Momentum by parameter name.
    pub momentum: HashMap<String, Tensor>,
    /// xi `[C,d]`; none before the first adaptation step.
    pub calibration: Option<Tensor>,
    /// The configuration as TOML.
    pub config: String,
}

/// The text of a checkpoint. It is one entry, since safetensors writes several in no fixed order, and equal runs shall
/// give equal files.
#[derive(Serialize, Deserialize)]
struct About {
    format: String,
    position: Position,
    evaluations: Vec<Evaluation>,
    log_lines: usize,
    config: String,
}

impl Checkpoint {
    /// A checkpoint of weights alone, with nothing left to train.
    pub fn of_weights(config: &Config) -> Result<Self> {
        Ok(Self {
            position: Position { phase: Phase::Done, step: 0, total: 0 },
            evaluations: Vec::new(),
            log_lines: 0,
            momentum: HashMap::new(),
            calibration: None,
            config: config.to_toml()?,
        })
    }

    /// Writes the checkpoint of `parameters` at this place. Numbers that are not finite are an error and leave the old
    /// file: nothing can go on from them.
    pub fn write(&self, path: &Path, parameters: &Parameters) -> Result<()> {
        let mut tensors: Vec<(String, Tensor)> =
            parameters.iter().map(|(name, tensor)| (format!("model.{name}"), tensor.clone())).collect();
        let mut momentum: Vec<_> = self.momentum.iter().collect();
        momentum.sort_by_key(|(name, _)| *name);
        tensors.extend(momentum.into_iter().map(|(name, tensor)| (format!("momentum.{name}"), tensor.clone())));
        tensors.extend(self.calibration.iter().map(|xi| ("calibration".to_owned(), xi.clone())));
        for (name, tensor) in &tensors {
            let odd = with_values(tensor, |values| values.iter().find(|value| !value.is_finite()).copied())?;
            if let Some(value) = odd {
                let step = self.position.total;
                let advice = "the file is not written, an older one is intact; lower the learning rate";
                return Err(Error::data(path, format!("{name} holds {value} after step {step}: {advice}")));
            }
        }
        let about = About {
            format: FORMAT.to_owned(),
            position: self.position,
            evaluations: self.evaluations.clone(),
            log_lines: self.log_lines,
            config: self.config.clone(),
        };
        let about = serde_json::to_string(&about).map_err(|error| Error::Internal(format!("checkpoint: {error}")))?;
        write_tensors(path, &tensors, &BTreeMap::from([(CHECKPOINT_KEY.to_owned(), about)]))
    }

    /// Reads a checkpoint into `parameters`, which must be those of its configuration.
    pub fn read(path: &Path, parameters: &mut Parameters, device: &Device) -> Result<Self> {
        let mut file = WeightsFile::open(path)?;
        let about = About::of(path, file.text(CHECKPOINT_KEY))?;
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let mut load = |name: &str| -> Result<Tensor> { file.tensor(name, device) };
        for id in parameters.ids() {
            let name = parameters.name(id).to_owned();
            let value = load(&format!("model.{name}"))?;
            let (have, want) = (value.shape(), parameters.get(id).shape());
            if have != want {
                let message = format!(
                    "{name} has extents {have:?}, the network wants {want:?}; check model.* in the configuration"
                );
                return Err(Error::data(path, message));
            }
            parameters.set(id, value).map_err(|error| Error::data(path, error.to_string()))?;
        }
        let has_calibration = names.iter().any(|name| name == "calibration");
        let mut momentum = HashMap::new();
        for name in names {
            let Some(parameter) = name.strip_prefix("momentum.") else { continue };
            let value = load(&name)?;
            if parameters.find(parameter).is_none_or(|id| parameters.get(id).shape() != value.shape()) {
                let message = format!("{name} fits no parameter: it was made with another network; check the model");
                return Err(Error::data(path, message));
            }
            momentum.insert(parameter.to_owned(), value);
        }
        let calibration = if has_calibration { Some(load("calibration")?) } else { None };
        let About { position, evaluations, log_lines, config, .. } = about;
        Ok(Self { position, evaluations, log_lines, config, momentum, calibration })
    }

    /// The configuration inside a checkpoint, to build the network before reading the rest.
    pub fn read_config(path: &Path) -> Result<String> {
        Ok(About::of(path, WeightsFile::open(path)?.text(CHECKPOINT_KEY))?.config)
    }
}

impl Network {
    /// The network of a checkpoint, with the configuration it was trained by.
    pub fn open(path: &Path, device: &Device) -> Result<(Self, Config)> {
        let config = Config::parse(path, &Checkpoint::read_config(path)?)?;
        let mut network = Self::new(&config.model, config.precision, config.seed, device)?;
        Checkpoint::read(path, &mut network.parameters, device)?;
        Ok((network, config))
    }
}

impl About {
    fn of(path: &Path, about: Option<&str>) -> Result<Self> {
        let foreign = "holds weights but is no checkpoint of this program; read it with --init-weights";
        let about = about.ok_or_else(|| Error::data(path, foreign))?;
        let damaged = |error| Error::data(path, format!("a damaged entry ({error}); use another checkpoint"));
        let about: Self = serde_json::from_str(about).map_err(damaged)?;
        if about.format != FORMAT {
            return Err(Error::data(path, format!("has format {}, this program reads {FORMAT}", about.format)));
        }
        Ok(about)
    }
}
