//! The four presets. docs/method.md, "Presets" and "Optimisation".

use std::{fmt, str::FromStr};

use super::{AdaptConfig, BatchNormConfig, Config, DataConfig, LogConfig, OptimizerConfig, WarmupConfig};
use crate::{
    Error, Result,
    adapt::{LabelSampling, MethodConfig, PrototypeScope},
    data::{Jitter, Normalize, sets},
    models::{Backbone, DeepLabConfig, FeatureKind, Layout},
    nn::{Normalization, Precision},
};

/// A complete configuration by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The paper's method on the published data sets.
    Paper,
    /// What the published code computes: static labels only, no calibration.
    OfficialCode,
    /// Real images without pretrained weights.
    Scratch,
    /// The generated scenes with a narrow network.
    Miniature,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Paper, Self::OfficialCode, Self::Scratch, Self::Miniature];

    /// Its configuration.
    pub fn config(self) -> Config {
        match self {
            Self::Paper => paper(),
            Self::OfficialCode => {
                let mut config = paper();
                config.method.dynamic_labels = false;
                config.method.calibration = false;
                // Its conv1, bn1 and layer1 are the source's, target_conv1 and so on the target's.
                config.model.domain_stem = true;
                config
            }
            Self::Scratch => scratch(),
            Self::Miniature => miniature(),
        }
    }
}

fn paper() -> Config {
    Config {
        seed: 0,
        precision: Precision::Fp32,
        model: DeepLabConfig {
            backbone: Backbone::ResNet101,
            layout: Layout::Caffe,
            width: 64,
            stem_width: None,
            classes: 19,
            feature: FeatureKind::Aspp,
            domain_stem: false,
            domain_statistics: false,
        },
        batch_norm: BatchNormConfig { statistics: Normalization::Batch, trainable: false, precise: false },
        data: DataConfig {
            source: sets::gta5(),
            target: sets::cityscapes(),
            source_root: "data/gta5".into(),
            target_root: "data/cityscapes".into(),
            batch: 2,
            crop: [730, 730],
            short_side: 850,
            scale: [0.8, 1.2],
            mirror: 0.5,
            normalize: Normalize::Caffe,
            jitter: None,
            eval_short_side: 730,
            threads: 4,
            cache_mib: 0,
            skip_bad: 0.0,
            class_list: None,
        },
        optimizer: OptimizerConfig {
            momentum: 0.9,
            weight_decay: 5e-4,
            head_multiplier: 10.0,
            power: 0.9,
            horizon: 1.2,
        },
        warmup: WarmupConfig {
            steps: 60_000,
            learning_rate: 7.5e-5,
            batch: 2,
            crop: [600, 600],
            short_side: 720,
            scale: [0.5, 1.5],
        },
        adapt: AdaptConfig { rounds: 10, steps: 10_000, learning_rate: 7.5e-5, round_decay: 0.5 },
        method: MethodConfig::default(),
        log: LogConfig { checkpoint_every: 1000, log_every: 10, samples: 4 },
    }
}

fn scratch() -> Config {
    let mut config = paper();
    config.model.backbone = Backbone::ResNet18;
    config.model.layout = Layout::Torchvision;
    config.batch_norm.trainable = true;
    config.model.domain_statistics = true;
    // The running statistics are those of a few jittered, darkened crops. Day to dusk, one seed: mIoU 21.8 by whole images,
    // 20.4 by the running ones.
    config.batch_norm.precise = true;
    config.data = DataConfig {
        crop: [192, 256],
        short_side: 240,
        normalize: Normalize::Imagenet,
        jitter: Some(Jitter::SCRATCH),
        eval_short_side: 240,
        threads: 1,
        cache_mib: 512,
        ..config.data
    };
    // Batch norm makes the backbone's filters insensitive to their scale and lets them move fast. The head has none and sums
    // 36 taps of 512 channels: it needs a far smaller rate. Each stage decays to 0. Day to dusk, one seed: mIoU 36.5 on the
    // source's training images after 600 steps, against 24.5 at a rate of 0.01 with the head at ten times that.
    config.optimizer.head_multiplier = 0.016;
    config.optimizer.horizon = 1.0;
    config.warmup = WarmupConfig {
        steps: 600,
        learning_rate: 0.25,
        batch: 4,
        crop: [192, 256],
        short_side: 240,
        scale: [0.8, 1.2],
    };
    config.adapt = AdaptConfig { rounds: 2, steps: 200, learning_rate: 0.05, round_decay: 0.5 };
    config.log = LogConfig { checkpoint_every: 100, log_every: 10, samples: 4 };
    config
}

fn miniature() -> Config {
    let mut config = scratch();
    config.model.width = 16;
    // The running statistics are those of whole images already, but for the jitter.
    config.batch_norm.precise = false;
    // Whole images: more classes meet in a pair, and prototypes are of more pixels.
    config.data.crop = [128, 256];
    config.data.short_side = 0;
    config.data.eval_short_side = 0;
    config.optimizer.head_multiplier = 0.03;
    config.warmup =
        WarmupConfig { steps: 1600, learning_rate: 0.5, batch: 8, crop: [96, 128], short_side: 0, ..config.warmup };
    config.adapt = AdaptConfig { rounds: 3, steps: 400, learning_rate: 0.1, round_decay: 0.7 };
    // The published weights but for the contrast, which 128 rows of pixels bear only with labels in place (seed 100: static
    // labels alone 55.6; with contrast 0.1 56.2 by the published rule, 57.0 in place, and 57.9 with 0.3).
    config.method.prototype_scope = PrototypeScope::Batch;
    config.method.label_sampling = LabelSampling::Aligned;
    config.method.forward_weight = 0.3;
    config.method.backward_weight = 0.3;
    config
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::OfficialCode => "official-code",
            Self::Scratch => "scratch",
            Self::Miniature => "miniature",
        })
    }
}

impl FromStr for Preset {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|preset| preset.to_string() == text);
        found.ok_or_else(|| {
            Error::Config(format!("unknown preset {text:?}; use paper, official-code, scratch or miniature"))
        })
    }
}
