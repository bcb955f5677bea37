//! Data sets, transforms and the prefetching loader.

pub mod miniature;
