//! What a step of adaptation costs on a GPU, counted by running it on a device that computes nothing.

use std::str::FromStr;

use super::{Network, Stepper};
use crate::{Device, Error, Result, data::Batch, device::PlanCounts, train::Config};

/// One step of adaptation in launches, bytes and memory.
#[derive(Clone, Debug)]
pub struct StepPlan {
    /// Launches and copies.
    pub counts: PlanCounts,
    /// The most memory in use at one time, in bytes: parameters, momentum, activations, workspaces.
    pub peak_bytes: usize,
    /// Numbers that are trained or measured.
    pub parameters: usize,
}

impl StepPlan {
    /// Launches of all kernels.
    pub fn launches(&self) -> u64 {
        self.counts.kernels.values().map(|count| count.launches).sum()
    }

    /// Bytes that all kernels read and write.
    pub fn bytes(&self) -> u64 {
        self.counts.kernels.values().map(|count| count.bytes).sum()
    }

    /// The least that a step could move: factors and results of the convolutions' products, each once, and what the optimizer
    /// updates. All else would then happen where these are read and written.
    pub fn least_bytes(&self) -> u64 {
        let updates = self.counts.kernels.iter().filter(|(kernel, _)| kernel.starts_with("sgd_"));
        self.counts.products + updates.map(|(_, count)| count.bytes).sum::<u64>()
    }
}

/// The GPUs for which a step can be counted: their kernels differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Products by warps: compute capability 8.0 and newer.
    Ampere,
    /// Products by warpgroups: compute capability 9.0.
    Hopper,
}

impl FromStr for Architecture {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ampere" => Ok(Self::Ampere),
            "hopper" => Ok(Self::Hopper),
            _ => Err(Error::Config(format!("unknown GPU {text:?}; use ampere or hopper"))),
        }
    }
}

impl Architecture {
    /// That of a device.
    pub fn of(device: &Device) -> Self {
        if device.has_warpgroup_products() { Self::Hopper } else { Self::Ampere }
    }
}

/// Counts the second step: the first one makes what later steps keep (momentum, calibration).
///
/// ```
/// use bicl::train::{Architecture, Preset, plan_step};
/// let mut config = Preset::Miniature.config();
/// config.model.width = 2;
/// let plan = plan_step(&config, Architecture::Hopper)?;
/// assert!(plan.launches() > 100 && plan.bytes() > plan.least_bytes());
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn plan_step(config: &Config, architecture: Architecture) -> Result<StepPlan> {
    let device = Device::plan().with(|options| options.warpgroups = Some(architecture == Architecture::Hopper));
    let plan = device.as_plan().ok_or_else(|| Error::Internal("a plan is no plan".into()))?;
    let mut network = Network::new(&config.model, config.precision, config.seed, &device)?;
    let parameters = network.parameters.ids().map(|id| network.parameters.get(id).len()).sum();
    let mut stepper = Stepper::new();
    let [height, width] = config.data.crop;
    let count = config.data.batch;
    let batch = || Batch {
        images: vec![0.0; count * height * width * 3],
        labels: vec![0; count * height * width],
        count,
        height,
        width,
        names: Vec::new(),
        position: 0,
    };
    for _ in 0..2 {
        plan.start();
        stepper.adapt(&mut network, config, batch(), batch(), config.adapt.learning_rate)?;
    }
    Ok(StepPlan { counts: plan.counts(), peak_bytes: plan.peak_bytes(), parameters })
}
