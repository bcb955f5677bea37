#![doc = "Bi-directional contrastive learning for domain adaptive semantic segmentation."]
#![warn(missing_docs)]

// One direction: a module imports only from those above it (tests/layers.rs checks it).
pub mod adapt;
pub mod autograd;
pub mod cli;
pub mod data;
pub mod device;
mod error;
pub mod models;
pub mod nn;
pub mod ops;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use error::{Error, Result};
pub use tensor::{DType, Tensor};
