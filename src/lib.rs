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
//! ARCHITECTURE.md says how they depend on each other, and docs/method.md has the method's equations.
//!
//! # An operation and its gradient
//!
//! Operations record themselves on a [`Tape`](autograd::Tape), which runs backwards:
//!
//! ```
//! use bicl::{Device, Tensor, autograd::Tape, ops};
//! let device = Device::cpu();
//! let tape = Tape::new(&device);
//! let x = tape.variable(Tensor::from_vec(vec![-1.0f32, 2.0, 3.0], &[3], &device)?);
//! let y = ops::sum(&ops::relu(&x)?)?;
//! assert_eq!(y.value().item()?, 5.0);
//! let gradients = tape.backward(&y)?;
//! assert_eq!(gradients.get(&x).expect("y depends on x").to_vec::<f32>()?, [0.0, 1.0, 1.0]);
//! # Ok::<(), bicl::Error>(())
//! ```
//!
//! # The method's own
//!
//! The prototypes of a source image, and the contrastive loss of two target pixels against them:
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
//!
//! # A training step
//!
//! Forward, losses, backward and update, of a network on a batch of 32 x 32 pixels of either domain:
//!
//! ```
//! use bicl::{Device, data::Batch, train::{Network, Preset, Stepper}};
//! let mut config = Preset::Miniature.config();
//! config.model.width = 2;
//! let mut network = Network::new(&config.model, config.precision, config.seed, &Device::cpu())?;
//! let batch = |label: u8| Batch {
//!     images: vec![0.5; 32 * 32 * 3],
//!     labels: vec![label; 32 * 32],
//!     count: 1,
//!     height: 32,
//!     width: 32,
//!     names: Vec::new(),
//!     position: 0,
//! };
//! // The target's labels are pseudo labels; 255 is none.
//! let losses = Stepper::new().adapt(&mut network, &config, batch(1), batch(255), 0.01)?;
//! assert_eq!(losses[0].0, "loss");
//! # Ok::<(), bicl::Error>(())
//! ```
//!
//! The programs in `examples` go on from here: an operation of one's own, and a training loop.
#![warn(missing_docs)]

// One direction: a module imports only from those to its left in dtype, error, device, tensor, autograd, ops, nn, models,
// adapt, data, train, doctor, cli (tests/it/layers.rs checks it).
pub mod adapt;
pub mod autograd;
pub mod cli;
pub mod data;
pub mod device;
pub mod doctor;
mod dtype;
mod error;
pub mod models;
pub mod nn;
pub mod ops;
pub mod tensor;
pub mod train;

pub use device::Device;
pub use dtype::DType;
pub use error::{Error, Result};
pub use tensor::Tensor;
pub(crate) use tensor::kernels;
