//! Bi-directional contrastive learning for domain adaptive semantic segmentation (Lee et al., ECCV 2022): CUDA
//! kernels, a small tape-based autograd, and the trainer that uses them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | CPU, GPU and emulator; memory; launches; captured graphs |
//! | [`tensor`] | dense tensors, element types, typed kernel launches |
//! | [`autograd`] | the tape |
//! | [`ops`] | differentiable operations, one folder each |
//! | [`nn`], [`models`] | parameters, layers, DeepLab-V2 |
//! | [`adapt`] | the method's losses and pseudo labels |
//! | [`data`] | data sets, transforms, loader |
//! | [`train`] | configuration, the loop, checkpoints |
//! | [`doctor`], [`cli`] | the self-test of a machine and its GPU; the program `trainer` |
//!
//! A prototype and the contrastive loss of two feature pixels against it:
//!
//! ```
//! use bicl::{Device, Tensor, autograd::Tape, ops};
//! let device = Device::cpu();
//! let tape = Tape::new(&device);
//! let source = tape.variable(Tensor::from_vec(vec![1.0f32, 0.0, 0.0, 1.0], &[1, 1, 2, 2], &device)?);
//! let target = tape.variable(Tensor::from_vec(vec![0.8f32, 0.6, 0.0, 2.0], &[1, 1, 2, 2], &device)?);
//! let labels = Tensor::from_vec(vec![0u8, 1], &[1, 1, 2], &device)?;
//! let prototypes = ops::masked_average_pool(&source, &labels, 2)?;
//! let overlap = ops::class_overlap(&prototypes.counts, &prototypes.counts)?;
//! let loss = ops::contrastive_loss(&target, &labels, &prototypes, &overlap, 0.1)?;
//! assert!(loss.value().item()? > 0.0);
//! let gradients = tape.backward(&loss)?;
//! assert!(gradients.get(&source).is_some() && gradients.get(&target).is_some());
//! # Ok::<(), bicl::Error>(())
//! ```
#![warn(missing_docs)]
// Shapes are written [N,H,W,C] all over, which is no link.
#![allow(rustdoc::broken_intra_doc_links)]

// One direction: a module imports only from those to its left in device, tensor, autograd, ops, nn, models, adapt,
// data, train, doctor, cli (tests/layers.rs checks it).
pub mod adapt;
pub mod autograd;
pub mod cli;
pub mod data;
pub mod device;
pub mod doctor;
mod error;
pub mod models;
pub mod nn;
pub mod ops;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use error::{Error, Result};
pub(crate) use tensor::kernels;
pub use tensor::{DType, Tensor};
