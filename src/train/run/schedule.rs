//! Learning rates. docs/method.md, "Optimisation": lr = base (1 - i / I)^power with I = horizon * steps.

use crate::train::OptimizerConfig;

/// Polynomial decay over one stage.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    base: f64,
    length: f64,
    power: f64,
}

impl Schedule {
    /// For a stage of `steps` steps that begins at `base`.
    pub fn new(optimizer: &OptimizerConfig, base: f64, steps: u64) -> Self {
        Self { base, length: optimizer.horizon * steps.max(1) as f64, power: optimizer.power }
    }

    /// The backbone's rate in step `step`, counted from 0 within the stage.
    pub fn rate(&self, step: u64) -> f64 {
        self.base * (1.0 - step as f64 / self.length).max(0.0).powf(self.power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decays_polynomially_and_does_not_reach_zero() {
        let optimizer =
            OptimizerConfig { momentum: 0.9, weight_decay: 0.0, head_multiplier: 1.0, power: 0.9, horizon: 1.2 };
        let schedule = Schedule::new(&optimizer, 2.0, 100);
        assert_eq!(schedule.rate(0), 2.0);
        assert!((schedule.rate(60) - 2.0 * 0.5f64.powf(0.9)).abs() < 1e-12);
        assert!(schedule.rate(99) > 0.3);
    }
}
