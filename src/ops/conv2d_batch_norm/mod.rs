//! A convolution and the batch norm after it, in as few passes as the kernels can.

use super::{
    Affine, BatchNormMode, BatchNormOutput, BatchNormSpec, Saved, Statistics, Wanted, batch_norm_with, check,
    gradient_offer::GradientOffer, normalise,
};
use crate::{
    DType, Result, Tensor,
    autograd::Var,
    ops::{
        Conv2dSpec,
        conv2d::{Kept, Problem, conv2d, conv2d_with_moments, forward_normalized},
    },
};

const OP: &str = "conv2d_batch_norm";

/// `NormParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct NormParams {
    groups: i32,
    relu: i32,
    scaled: i32,
    epsilon: f32,
}

impl NormParams {
    /// Of no batch norm.
    pub const NONE: Self = Self { groups: 1, relu: 0, scaled: 0, epsilon: 0.0 };

    pub(super) fn new(affine: &Affine, relu: bool) -> Self {
        let statistics = &affine.statistics;
        let (groups, relu) = (statistics.groups as i32, i32::from(relu));
        Self { groups, relu, scaled: 0, epsilon: statistics.epsilon as f32 }
    }

    /// For a gradient that is to be scaled where it is masked.
    pub(super) fn scaled(self, scaled: bool) -> Self {
        Self { scaled: i32::from(scaled), ..self }
    }
}

/// The arguments of a kernel that ends with a batch norm by given statistics, or of one that does not.
pub(in crate::ops) struct NormAfter<'a> {
    pub residual: Option<&'a Tensor>,
    /// Mean, variance, scale and shift, \[K\] each.
    pub vectors: [Option<&'a Tensor>; 4],
    pub params: NormParams,
}

impl NormAfter<'_> {
    /// No batch norm.
    pub fn none() -> Self {
        Self { residual: None, vectors: [None; 4], params: NormParams::NONE }
    }

    /// The same if the channels come in whole chunks of 16 bytes, as kernels want it; else none.
    pub fn by_chunks(&self, channels: usize, dtype: DType) -> Self {
        if channels.is_multiple_of(16 / dtype.size()) { Self { ..*self } } else { Self::none() }
    }

    pub fn is_some(&self) -> bool {
        self.vectors[0].is_some()
    }
}

/// As [`conv2d()`] and then [`batch_norm_with`] of its output with `norm`, whose `moments` are left out of account. By the
/// batch's statistics the convolution takes the moments where its kernel can; by running statistics, with a constant scale and
/// shift, the kernel also normalises where it can, and its own output is never stored. The bits are those of two passes.
///
/// Errors: those of the two.
pub fn conv2d_batch_norm(
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    spec: &Conv2dSpec,
    [scale, shift]: [&Var; 2],
    norm: &BatchNormSpec<'_>,
) -> Result<BatchNormOutput> {
    let (mean, variance, epsilon) = match norm.mode {
        BatchNormMode::Batch { groups, .. } => {
            let (z, moments) = conv2d_with_moments(x, w, bias, spec, groups)?;
            return batch_norm_with(&z, scale, shift, &BatchNormSpec { moments: moments.as_ref(), ..*norm });
        }
        BatchNormMode::Running { mean, variance, epsilon } => (mean, variance, epsilon),
    };
    if scale.is_tracked() || shift.is_tracked() {
        let z = conv2d(x, w, bias, spec)?;
        return batch_norm_with(&z, scale, shift, &BatchNormSpec { moments: None, ..*norm });
    }
    let problem = Problem::new(x, w, bias, spec)?;
    check(x.value(), &problem.output(), scale.value(), shift.value(), norm)?;
    let statistics =
        Statistics { mean: mean.clone(), variance: variance.clone(), epsilon, groups: 1, from_batch: false };
    let affine = Affine { statistics, scale: scale.value().clone(), shift: shift.value().clone() };
    let residual = norm.residual.map(Var::value);
    let after =
        NormAfter { residual, vectors: affine.vectors().map(Some), params: NormParams::new(&affine, norm.relu) };
    let (z, normalized) = forward_normalized(&problem, x.value(), w.value(), bias.map(Var::value), &after)?;
    let y = if normalized { z } else { normalise(&z, residual, &affine, norm.relu)? };

    let kept = Kept::new(problem, x, w);
    let has_residual = norm.residual.is_some();
    // The convolution's output is gone: y tells the ReLU's mask.
    let mut saved = Saved { x: None, y: norm.relu.then(|| y.clone()), affine, relu: norm.relu, has_residual };
    let parents: Vec<&Var> = [Some(x), Some(w), bias, norm.residual].into_iter().flatten().collect();
    let of_conv = parents.len() - usize::from(has_residual);
    let offer = GradientOffer::by_given(&saved, &y);
    let answer = offer.clone();
    let y = Var::record_adding(OP, y, &parents, move |dy, demands| {
        let masked = answer.and_then(|offer| offer.take_answer()).is_some();
        if masked && !has_residual {
            return kept.gradients(&dy, demands);
        }
        if masked {
            (saved.relu, saved.y) = (false, None);
        }
        let (conv, residual) = demands.split_at_mut(of_conv);
        let wanted = Wanted {
            x: conv.iter().any(|demand| demand.wanted),
            residual: residual.iter().any(|demand| demand.wanted),
        };
        let (dz, dresidual) = saved.images(dy, None, wanted)?;
        let mut gradients = match dz {
            Some(dz) => kept.gradients(&dz, conv)?,
            None => vec![None; of_conv],
        };
        if has_residual {
            gradients.push(dresidual);
        }
        Ok(gradients)
    })?;
    let y = match offer {
        Some(offer) => y.offering(offer),
        None => y,
    };
    Ok(BatchNormOutput { y, mean: mean.clone(), variance: variance.clone() })
}
