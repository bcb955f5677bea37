//! One training step: forward, losses, backward, update. On a GPU it is captured once and replayed.
//!
//! [`Stepper::adapt`] -> `step` (the batch goes to the device, a captured step is replayed) -> `launch` (the network, then
//! [`adapt::adaptation_step`], then the tape backwards) -> `update` (SGD and running statistics).

mod inputs;
mod losses;
mod network;
mod plan;

use std::collections::HashMap;

use inputs::{Batches, Inputs};
pub use losses::PendingLosses;
pub(super) use losses::{Losses, expect_finite};
pub use network::Network;
pub use plan::{Architecture, StepPlan, plan_step};

use crate::{
    DType, Error, Result, Tensor,
    adapt::{self, LossParts, PairOutput},
    data::Batch,
    device::Graph,
    nn::{BatchStatistics, Domain, Forward, ParameterId, Role},
    ops::{self, SgdItem, SgdSpec},
    train::Config,
};

/// The state of the optimiser and of the calibration, and the two kinds of step that change it.
///
/// Each step is forward, losses, backward and the SGD update of a network; it gives the losses by name, unweighted but for
/// `loss`. Where one of them is not finite, nothing was changed. docs/method.md, "Total loss" and "Optimisation".
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
#[derive(Default)]
pub struct Stepper {
    /// Momentum by parameter.
    momentum: HashMap<usize, Tensor>,
    /// xi [C,d]; set at the first adaptation step, when d is known.
    calibration: Option<Tensor>,
    inputs: Option<Inputs>,
    /// A step has run since the stage began: what later ones keep is there, and the next can be captured.
    ran: bool,
    captured: Option<Captured>,
    /// Whether steps are captured; by default on a GPU.
    capture: Option<bool>,
}

/// A step that is replayed, and where its losses lie.
struct Captured {
    graph: Graph,
    parts: LossParts,
}

/// The two kinds of step.
#[derive(Clone, Copy)]
enum Kind {
    Warmup,
    Adaptation,
}

impl Stepper {
    /// No momentum, no calibration yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with steps captured as a graph and replayed, or not; without this they are on a GPU.
    pub fn captured(self, capture: bool) -> Self {
        Self { capture: Some(capture), ..self }
    }

    /// Whether the last step was a replay: not before the second of a kind.
    pub fn is_captured(&self) -> bool {
        self.captured.is_some()
    }

    /// A step on labelled source images alone, at learning rate `rate`.
    pub fn warmup(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        rate: f64,
    ) -> Result<Vec<(&'static str, f64)>> {
        self.launch_warmup(network, config, source, rate)?.wait()
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
        self.launch_adapt(network, config, source, target, rate)?.wait()
    }

    /// [`Stepper::warmup`], which waits for nothing: while a GPU computes the step, the caller prepares the next one.
    pub fn launch_warmup(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        rate: f64,
    ) -> Result<PendingLosses> {
        self.step(Kind::Warmup, network, config, Batches::new(vec![source], false), rate)
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
        // Both domains pass through as one batch where they can: half as many launches, of twice the size. On the CPU one after
        // the other: a launch costs nothing there, and the activations of half a batch stay nearer.
        let normalization = config.batch_norm.statistics;
        let together = !network.parameters.device().is_cpu() && network.model.takes_both_domains(normalization);
        self.step(Kind::Adaptation, network, config, Batches::new(vec![source, target], together), rate)
    }

    /// The calibration xi `[C,d]`; `None` before the first step of adaptation.
    pub fn calibration(&self) -> Option<&Tensor> {
        self.calibration.as_ref()
    }

    /// Momentum by parameter name, for a checkpoint.
    pub(super) fn momentum_by_name(&self, network: &Network) -> HashMap<String, Tensor> {
        let named = |id: ParameterId| {
            let momentum = self.momentum.get(&id.index())?;
            Some((network.parameters.name(id).to_owned(), momentum.clone()))
        };
        network.parameters.ids().filter_map(named).collect()
    }

    /// What a checkpoint holds: momentum by parameter name, and the calibration.
    pub(super) fn restore(
        &mut self,
        network: &Network,
        mut momentum_by_name: HashMap<String, Tensor>,
        calibration: Option<Tensor>,
    ) {
        for id in network.parameters.ids() {
            if let Some(momentum) = momentum_by_name.remove(network.parameters.name(id)) {
                self.momentum.insert(id.index(), momentum);
            }
        }
        self.calibration = calibration;
    }

    /// Forgets the momentum: each stage starts its optimiser anew.
    pub(super) fn reset_momentum(&mut self) {
        self.momentum.clear();
        (self.captured, self.ran, self.inputs) = (None, false, None);
    }

    fn step(
        &mut self,
        kind: Kind,
        network: &mut Network,
        config: &Config,
        batches: Batches,
        rate: f64,
    ) -> Result<PendingLosses> {
        let device = network.parameters.device().clone();
        match &mut self.inputs {
            Some(inputs) if inputs.fit(&batches) => inputs.write(&batches, rate)?,
            _ => (self.inputs, self.captured) = (Some(Inputs::new(batches, rate, &device)?), None),
        }
        // A parameter that was replaced since lies elsewhere.
        let lies_there = |captured: &Captured| network.parameters.iter().all(|(_, t)| t.is_used_by(&captured.graph));
        if self.captured.as_ref().is_some_and(|captured| !lies_there(captured)) {
            self.captured = None;
        }
        if self.captured.is_none() && self.ran && self.capture.unwrap_or(device.is_cuda()) {
            let (graph, parts) = device.capture(|| self.launch(kind, network, config))?;
            self.captured = Some(Captured { graph, parts });
        }
        let losses = match &self.captured {
            Some(captured) => {
                captured.graph.replay()?;
                PendingLosses::read(&captured.parts)?
            }
            None => PendingLosses::read(&self.launch(kind, network, config)?)?,
        };
        self.ran = true;
        Ok(losses)
    }

    /// All that a step launches. Where a loss is not finite, nothing is changed.
    fn launch(&mut self, kind: Kind, network: &mut Network, config: &Config) -> Result<LossParts> {
        let inputs = self.inputs.as_ref().ok_or_else(|| Error::Internal("a step without images".into()))?;
        let norm = &config.batch_norm;
        let pass = Forward::train(&network.parameters, norm.statistics, norm.trainable, network.precision);
        let (loss, parts, calibration) = match kind {
            Kind::Warmup => {
                let output = network.model.forward(&pass, &inputs.images[0], &[Domain::Source])?;
                let (loss, parts) = adapt::source_loss(&output, &inputs.labels[0])?;
                (loss, parts, None)
            }
            Kind::Adaptation => {
                let pairs = forward_pairs(&pass, network, inputs)?;
                if self.calibration.is_none() {
                    let d = pairs.features.vars()[0].value().dims::<4>("calibration")?[3];
                    self.calibration = Some(Tensor::zeros(&[config.model.classes, d], DType::F32, pass.device())?);
                }
                let old = self.calibration.as_ref().ok_or_else(|| Error::Internal("no calibration".into()))?;
                let [source_labels, static_labels] = [&inputs.labels[0], &inputs.labels[1]];
                let step = adapt::adaptation_step(&config.method, &pairs, source_labels, static_labels, old)?;
                (step.loss, step.parts, step.calibration)
            }
        };
        let mut gradients = pass.tape().backward(&loss)?;
        // Where it is not finite, nothing changes.
        let found_inf = loss.value().clone();
        drop(loss);
        let (gradients, statistics) = pass.finish(&mut gradients);
        self.update(network, config, gradients, statistics, &found_inf)?;
        if let (Some(xi), Some(prototypes)) = (&mut self.calibration, &calibration) {
            prototypes.update_calibration(xi, config.method.calibration_momentum, Some(&found_inf))?;
        }
        Ok(parts)
    }

    fn update(
        &mut self,
        network: &mut Network,
        config: &Config,
        gradients: Vec<(ParameterId, Tensor)>,
        statistics: BatchStatistics,
        found_inf: &Tensor,
    ) -> Result<()> {
        let ids: Vec<ParameterId> = gradients.iter().map(|(id, _)| *id).collect();
        let mut momenta = Vec::with_capacity(ids.len());
        for id in &ids {
            let value = network.parameters.get(*id);
            momenta.push(match self.momentum.remove(&id.index()) {
                Some(momentum) => momentum,
                None => Tensor::zeros(value.shape(), value.dtype(), value.device())?,
            });
        }
        let multiplier = |id: ParameterId| match network.parameters.role(id) {
            Role::Head => config.optimizer.head_multiplier,
            _ => 1.0,
        };
        let multipliers: Vec<f64> = ids.iter().map(|id| multiplier(*id)).collect();
        let weight_decay = config.optimizer.weight_decay;
        let values = network.parameters.get_many_mut(&ids)?;
        let mut items: Vec<SgdItem<'_>> = values
            .into_iter()
            .zip(&mut momenta)
            .zip(&gradients)
            .zip(multipliers)
            .map(|((((value, copy), momentum), (_, gradient)), multiplier)| SgdItem {
                value,
                momentum,
                gradient,
                copy,
                multiplier,
                weight_decay,
            })
            .collect();
        let rate = self.inputs.as_ref().map(|inputs| &inputs.rate);
        let rate = rate.ok_or_else(|| Error::Internal("a step without a learning rate".into()))?;
        ops::sgd_step(&mut items, &SgdSpec { momentum: config.optimizer.momentum, rate, found_inf: Some(found_inf) })?;
        drop(items);
        for (id, momentum) in ids.into_iter().zip(momenta) {
            self.momentum.insert(id.index(), momentum);
        }
        statistics.apply(&mut network.parameters, Some(found_inf))
    }
}

/// Source and target after the network.
fn forward_pairs(pass: &Forward<'_>, network: &Network, inputs: &Inputs) -> Result<PairOutput> {
    let model = &network.model;
    if let [source, target] = &inputs.images[..] {
        let source = model.forward(pass, source, &[Domain::Source])?;
        return Ok(PairOutput::apart(source, model.forward(pass, target, &[Domain::Target])?));
    }
    Ok(PairOutput::together(model.forward(pass, &inputs.images[0], &[Domain::Source, Domain::Target])?))
}
