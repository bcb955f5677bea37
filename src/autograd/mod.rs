//! A small tape. Operations append what they need for their backward pass; [`Tape::backward`] runs the list in
//! reverse. The tape knows no operation; it passes on what neighbours fuse ([`GradientEpilogue`]).
//!
//! ```
//! use bicl::{Device, Tensor, autograd::Tape, ops};
//! let device = Device::cpu();
//! let tape = Tape::new(&device);
//! let x = tape.variable(Tensor::from_vec(vec![-1.0f32, 2.0], &[2], &device)?);
//! let y = ops::relu(&x)?;
//! let gradients = tape.backward_with(&y, Tensor::from_vec(vec![3.0f32, 5.0], &[2], &device)?)?;
//! let dx = gradients.get(&x).expect("x is a variable").to_vec::<f32>()?;
//! assert_eq!(dx, [0.0, 5.0]);
//! # Ok::<(), bicl::Error>(())
//! ```

mod backward;
mod fusion;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use fusion::{Contribution, Fused, GradientEpilogue, GradientRequest};

use crate::{Device, Error, Result, Tensor};
use backward::Pass;

/// Takes the gradient of the output, what of the operation's epilogue was applied to it, and what is asked for each parent.
/// Returns the contributions to the parents' gradients, in their order; `None` where none is wanted.
type Backward = Box<dyn FnOnce(Tensor, Option<Fused>, &mut [GradientRequest]) -> Result<Contributions> + Send>;

/// One for each parent.
type Contributions = Vec<Option<Contribution>>;

struct Node {
    op: &'static str,
    /// Node of each parent; `None` where the parent is a constant.
    parents: Vec<Option<usize>>,
    /// `None` for variables, and for operations whose backward pass has run.
    backward: Option<Backward>,
    /// What the backward pass would do first; gone when a consumer has been shown it.
    epilogue: Option<GradientEpilogue>,
    is_variable: bool,
}

/// The record of one forward pass.
#[derive(Clone)]
pub struct Tape {
    device: Device,
    tf32: bool,
    nodes: Arc<Mutex<Vec<Node>>>,
}

/// A tensor on a tape: a value, and the node that made it if gradients flow to it.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
    tape: Tape,
}

/// The gradients of the variables of one tape.
pub struct Gradients {
    tape: Tape,
    by_node: HashMap<usize, Tensor>,
}

impl Tape {
    /// An empty tape for tensors of `device`.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), tf32: false, nodes: Arc::default() }
    }

    /// The same tape, whose operations may round f32 factors to tf32 (10 bits of mantissa) for a GPU's tensor cores. Sums
    /// stay f32. The CPU multiplies f32 as it is.
    pub fn with_tf32(self) -> Self {
        Self { tf32: true, ..self }
    }

    /// Whether f32 factors may be rounded to tf32.
    pub fn tf32(&self) -> bool {
        self.tf32
    }

    /// The device of its tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        // Nothing that panics runs under the lock.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, node: Node) -> usize {
        let mut nodes = self.nodes();
        nodes.push(node);
        nodes.len() - 1
    }

    fn is(&self, other: &Tape) -> bool {
        Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// A tensor whose gradient is wanted.
    pub fn variable(&self, value: Tensor) -> Var {
        let node = self.append(Node {
            op: "variable",
            parents: Vec::new(),
            backward: None,
            epilogue: None,
            is_variable: true,
        });
        Var { value, node: Some(node), tape: self.clone() }
    }

    /// A tensor to which no gradient flows.
    pub fn constant(&self, value: Tensor) -> Var {
        Var { value, node: None, tape: self.clone() }
    }

    /// Gradients of the scalar `loss` with respect to every variable it depends on.
    pub fn backward(&self, loss: &Var) -> Result<Gradients> {
        if loss.value.len() != 1 {
            let shape = loss.value.shape();
            return Err(Error::Autograd(format!("backward needs a scalar, got shape {shape:?}; use backward_with")));
        }
        let seed = Tensor::full(loss.value.shape(), 1.0, loss.value.dtype(), loss.value.device())?;
        self.backward_with(loss, seed)
    }

    /// As [`Tape::backward`], from any `output` with the gradient `seed` of its shape and dtype.
    ///
    /// The tape is consumed: what the operations had stored is freed as the pass goes, and a second pass over the
    /// same nodes is an error.
    pub fn backward_with(&self, output: &Var, seed: Tensor) -> Result<Gradients> {
        if !self.is(&output.tape) {
            return Err(Error::Autograd("the output belongs to another tape".into()));
        }
        if seed.shape() != output.value.shape() || seed.dtype() != output.value.dtype() {
            return Err(Error::Autograd(format!("the seed {seed:?} does not match the output {:?}", output.value)));
        }
        let Some(last) = output.node else {
            return Err(Error::Autograd("the output depends on no variable".into()));
        };
        Ok(Gradients { tape: self.clone(), by_node: Pass::new(self, last, seed).run()? })
    }
}

impl Var {
    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Its tape.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Whether a gradient flows to it. Operations need store nothing for the backward pass where it does not.
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// The same value, with no gradient behind it.
    pub fn detach(&self) -> Var {
        self.tape.constant(self.value.clone())
    }

    /// Records an operation: `backward` receives the gradient of `value` and, for each parent, whether its gradient
    /// is wanted; it returns those, in the parents' order, each of its parent's shape and dtype.
    ///
    /// Without a tracked parent nothing is recorded, and `backward` is dropped with all it holds.
    pub fn record<const N: usize>(
        op: &'static str,
        value: Tensor,
        parents: [&Var; N],
        backward: impl FnOnce(Tensor, [bool; N]) -> Result<[Option<Tensor>; N]> + Send + 'static,
    ) -> Result<Var> {
        let erased = move |gradient: Tensor, wanted: &[bool]| {
            let wanted = std::array::from_fn(|parent| wanted[parent]);
            Ok(backward(gradient, wanted)?.into())
        };
        Self::record_many(op, value, &parents, erased)
    }

    /// As [`Var::record`], for a number of parents that is not known when the program is compiled.
    pub fn record_many(
        op: &'static str,
        value: Tensor,
        parents: &[&Var],
        backward: impl FnOnce(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Result<Var> {
        Self::record_fusing(op, value, parents, None, move |gradient, _, requests| {
            let wanted: Vec<bool> = requests.iter().map(|request| request.wanted).collect();
            let gradients = backward(gradient, &wanted)?;
            Ok(gradients.into_iter().map(|gradient| gradient.map(Contribution::from)).collect())
        })
    }

    /// As [`Var::record_many`], for an operation whose kernels fuse: that add to a parent's gradient where they write their
    /// contribution, or apply the epilogue of a parent's producer ([`GradientRequest`]); or that has an `epilogue` of its own,
    /// of which `backward` learns with the gradient what was applied to it.
    pub fn record_fusing(
        op: &'static str,
        value: Tensor,
        parents: &[&Var],
        epilogue: Option<GradientEpilogue>,
        backward: impl FnOnce(Tensor, Option<Fused>, &mut [GradientRequest]) -> Result<Vec<Option<Contribution>>>
        + Send
        + 'static,
    ) -> Result<Var> {
        let Some(first) = parents.first() else {
            return Err(Error::Autograd(format!("{op}: an operation needs a parent")));
        };
        if parents.iter().any(|parent| !parent.tape.is(&first.tape)) {
            return Err(Error::Autograd(format!("{op}: its operands belong to different tapes")));
        }
        let tape = first.tape.clone();
        if parents.iter().all(|parent| parent.node.is_none()) {
            return Ok(tape.constant(value));
        }
        let parents = parents.iter().map(|parent| parent.node).collect();
        let node = tape.append(Node { op, parents, backward: Some(Box::new(backward)), epilogue, is_variable: false });
        Ok(Var { value, node: Some(node), tape })
    }
}

impl Gradients {
    /// The gradient of a variable; `None` where the output does not depend on it, or it is no variable.
    pub fn get(&self, var: &Var) -> Option<&Tensor> {
        self.by_node.get(&var.node.filter(|_| self.tape.is(&var.tape))?)
    }

    /// As [`Gradients::get`], handing the tensor over.
    pub fn take(&mut self, var: &Var) -> Option<Tensor> {
        self.by_node.remove(&var.node.filter(|_| self.tape.is(&var.tape))?)
    }
}
