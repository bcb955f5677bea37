//! One training step: forward, losses, backward, update.

use std::collections::HashMap;

use super::{Config, Network, Statistics};
use crate::{
    DType, Device, Error, Result, Tensor,
    adapt::{self, LossParts},
    autograd::Var,
    data::Batch,
    models::Output,
    nn::{Domain, Forward, Normalization, ParameterId, Role},
    ops::{self, SgdItem},
};

/// What changes from step to step besides the weights.
pub(super) struct State {
    /// Momentum by parameter.
    momentum: HashMap<usize, Tensor>,
    /// xi [C,d]; set at the first adaptation step, when d is known.
    pub calibration: Option<Tensor>,
}

/// The losses of a step, by name.
pub(super) type Losses = Vec<(&'static str, f64)>;

fn to_tensors(batch: Batch, device: &Device) -> Result<(Tensor, Tensor)> {
    let (n, h, w) = (batch.count, batch.height, batch.width);
    Ok((Tensor::from_vec(batch.images, &[n, h, w, 3], device)?, Tensor::from_vec(batch.labels, &[n, h, w], device)?))
}

impl State {
    pub fn new() -> Self {
        Self { momentum: HashMap::new(), calibration: None }
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
    }

    /// A step on labelled source images alone.
    pub fn warmup(&mut self, network: &mut Network, config: &Config, source: Batch, rate: f64) -> Result<Losses> {
        let pass = begin(network, config);
        let (images, labels) = to_tensors(source, pass.device())?;
        let output = network.model.forward(&pass, &images, &[Domain::Source])?;
        let (loss, parts) = adapt::source_loss(&output, &labels)?;
        let losses = read(&parts)?;
        if losses.iter().all(|(_, value)| value.is_finite()) {
            let mut gradients = pass.tape().backward(&loss)?;
            drop((loss, output));
            let (gradients, statistics) = pass.finish(&mut gradients);
            self.update(network, config, gradients, rate)?;
            statistics.apply(&mut network.parameters)?;
        }
        Ok(losses)
    }

    /// A step of adaptation on source-target pairs; the target's labels are the static ones.
    pub fn adapt(
        &mut self,
        network: &mut Network,
        config: &Config,
        source: Batch,
        target: Batch,
        rate: f64,
    ) -> Result<Losses> {
        let pass = begin(network, config);
        let device = pass.device().clone();
        let Pairs { source, source_labels, target, static_labels } = forward_pairs(&pass, network, source, target)?;
        let calibration = match &self.calibration {
            Some(calibration) => calibration.clone(),
            None => {
                let d = source.features.value().dims::<4>("calibration")?[3];
                Tensor::zeros(&[config.model.classes, d], DType::F32, &device)?
            }
        };
        let step =
            adapt::adaptation_step(&config.method, &source, &source_labels, &target, &static_labels, &calibration)?;
        let losses = read(&step.parts)?;
        if losses.iter().all(|(_, value)| value.is_finite()) {
            let mut gradients = pass.tape().backward(&step.loss)?;
            drop((step.loss, source, target));
            let (gradients, statistics) = pass.finish(&mut gradients);
            self.update(network, config, gradients, rate)?;
            statistics.apply(&mut network.parameters)?;
            self.calibration = step.calibration.or(Some(calibration));
        }
        Ok(losses)
    }

    fn update(
        &mut self,
        network: &mut Network,
        config: &Config,
        gradients: Vec<(ParameterId, Tensor)>,
        rate: f64,
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
        let rates: Vec<f64> = ids.iter().map(|id| rate * multiplier(*id)).collect();
        let values = network.parameters.get_many_mut(&ids)?;
        let mut items: Vec<SgdItem<'_>> = values
            .into_iter()
            .zip(&mut momenta)
            .zip(&gradients)
            .zip(rates)
            .map(|(((value, momentum), (_, gradient)), learning_rate)| SgdItem {
                value,
                momentum,
                gradient,
                learning_rate,
                weight_decay: config.optimizer.weight_decay,
            })
            .collect();
        ops::sgd_step(&mut items, config.optimizer.momentum)?;
        drop(items);
        for (id, momentum) in ids.into_iter().zip(momenta) {
            self.momentum.insert(id.index(), momentum);
        }
        Ok(())
    }
}

/// Source and target after the network, and their labels.
struct Pairs {
    source: Output,
    source_labels: Tensor,
    target: Output,
    static_labels: Tensor,
}

/// Both domains pass through as one batch where they can: half as many launches, of twice the size. On the CPU one after the
/// other: a launch costs nothing there, and the activations of half a batch stay nearer.
fn forward_pairs(pass: &Forward<'_>, network: &Network, mut source: Batch, target: Batch) -> Result<Pairs> {
    let (device, model) = (pass.device(), &network.model);
    let alike = (source.count, source.height, source.width) == (target.count, target.height, target.width);
    if device.is_cpu() || !alike || !model.takes_both_domains(pass) {
        let (source_images, source_labels) = to_tensors(source, device)?;
        let (target_images, static_labels) = to_tensors(target, device)?;
        let source = model.forward(pass, &source_images, &[Domain::Source])?;
        let target = model.forward(pass, &target_images, &[Domain::Target])?;
        return Ok(Pairs { source, source_labels, target, static_labels });
    }
    let counts = [source.count, target.count];
    let labels = [source.count, source.height, source.width];
    let source_labels = Tensor::from_vec(std::mem::take(&mut source.labels), &labels, device)?;
    let static_labels = Tensor::from_vec(target.labels, &labels, device)?;
    source.images.extend(target.images);
    let images = Tensor::from_vec(source.images, &[2 * source.count, source.height, source.width, 3], device)?;
    let Output { features, logits } = model.forward(pass, &images, &[Domain::Source, Domain::Target])?;
    let parts = |both: &Var| match <[Var; 2]>::try_from(ops::split_images(both, &counts)?) {
        Ok(parts) => Ok(parts),
        Err(_) => Err(Error::Internal("two parts were asked for".into())),
    };
    let ([source_features, target_features], [source_logits, target_logits]) = (parts(&features)?, parts(&logits)?);
    let source = Output { features: source_features, logits: source_logits };
    let target = Output { features: target_features, logits: target_logits };
    Ok(Pairs { source, source_labels, target, static_labels })
}

fn begin<'a>(network: &'a Network, config: &Config) -> Forward<'a> {
    let normalization = match config.batch_norm.statistics {
        Statistics::Batch => Normalization::Batch,
        Statistics::Frozen => Normalization::Running,
    };
    Forward::train(&network.parameters, normalization, config.batch_norm.trainable, network.precision)
}

fn read(parts: &LossParts) -> Result<Losses> {
    parts.iter().map(|(name, value)| Ok((*name, value.item()?))).collect()
}

/// Errors where a loss is NaN or infinite.
pub(super) fn expect_finite(losses: &Losses, step: u64, advice: impl FnOnce() -> String) -> Result<()> {
    match losses.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => {
            Err(Error::NotFinite { what: format!("the loss {name}"), value: *value, step, advice: advice() })
        }
        None => Ok(()),
    }
}
