//! One training step: forward, losses, backward, update. On a GPU it is captured once and replayed.

use std::collections::HashMap;

use super::{
    Config, Network, Statistics,
    inputs::{Batches, Inputs},
    losses::PendingLosses,
};
use crate::{
    DType, Error, Result, Tensor,
    adapt::{self, LossParts, PairOutput},
    data::Batch,
    device::Graph,
    nn::{Domain, Forward, Normalization, ParameterId, Role, Statistics as Measured},
    ops::{self, SgdItem, SgdSpec},
};

/// What changes from step to step besides the weights.
pub(super) struct State {
    /// Momentum by parameter.
    momentum: HashMap<usize, Tensor>,
    /// xi [C,d]; set at the first adaptation step, when d is known.
    pub calibration: Option<Tensor>,
    inputs: Option<Inputs>,
    /// A step has run since the stage began: what later ones keep is there, and the next can be captured.
    ran: bool,
    captured: Option<Captured>,
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

impl State {
    pub fn new() -> Self {
        Self { momentum: HashMap::new(), calibration: None, inputs: None, ran: false, captured: None, capture: None }
    }

    /// Whether steps are captured; by default on a GPU.
    pub fn capture(&mut self, capture: bool) {
        self.capture = Some(capture);
    }

    /// Whether the last step was a replay.
    pub fn is_captured(&self) -> bool {
        self.captured.is_some()
    }

    /// Momentum by parameter name, for a checkpoint.
    pub fn momentum_by_name(&self, network: &Network) -> HashMap<String, Tensor> {
        let named = |id: ParameterId| {
            let momentum = self.momentum.get(&id.index())?;
            Some((network.parameters.name(id).to_owned(), momentum.clone()))
        };
        network.parameters.ids().filter_map(named).collect()
    }

    /// Takes momentum back from a checkpoint.
    pub fn restore_momentum(&mut self, network: &Network, mut by_name: HashMap<String, Tensor>) {
        for id in network.parameters.ids() {
            if let Some(momentum) = by_name.remove(network.parameters.name(id)) {
                self.momentum.insert(id.index(), momentum);
            }
        }
    }

    /// Forgets the momentum: each stage starts its optimiser anew.
    pub fn reset_momentum(&mut self) {
        self.momentum.clear();
        (self.captured, self.ran, self.inputs) = (None, false, None);
    }

    /// A step on labelled source images alone.
    pub fn warmup(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        rate: f64,
    ) -> Result<PendingLosses> {
        self.step(Kind::Warmup, network, config, Batches::new(vec![source], false), rate)
    }

    /// A step of adaptation on source-target pairs; the target's labels are the static ones.
    pub fn adapt(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        target: Batch,
        rate: f64,
    ) -> Result<PendingLosses> {
        // Both domains pass through as one batch where they can: half as many launches, of twice the size. On the CPU one after
        // the other: a launch costs nothing there, and the activations of half a batch stay nearer.
        let together = !network.parameters.device().is_cpu() && network.model.takes_both_domains(normalization(config));
        self.step(Kind::Adaptation, network, config, Batches::new(vec![source, target], together), rate)
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
        let pass = begin(network, config);
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
        let gate = loss.value().clone();
        drop(loss);
        let (gradients, statistics) = pass.finish(&mut gradients);
        self.update(network, config, gradients, statistics, &gate)?;
        if let (Some(xi), Some(prototypes)) = (&mut self.calibration, &calibration) {
            prototypes.update_calibration(xi, config.method.calibration_momentum, Some(&gate))?;
        }
        Ok(parts)
    }

    fn update(
        &mut self,
        network: &mut Network,
        config: &Config,
        gradients: Vec<(ParameterId, Tensor)>,
        statistics: Measured,
        gate: &Tensor,
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
        ops::sgd_step(&mut items, &SgdSpec { momentum: config.optimizer.momentum, rate, gate: Some(gate) })?;
        drop(items);
        for (id, momentum) in ids.into_iter().zip(momenta) {
            self.momentum.insert(id.index(), momentum);
        }
        statistics.apply(&mut network.parameters, Some(gate))
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

fn normalization(config: &Config) -> Normalization {
    match config.batch_norm.statistics {
        Statistics::Batch => Normalization::Batch,
        Statistics::Frozen => Normalization::Running,
    }
}

fn begin<'a>(network: &'a Network, config: &Config) -> Forward<'a> {
    Forward::train(&network.parameters, normalization(config), config.batch_norm.trainable, network.precision)
}
