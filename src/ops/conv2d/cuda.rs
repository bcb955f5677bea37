//! Launches of `kernels/conv2d.cu`.

use super::{ConvParams, OP};
use crate::{
    Error, Result, Tensor,
    tensor::{Declaration, Element},
};

pub(crate) fn declarations() -> Vec<Declaration> {
    Vec::new()
}

fn missing(tensor: &Tensor) -> Error {
    Error::Internal(format!("{OP}: no kernels for {}", tensor.device()))
}

pub(super) fn forward<T: Element>(_: &ConvParams, x: &Tensor, _: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
    Err(missing(x))
}

pub(super) fn data_gradient<T: Element>(_: &ConvParams, dy: &Tensor, _: &Tensor) -> Result<Tensor> {
    Err(missing(dy))
}

pub(super) fn weight_gradient<T: Element>(_: &ConvParams, dy: &Tensor, _: &Tensor) -> Result<Tensor> {
    Err(missing(dy))
}

pub(super) fn bias_gradient<T: Element>(_: &ConvParams, dy: &Tensor) -> Result<Tensor> {
    Err(missing(dy))
}
