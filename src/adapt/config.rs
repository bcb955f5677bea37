//! The method's switches and weights, so that each part can be ablated.

use serde::{Deserialize, Serialize};

use crate::ops::{LabelSampling, PrototypeScope};

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
    /// Where the contrastive terms read labels; `label_places` in older files.
    #[serde(alias = "label_places")]
    pub label_sampling: LabelSampling,
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
            label_sampling: LabelSampling::Nearest,
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
