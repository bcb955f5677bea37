//! Parameters, and the layers made of them.

mod forward;
mod layers;
mod parameters;
mod precision;

pub use forward::{BatchStatistics, Domain, Forward, Normalization};
pub use layers::{Aspp, BatchNorm, Conv2d, ConvShape, EPSILON, TARGET_PREFIX};
pub use parameters::{ParameterId, Parameters, Role};
pub use precision::Precision;
