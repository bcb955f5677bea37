//! Parameters, and the layers made of them.

mod forward;
mod layers;
mod parameters;

pub use forward::{Forward, Normalization};
pub use layers::{BatchNorm, Conv2d, ConvShape};
pub use parameters::{ParameterId, Parameters, Role};
