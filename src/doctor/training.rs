//! A training in miniature: the whole method, whose losses must be those of the CPU.

use std::time::Duration;

use super::{
    check::{Check, Outcome, Trouble},
    compare::Inputs,
};
use crate::{
    Device, Result,
    data::Batch,
    nn::Precision,
    train::{Config, Network, Preset, Stepper},
};

const SIDE: usize = 40;
const STEPS: usize = 10;
/// So low that rounding does not drive two trainings apart.
const RATE: f64 = 0.002;
/// Losses below this differ by its share.
const SMALL: f64 = 1e-2;

pub(super) fn checks() -> Vec<Check> {
    let check = |name, precision| {
        Check::new("training", name, super::REPORT, move |device| train(precision, device))
            .within(Duration::from_secs(10))
    };
    vec![check("training in fp32", Precision::Fp32), check("training in bf16", Precision::Bf16)]
}

/// Two pictures of squares, each class in a colour that tells it.
fn batch(draw: &mut Inputs) -> Batch {
    let label = |i: usize| ((i / SIDE / 10 * 3 + i % SIDE / 14) % 5) as u8;
    let labels: Vec<u8> = (0..2 * SIDE * SIDE).map(|i| label(i % (SIDE * SIDE))).collect();
    let images = labels.iter().flat_map(|&label| [0.5, 0.2, -0.3].map(|c| c * f32::from(label) - 0.5));
    let images = images.map(|value| value + 0.3 * draw.symmetric() as f32).collect();
    Batch { images, labels, count: 2, height: SIDE, width: SIDE, names: Vec::new(), position: 0 }
}

fn config(precision: Precision) -> Config {
    let mut config = Preset::Miniature.config();
    config.precision = precision;
    // Wide enough for warpgroups in the last stages.
    config.model.width = 8;
    config.data.batch = 2;
    (config.method.forward_weight, config.method.backward_weight) = (0.1, 0.1);
    // A label that rounding tips over a threshold would change all that follows.
    config.method.dynamic_labels = precision == Precision::Fp32;
    config.method.transfer_threshold = 0.3;
    config
}

/// All losses of each step.
fn losses(config: &Config, device: &Device) -> Result<Vec<Vec<(&'static str, f64)>>> {
    let mut network = Network::new(&config.model, config.precision, 3, device)?;
    let (mut stepper, mut draw) = (Stepper::new(), Inputs::new(5));
    let mut step = || {
        let (source, target) = (batch(&mut draw), batch(&mut draw));
        stepper.adapt(&mut network, config, source, target, RATE)
    };
    (0..STEPS).map(|_| step()).collect()
}

fn train(precision: Precision, device: &Device) -> Outcome {
    let device = &device.with(|options| options.warpgroups = Some(true));
    let config = config(precision);
    let want = losses(&Config { precision: Precision::Fp32, ..config.clone() }, &Device::cpu())?;
    let got = losses(&config, device)?;
    let mut worst = (0.0f64, String::new());
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        for ((name, got), (_, want)) in got.iter().zip(want) {
            let error = (got - want).abs() / want.abs().max(SMALL);
            // NaN is the worst there is.
            if error.is_nan() || error > worst.0 {
                worst = (error, format!("{name} is {got}, not {want}, in step {}", step + 1));
            }
        }
    }
    let (error, place) = worst;
    let bound = if precision == Precision::Fp32 { 1e-3 } else { 1e-1 };
    match error <= bound {
        true => Ok(format!("{STEPS} steps, each loss within {error:.0e} of the CPU's")),
        false => Err(Trouble::Wrong(format!("{place} (relative {error:.1e}, at most {bound:e})"))),
    }
}
