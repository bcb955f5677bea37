//! Differentiable operations. Each folder holds one: `mod.rs` (what it computes, its shapes, its checks, its tape
//! closure), `cpu.rs` (Rust), `cuda.rs` (the launch of its kernels, for GPUs and the emulator).

pub mod add;
pub mod conv2d;
pub mod relu;

pub use add::add;
pub use conv2d::{Conv2dSpec, conv2d};
pub use relu::relu;

use crate::tensor::Declaration;

include!(concat!(env!("OUT_DIR"), "/declarations.rs"));

/// Every kernel that the library declares, with the sizes of its parameters.
pub fn kernel_declarations() -> Vec<Declaration> {
    let mut all = crate::tensor::tensor_declarations();
    all.extend(declarations_of_ops());
    all
}
