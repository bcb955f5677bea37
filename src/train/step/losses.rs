//! A step's losses, which nobody waits for before the next step is under way.

use crate::{Error, Result, adapt::LossParts, tensor::Pending};

/// The losses of a step, by name.
pub(in crate::train) type Losses = Vec<(&'static str, f64)>;

/// The losses of a step that was launched, on their way to the host.
pub struct PendingLosses(Vec<(&'static str, Pending<f32>)>);

impl PendingLosses {
    /// Begins to copy the scalars, f32.
    pub(super) fn read(parts: &LossParts) -> Result<Self> {
        parts.iter().map(|(name, value)| Ok((*name, value.read_later()?))).collect::<Result<_>>().map(Self)
    }

    /// Waits for the step, and gives its losses by name.
    ///
    /// Errors: those of the device that the step ran into.
    pub fn wait(self) -> Result<Vec<(&'static str, f64)>> {
        let value = |(name, pending): (&'static str, Pending<f32>)| {
            let missing = || Error::Internal(format!("the loss {name} is empty"));
            Ok((name, f64::from(*pending.wait()?.first().ok_or_else(missing)?)))
        };
        self.0.into_iter().map(value).collect()
    }
}

/// Errors where a loss is NaN or infinite.
pub(in crate::train) fn expect_finite(losses: &Losses, step: u64, advice: impl FnOnce() -> String) -> Result<()> {
    match losses.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => {
            Err(Error::NotFinite { what: format!("the loss {name}"), value: *value, step, advice: advice() })
        }
        None => Ok(()),
    }
}
