#![doc = "Bi-directional contrastive learning for domain adaptive semantic segmentation."]
#![warn(missing_docs)]

// One direction: a module imports only from those above it (tests/layers.rs checks it).
pub mod data;
mod error;
pub mod tensor;

pub use error::{Error, Result};
