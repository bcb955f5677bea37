//! The backward pass over a tape, from its last node to its first.

use std::collections::{HashMap, hash_map::Entry};

use super::{Contribution, Contributions, GradientRequest, Tape};
use crate::{Error, Result, Tensor};

/// A backward pass under way.
pub(super) struct Pass<'a> {
    tape: &'a Tape,
    last: usize,
    /// How many contributions the gradient of each node will still have.
    uses: Vec<usize>,
    /// By node, the sum of the contributions so far, and what was fused into the last of them.
    sums: HashMap<usize, Contribution>,
}

impl<'a> Pass<'a> {
    /// From the node `last`, whose gradient is `seed`.
    pub fn new(tape: &'a Tape, last: usize, seed: Tensor) -> Self {
        let mut uses = vec![0; last + 1];
        let nodes = tape.nodes();
        for index in (0..=last).rev() {
            if index == last || uses[index] > 0 {
                nodes[index].parents.iter().flatten().for_each(|&parent| uses[parent] += 1);
            }
        }
        drop(nodes);
        Self { tape, last, uses, sums: HashMap::from([(last, seed.into())]) }
    }

    /// The gradients of the variables, by node.
    pub fn run(mut self) -> Result<HashMap<usize, Tensor>> {
        let mut of_variables = HashMap::new();
        for index in (0..=self.last).rev() {
            let Some(Contribution { gradient, fused }) = self.sums.remove(&index) else { continue };
            let (op, parents, backward) = {
                let node = &mut self.tape.nodes()[index];
                if node.is_variable {
                    of_variables.insert(index, gradient);
                    continue;
                }
                node.epilogue = None;
                (node.op, std::mem::take(&mut node.parents), node.backward.take())
            };
            let backward = backward.ok_or_else(|| Error::Autograd(format!("{op}: its backward pass has run")))?;
            let mut requests = self.requests(&parents);
            let contributions = backward(gradient, fused, &mut requests)?;
            self.add(op, &parents, requests, contributions)?;
        }
        Ok(of_variables)
    }

    /// What a node is asked for each of its parents, which then wait for one contribution less.
    fn requests(&mut self, parents: &[Option<usize>]) -> Vec<GradientRequest> {
        let request = |parent: &Option<usize>| GradientRequest {
            wanted: parent.is_some(),
            accumulate: parent.and_then(|parent| self.sums.remove(&parent)).map(|sum| sum.gradient),
            // For whoever completes the gradient.
            epilogue: parent
                .filter(|&parent| self.uses[parent] == 1)
                .and_then(|parent| self.tape.nodes()[parent].epilogue.take()),
        };
        let requests = parents.iter().map(request).collect();
        parents.iter().flatten().for_each(|&parent| self.uses[parent] -= 1);
        requests
    }

    /// Adds a node's contributions to its parents' gradients.
    fn add(
        &mut self,
        op: &str,
        parents: &[Option<usize>],
        mut requests: Vec<GradientRequest>,
        contributions: Contributions,
    ) -> Result<()> {
        let refuse = |what: &str| Err(Error::Autograd(format!("{op}: {what}")));
        if contributions.len() != parents.len() {
            let (got, want) = (contributions.len(), parents.len());
            return refuse(&format!("its backward pass gave {got} gradients for {want} parents"));
        }
        // Sums that were not taken go back before anything is added: two parents may be one node, whose sum the first of them
        // then held.
        for (parent, request) in parents.iter().zip(&mut requests) {
            if let (Some(parent), Some(sum)) = (parent, request.accumulate.take()) {
                self.sums.insert(*parent, sum.into());
            }
        }
        for ((parent, request), contribution) in parents.iter().zip(requests).zip(contributions) {
            let Some(parent) = *parent else { continue };
            let Some(contribution) = contribution else { return refuse("a parent's gradient is missing") };
            if contribution.fused.is_some() && request.epilogue.is_none() {
                return refuse("it fused an epilogue that it was not shown");
            }
            match self.sums.entry(parent) {
                Entry::Vacant(slot) => {
                    slot.insert(contribution);
                }
                Entry::Occupied(_) if contribution.fused.is_some() => {
                    return refuse("it fused an epilogue into a part of a gradient");
                }
                Entry::Occupied(mut sum) => sum.get_mut().gradient.accumulate(&contribution.gradient)?,
            }
        }
        Ok(())
    }
}
