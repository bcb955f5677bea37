//! The losses of a step. docs/method.md, "Total loss":
//!
//! L = CE(pred_S, y_S) + 0.3 CE(pred_T, y_F) + 0.4 (H(pred_S) + 0.3 H(pred_T)) + l1 FCL + l2 BCL

use super::MethodConfig;
use crate::{
    Result, Tensor,
    autograd::Var,
    models::Output,
    ops::{self, ContrastSpec, DomainPair, DomainPrototypes, SegmentationWeights},
};

/// The terms of a step's loss by name, unweighted, for the log.
pub type LossParts = Vec<(&'static str, Tensor)>;

/// What the network makes of a batch of source-target pairs.
pub struct PairOutput {
    /// `[N,h,w,d]` of each domain.
    pub features: DomainPair,
    /// `[N,h,w,C]` of each domain.
    pub logits: DomainPair,
}

impl PairOutput {
    /// Of two passes.
    pub fn apart(source: Output, target: Output) -> Self {
        Self {
            features: DomainPair::Apart([source.features, target.features]),
            logits: DomainPair::Apart([source.logits, target.logits]),
        }
    }

    /// Of one pass over the source's images and then as many of the target.
    pub fn together(both: Output) -> Self {
        Self { features: DomainPair::Together(both.features), logits: DomainPair::Together(both.logits) }
    }
}

/// What an adaptation step computes.
pub struct AdaptationStep {
    /// The scalar to descend.
    pub loss: Var,
    /// Its terms.
    pub parts: LossParts,
    /// What moves the calibration xi, where there is one.
    pub calibration: Option<DomainPrototypes>,
}

/// Cross entropy of labelled images alone: the warm-up.
pub fn source_loss(output: &Output, labels: &Tensor) -> Result<(Var, LossParts)> {
    let weights = SegmentationWeights { cross_entropy: 1.0, entropy: 0.0 };
    let loss = ops::segmentation_loss(&output.logits, labels, weights)?;
    Ok((loss.total, vec![("source_ce", loss.cross_entropy)]))
}

/// The total loss of a batch of source-target pairs.
///
/// `source_labels` and `static_labels` are u8 `[N,H,W]`; `calibration` is xi `[C,d]`, zero at the start.
pub fn adaptation_step(
    method: &MethodConfig,
    pairs: &PairOutput,
    source_labels: &Tensor,
    static_labels: &Tensor,
    calibration: &Tensor,
) -> Result<AdaptationStep> {
    let contrast = match method.needs_prototypes() {
        true => {
            let [.., classes] = pairs.logits.vars()[0].value().dims::<4>("adaptation_step")?;
            let (labels, xi) = ([source_labels, static_labels], method.calibration.then_some(calibration));
            Some(ops::bidirectional_contrast(&pairs.features, labels, xi, &method.contrast(classes))?)
        }
        false => None,
    };
    let dynamic = contrast.as_ref().and_then(|contrast| contrast.dynamic_labels.as_ref());
    let hybrid = match dynamic.filter(|_| method.hybrid_ce) {
        Some(dynamic) => &ops::hybrid_labels(static_labels, dynamic)?,
        None => static_labels,
    };

    let on_source = SegmentationWeights { cross_entropy: 1.0, entropy: method.entropy_weight };
    let on_target = SegmentationWeights {
        cross_entropy: method.target_weight,
        entropy: method.entropy_weight * method.target_weight,
    };
    let contrast_total = contrast.as_ref().and_then(|contrast| contrast.total.as_ref());
    let (labels, weights) = ([source_labels, hybrid], [on_source, on_target]);
    let losses = ops::segmentation_losses(&pairs.logits, labels, weights, contrast_total)?;
    let ([source_ce, target_ce], [source_entropy, target_entropy]) = (losses.cross_entropy, losses.entropy);
    let mut parts = vec![
        ("loss", losses.total.value().clone()),
        ("source_ce", source_ce),
        ("target_ce", target_ce),
        ("source_entropy", source_entropy),
        ("target_entropy", target_entropy),
    ];
    let mut calibration = None;
    if let Some(contrast) = contrast {
        parts.extend(contrast.forward.map(|forward| ("forward_contrast", forward)));
        parts.extend(contrast.backward.map(|backward| ("backward_contrast", backward)));
        calibration = Some(contrast.prototypes).filter(|_| method.dynamic_labels && method.calibration);
    }
    Ok(AdaptationStep { loss: losses.total, parts, calibration })
}

impl MethodConfig {
    fn contrast(&self, classes: usize) -> ContrastSpec {
        ContrastSpec {
            classes,
            forward_weight: self.forward_weight,
            backward_weight: self.backward_weight,
            temperature: self.temperature,
            transfer_threshold: self.dynamic_labels.then_some(self.transfer_threshold),
            scope: self.prototype_scope,
            sampling: self.label_sampling,
        }
    }
}
