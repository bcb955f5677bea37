//! A convolution and the batch norm after it, in as few passes as the kernels can.

use super::{
    BatchNormMode, BatchNormOutput, BatchNormSpec, Conv2dSpec,
    batch_norm::{Affine, Saved, Statistics, Wanted, batch_norm_with, check, normalise},
    conv2d::{CheckedConv, SavedConv, conv2d, conv2d_with_moments, forward_normalized},
    epilogue::{BatchNormEpilogue, NormParams},
};
use crate::{
    Result,
    autograd::{Contribution, Var},
};

const OP: &str = "conv2d_batch_norm";

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
    let conv = CheckedConv::new(x, w, bias, spec)?;
    check(x.value(), &conv.output(), scale.value(), shift.value(), norm)?;
    let statistics =
        Statistics { mean: mean.clone(), variance: variance.clone(), epsilon, groups: 1, from_batch: false };
    let affine = Affine { statistics, scale: scale.value().clone(), shift: shift.value().clone() };
    let residual = norm.residual.map(Var::value);
    let params = NormParams::forward(norm.relu, epsilon);
    let after = BatchNormEpilogue { residual, vectors: affine.vectors().map(Some), params };
    let (z, normalized) = forward_normalized(&conv, x.value(), w.value(), bias.map(Var::value), &after)?;
    let y = if normalized { z } else { normalise(&z, residual, &affine, norm.relu)? };

    let saved_conv = SavedConv::new(conv, x, w);
    let has_residual = norm.residual.is_some();
    // The convolution's output is gone: y tells the ReLU's mask.
    let mut saved = Saved { x: None, y: norm.relu.then(|| y.clone()), affine, relu: norm.relu, has_residual };
    let parents: Vec<&Var> = [Some(x), Some(w), bias, norm.residual].into_iter().flatten().collect();
    let of_conv = parents.len() - usize::from(has_residual);
    let epilogue = saved.mask_epilogue(&y);
    let y = Var::record_fusing(OP, y, &parents, epilogue, move |dy, fused, requests| {
        if fused.is_some() && !has_residual {
            return saved_conv.gradients(&dy, requests);
        }
        if fused.is_some() {
            (saved.relu, saved.y) = (false, None);
        }
        let (conv, residual) = requests.split_at_mut(of_conv);
        let wanted = Wanted {
            x: conv.iter().any(|request| request.wanted),
            residual: residual.iter().any(|request| request.wanted),
        };
        let (dz, dresidual) = saved.images_by_given(dy, wanted)?;
        let mut gradients = match dz {
            Some(dz) => saved_conv.gradients(&dz, conv)?,
            None => conv.iter().map(|_| None).collect(),
        };
        if has_residual {
            gradients.push(dresidual.map(Contribution::from));
        }
        Ok(gradients)
    })?;
    Ok(BatchNormOutput { y, mean: mean.clone(), variance: variance.clone() })
}
