//! Kernel launches.

use crate::{Error, Result, Tensor, tensor::Declaration};

pub(crate) fn declarations() -> Vec<Declaration> {
    Vec::new()
}
pub(super) fn resize(_: &Tensor, _: &mut Tensor) -> Result<()> {
    Err(Error::NoKernels)
}
