//! Training steps on batches from anywhere: what the trainer does between its loaders and its log.

use super::{Config, Network, PendingLosses, step::State};
use crate::{Result, Tensor, data::Batch};

/// The state of the optimiser and of the calibration, and the two kinds of step that change it.
///
/// Each step is forward, losses, backward and the SGD update of `network`; it returns the losses by name, unweighted
/// but for `loss`. Where one of them is not finite, nothing was changed. docs/method.md, "Total loss" and "Optimisation".
///
/// ```
/// use bicl::{Device, data::Batch, train::{Network, Preset, Stepper}};
/// let mut config = Preset::Miniature.config();
/// config.model.width = 2;
/// let mut network = Network::new(&config.model, config.precision, 0, &Device::cpu())?;
/// let batch = Batch {
///     images: vec![0.5; 32 * 32 * 3],
///     labels: vec![1; 32 * 32],
///     count: 1,
///     height: 32,
///     width: 32,
///     names: Vec::new(),
///     position: 0,
/// };
/// let losses = Stepper::new().warmup(&mut network, &config, batch, 0.01)?;
/// assert_eq!(losses[0].0, "source_ce");
/// # Ok::<(), bicl::Error>(())
/// ```
pub struct Stepper(State);

impl Stepper {
    /// No momentum, no calibration yet.
    pub fn new() -> Self {
        Self(State::new())
    }

    /// The same, with steps captured as a graph and replayed, or not; without this they are on a GPU.
    pub fn captured(mut self, capture: bool) -> Self {
        self.0.capture(capture);
        self
    }

    /// Whether steps are replayed now: not before the second of a kind.
    pub fn is_captured(&self) -> bool {
        self.0.is_captured()
    }

    /// A step on labelled source images alone, at learning rate `rate`.
    pub fn warmup(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        rate: f64,
    ) -> Result<Vec<(&'static str, f64)>> {
        self.0.warmup(network, config, source, rate)?.wait()
    }

    /// A step of adaptation on source-target pairs; the target's labels are the static ones.
    pub fn adapt(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        target: Batch,
        rate: f64,
    ) -> Result<Vec<(&'static str, f64)>> {
        self.0.adapt(network, config, source, target, rate)?.wait()
    }

    /// [`Stepper::warmup`], which waits for nothing: while a GPU computes the step, the caller prepares the next one.
    pub fn launch_warmup(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        rate: f64,
    ) -> Result<PendingLosses> {
        self.0.warmup(network, config, source, rate)
    }

    /// [`Stepper::adapt`], which waits for nothing.
    pub fn launch_adapt(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        target: Batch,
        rate: f64,
    ) -> Result<PendingLosses> {
        self.0.adapt(network, config, source, target, rate)
    }

    /// The calibration xi `[C,d]`; `None` before the first step of adaptation.
    pub fn calibration(&self) -> Option<&Tensor> {
        self.0.calibration.as_ref()
    }
}

impl Default for Stepper {
    fn default() -> Self {
        Self::new()
    }
}
