//! Parameters, and the layers made of them.

mod forward;
mod layers;
mod parameters;
mod precision;

pub use forward::{Domain, Forward, Normalization, Statistics};
pub use layers::{Aspp, BatchNorm, Conv2d, ConvShape, TARGET_PREFIX};
pub use parameters::{ParameterId, Parameters, Role};
pub use precision::Precision;
