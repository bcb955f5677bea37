//! The total loss as a weighted sum of scalar terms: y = sum_i w_i x_i (docs/method.md, "Total loss").
//!
//! The terms stay on their device: nothing waits for their values. The order of addition is that of the terms.

use super::scale::scaled;
use crate::{Error, Result, autograd::Var};

const OP: &str = "weighted_sum";

/// Reference: the CPU composes the losses of a step of it.
/// sum_i w_i x_i of scalars of shape [], all of one float dtype and device. The gradient of x_i is w_i dy.
///
/// Errors: no terms; a term that is no scalar; dtypes or devices that differ.
pub fn weighted_sum(terms: &[(&Var, f64)]) -> Result<Var> {
    let Some(&(first, first_weight)) = terms.first() else {
        return Err(Error::shape(OP, "no terms were given; give at least one"));
    };
    for (term, _) in terms {
        term.value().expect_shape(&[], OP, "each term")?;
        first.value().expect_same_device(term.value(), OP)?;
        let (left, right) = (first.value().dtype(), term.value().dtype());
        if left != right {
            return Err(Error::shape(OP, format!("terms of dtype {left} and {right}; convert one")));
        }
    }
    let mut total = scaled(first.value(), first_weight)?;
    for (term, weight) in &terms[1..] {
        total.accumulate(&scaled(term.value(), *weight)?)?;
    }
    let parents: Vec<&Var> = terms.iter().map(|(term, _)| *term).collect();
    let weights: Vec<f64> = terms.iter().map(|(_, weight)| *weight).collect();
    Var::record_many(OP, total, &parents, move |dy, wanted| {
        let gradient = |(&weight, &wanted): (&f64, &bool)| wanted.then(|| scaled(&dy, weight)).transpose();
        weights.iter().zip(wanted).map(gradient).collect()
    })
}
