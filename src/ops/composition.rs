//! An operation composed of others and recorded as one: what kernels fuse, the CPU computes so, and both leave the same tape.

use crate::{
    Error, Result,
    autograd::{Tape, Var},
};

/// A tape of its own for the operations inside.
pub(super) struct Composition<'a> {
    parents: Vec<&'a Var>,
    vars: Vec<Var>,
    tape: Tape,
}

impl<'a> Composition<'a> {
    /// Of at least one operand.
    pub fn new(op: &'static str, parents: impl IntoIterator<Item = &'a Var>) -> Result<Self> {
        let parents: Vec<&Var> = parents.into_iter().collect();
        let first = parents.first().ok_or_else(|| Error::Internal(format!("{op}: composed of nothing")))?;
        let tape = Tape::new(first.tape().device());
        let inner = |parent: &&Var| match parent.is_tracked() {
            true => tape.variable(parent.value().clone()),
            false => tape.constant(parent.value().clone()),
        };
        let vars = parents.iter().map(inner).collect();
        Ok(Self { parents, vars, tape })
    }

    /// The operands on the inner tape.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// `output` of the operations inside as one operation on the operands' own tape.
    pub fn record(self, op: &'static str, output: Var) -> Result<Var> {
        let Self { parents, vars, tape } = self;
        Var::record_many(op, output.value().clone(), &parents, move |gradient, _| {
            let mut gradients = tape.backward_with(&output, gradient)?;
            Ok(vars.iter().map(|var| gradients.take(var)).collect())
        })
    }
}
