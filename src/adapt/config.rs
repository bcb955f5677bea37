//! The method's switches and weights, so that each part can be ablated.

use serde::{Deserialize, Serialize};

use crate::ops;

/// Over which images a prototype is averaged. docs/method.md, "Prototypes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrototypeScope {
    /// Every source-target pair has its own.
    Pair,
    /// The whole batch has one set.
    Batch,
}

impl From<PrototypeScope> for ops::PrototypeScope {
    fn from(scope: PrototypeScope) -> Self {
        match scope {
            PrototypeScope::Pair => Self::Pair,
            PrototypeScope::Batch => Self::Batch,
        }
    }
}

/// Where the contrastive terms read the label of a feature pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelPlaces {
    /// By PyTorch's nearest-neighbour rule, as the published code: docs/method.md, "Prototypes".
    Nearest,
    /// Where the upsampling of the logits puts it: [`fn@ops::align_labels`]. For small images, on which the other rule is off by
    /// the size of the objects.
    Aligned,
}

impl From<LabelPlaces> for ops::LabelPlaces {
    fn from(places: LabelPlaces) -> Self {
        match places {
            LabelPlaces::Nearest => Self::Nearest,
            LabelPlaces::Aligned => Self::Aligned,
        }
    }
}

/// docs/method.md, "The two contrastive terms" to "Total loss".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodConfig {
    /// Weight of the forward term: target pixels against source prototypes.
    pub forward_weight: f64,
    /// Weight of the backward term: source pixels against target prototypes.
    pub backward_weight: f64,
    /// Temperature tau of the similarities.
    pub temperature: f64,
    /// Dynamic pseudo labels by non-parametric label transfer.
    pub dynamic_labels: bool,
    /// Probability above which a transferred label is taken.
    pub transfer_threshold: f64,
    /// Calibrate the source prototypes by the class-wise domain bias before the transfer.
    pub calibration: bool,
    /// Momentum of the bias's running average.
    pub calibration_momentum: f64,
    /// Over which images a prototype is averaged.
    pub prototype_scope: PrototypeScope,
    /// Where the contrastive terms read labels.
    pub label_places: LabelPlaces,
    /// Target cross entropy on the hybrid labels instead of the static ones.
    pub hybrid_ce: bool,
    /// Weight of the target's cross entropy and entropy against the source's.
    pub target_weight: f64,
    /// Weight of the entropy terms.
    pub entropy_weight: f64,
    /// Share of the most confident pixels that static labels keep.
    pub cb_prop: f64,
    /// Classes that static labels never gain by their own threshold (SYNTHIA lacks them).
    pub excluded_classes: Vec<u8>,
}

impl Default for MethodConfig {
    /// The paper's method with the published code's weights for GTA5.
    fn default() -> Self {
        Self {
            forward_weight: 0.1,
            backward_weight: 0.1,
            temperature: 0.1,
            dynamic_labels: true,
            transfer_threshold: 0.8,
            calibration: true,
            calibration_momentum: 0.99,
            prototype_scope: PrototypeScope::Pair,
            label_places: LabelPlaces::Nearest,
            hybrid_ce: false,
            target_weight: 0.3,
            entropy_weight: 0.4,
            cb_prop: 0.1,
            excluded_classes: Vec::new(),
        }
    }
}

impl MethodConfig {
    /// Whether a step needs prototypes at all.
    pub fn needs_prototypes(&self) -> bool {
        self.forward_weight != 0.0 || self.backward_weight != 0.0 || (self.hybrid_ce && self.dynamic_labels)
    }
}
