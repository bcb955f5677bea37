//! Data sets, transforms and the prefetching loader.
