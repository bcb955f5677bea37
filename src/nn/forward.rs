//! One pass through a model: which parameters are variables, how batch norms normalise, what they measured.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use serde::{Deserialize, Serialize};

use super::{ParameterId, Parameters, Precision, Role};
use crate::{
    Device, Result, Tensor,
    autograd::{Gradients, Tape, Var},
    ops::{self, AverageItem},
};

/// Weight of the newest batch in running statistics, as PyTorch's default.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// With which statistics batch norms normalise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalization {
    /// The batch's own, per domain, which also move the running ones.
    Batch,
    /// The running ones, unchanged; `frozen` in a configuration.
    #[serde(rename = "frozen")]
    Running,
}

/// Which domain's images pass through; it matters where the target has a stem or running statistics of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Labelled.
    Source,
    /// Unlabelled.
    Target,
}

/// What a training step or an evaluation shares between the passes of its images.
///
/// Each parameter becomes one variable, so that the gradients of several passes add up.
pub struct Forward<'a> {
    tape: Tape,
    parameters: &'a Parameters,
    normalization: Normalization,
    train: bool,
    train_affine: bool,
    precision: Precision,
    domains: Cell<&'static [Domain]>,
    variables: RefCell<Vec<Slot>>,
    measured: RefCell<Vec<Measured>>,
}

#[derive(Clone, Default)]
struct Slot {
    /// The variable that owns the gradient.
    master: Option<Var>,
    /// The same in the precision of the activations.
    cast: Option<Var>,
}

struct Measured {
    running: ParameterId,
    /// [C] or, of several runs of images, [runs,C].
    batch: Tensor,
    run: usize,
}

/// What a step measured: the batch statistics, to be merged into the running ones.
pub struct BatchStatistics(Vec<Measured>);

impl<'a> Forward<'a> {
    /// A training step: parameters are variables, except batch norms' scale and shift unless `train_affine`.
    pub fn train(
        parameters: &'a Parameters,
        normalization: Normalization,
        train_affine: bool,
        precision: Precision,
    ) -> Self {
        Self { train: true, train_affine, ..Self::new(parameters, normalization, precision) }
    }

    /// An evaluation with running statistics: nothing is recorded.
    pub fn evaluate(parameters: &'a Parameters, precision: Precision) -> Self {
        Self::new(parameters, Normalization::Running, precision)
    }

    /// A pass for the batch statistics alone: no gradients; end it with [`Forward::statistics`].
    pub fn measure(parameters: &'a Parameters, precision: Precision) -> Self {
        Self::new(parameters, Normalization::Batch, precision)
    }

    fn new(parameters: &'a Parameters, normalization: Normalization, precision: Precision) -> Self {
        let tape = Tape::new(parameters.device());
        Self {
            tape: if precision == Precision::Tf32 { tape.with_tf32() } else { tape },
            parameters,
            normalization,
            train: false,
            train_affine: false,
            precision,
            domains: Cell::new(&[Domain::Source]),
            variables: RefCell::new(vec![Slot::default(); parameters.ids().count()]),
            measured: RefCell::default(),
        }
    }

    /// The tape.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.parameters.device()
    }

    /// With which statistics batch norms normalise.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// The domains of the images that pass through now: the batch divides into as many equal runs.
    pub fn domains(&self) -> &'static [Domain] {
        self.domains.get()
    }

    /// The following layers see images of `domains`, a run of each.
    pub fn enter(&self, domains: &'static [Domain]) {
        self.domains.set(domains);
    }

    /// An input in the precision of the activations, without gradient.
    pub fn input(&self, value: &Tensor) -> Result<Var> {
        Ok(self.tape.constant(value.to_dtype(self.precision.dtype())?))
    }

    /// A running statistic or any other tensor that gets no gradient.
    pub fn tensor(&self, id: ParameterId) -> &Tensor {
        self.parameters.get(id)
    }

    fn wants_gradient(&self, id: ParameterId) -> bool {
        self.train
            && match self.parameters.role(id) {
                Role::Backbone | Role::Head => true,
                Role::Affine => self.train_affine,
                Role::Statistic => false,
            }
    }

    /// A parameter as stored (f32), as batch norms and biases use it.
    pub fn parameter(&self, id: ParameterId) -> Var {
        let mut slots = self.variables.borrow_mut();
        let slot = &mut slots[id.index()].master;
        slot.get_or_insert_with(|| {
            let value = self.parameters.get(id).clone();
            if self.wants_gradient(id) { self.tape.variable(value) } else { self.tape.constant(value) }
        })
        .clone()
    }

    /// A filter in the precision of the activations: its copy, or else converted, once a step.
    pub fn filter(&self, id: ParameterId) -> Result<Var> {
        if let Some(copy) = self.parameters.copy(id).filter(|copy| copy.dtype() == self.precision.dtype()) {
            let wanted = self.wants_gradient(id);
            let slot = &mut self.variables.borrow_mut()[id.index()].cast;
            let bind = || if wanted { self.tape.variable(copy.clone()) } else { self.tape.constant(copy.clone()) };
            return Ok(slot.get_or_insert_with(bind).clone());
        }
        let master = self.parameter(id);
        if master.value().dtype() == self.precision.dtype() {
            return Ok(master);
        }
        if let Some(cast) = &self.variables.borrow()[id.index()].cast {
            return Ok(cast.clone());
        }
        let cast = ops::cast(&master, self.precision.dtype())?;
        self.variables.borrow_mut()[id.index()].cast = Some(cast.clone());
        Ok(cast)
    }

    /// Notes batch statistics for [`Forward::finish`]: row `run` of `batch` `[C]` or `[runs,C]`.
    pub fn measured(&self, running: ParameterId, batch: Tensor, run: usize) {
        self.measured.borrow_mut().push(Measured { running, batch, run });
    }

    /// The batch statistics of all passes in order. Ends the borrow of the parameters.
    pub fn statistics(self) -> BatchStatistics {
        BatchStatistics(self.measured.into_inner())
    }

    /// The variables' gradients by parameter, and the statistics of all passes in order. Ends the borrow of the
    /// parameters, so that they can be updated.
    pub fn finish(self, gradients: &mut Gradients) -> (Vec<(ParameterId, Tensor)>, BatchStatistics) {
        let slots = self.variables.into_inner();
        let by_parameter = self.parameters.ids().filter_map(|id| {
            // Of the variable that owns it: the value, or its copy.
            let Slot { master, cast } = &slots[id.index()];
            let gradient = [master, cast].into_iter().flatten().find_map(|var| gradients.take(var))?;
            Some((id, gradient))
        });
        (by_parameter.collect(), BatchStatistics(self.measured.into_inner()))
    }
}

impl BatchStatistics {
    /// Moves the running statistics by one batch each, in the order in which the batches were seen; not where one of
    /// the `losses` is NaN or infinite.
    pub fn apply(self, parameters: &mut Parameters, losses: Option<&Tensor>) -> Result<()> {
        self.move_averages(parameters, STATISTICS_MOMENTUM, losses)
    }

    /// The same where the newest batch has weight `momentum`: 1/k at batch k makes a plain mean.
    pub fn apply_with(self, parameters: &mut Parameters, momentum: f64) -> Result<()> {
        self.move_averages(parameters, momentum, None)
    }

    fn move_averages(mut self, parameters: &mut Parameters, weight: f64, losses: Option<&Tensor>) -> Result<()> {
        // A launch moves an average once: those of several runs or passes go one after the other.
        while !self.0.is_empty() {
            let mut seen = HashSet::new();
            let (now, later): (Vec<_>, Vec<_>) = self.0.into_iter().partition(|measured| seen.insert(measured.running));
            let ids: Vec<ParameterId> = now.iter().map(|measured| measured.running).collect();
            let averages = parameters.get_many_mut(&ids)?.into_iter().map(|(average, _)| average);
            let mut items: Vec<_> = averages
                .zip(&now)
                .map(|(average, Measured { batch, run, .. })| AverageItem { average, x: batch, row: *run })
                .collect();
            ops::move_running_averages(&mut items, weight, losses)?;
            self.0 = later;
        }
        Ok(())
    }
}
