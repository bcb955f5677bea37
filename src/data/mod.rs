//! Data sets as their downloads unpack, transforms, and the prefetching loader (docs/method.md, "Data").
//!
//! The path of an image: [`Dataset::read`] decodes one [`Example`]; a [`TrainTransform`] or [`EvalTransform`] resizes,
//! crops, mirrors and normalises it; a [`Loader`] does this on threads and hands out [`Batch`]es in an order that
//! depends on the seed alone. Everything here is plain host memory: the trainer makes tensors of it.

mod class_list;
pub mod classes;
mod dataset;
pub mod decode;
mod description;
mod id_check;
pub mod listing;
mod loader;
pub mod miniature;
mod pixels;
mod prefetch;
pub mod resize;
pub mod rng;
pub mod sets;
mod split;
mod survey;
pub mod transforms;
pub mod write;

pub use class_list::{Class, ClassList, ClassSubset};
pub use classes::{IGNORE, Subset};
pub use dataset::{Dataset, Example, LabelSource};
pub use description::{Description, LabelTable};
pub use loader::{Batch, EvalExample, EvalLoader, Loader, LoaderOptions};
pub use pixels::{LabelMap, RgbImage};
pub use split::Split;
pub use survey::Survey;
pub use transforms::{EvalSize, EvalTransform, Jitter, Normalize, TrainTransform};
