//! Sum and mean of all elements of a tensor, as a scalar of shape [].
//!
//! Fixed pieces are summed, then their sums, in an order that depends on the size alone: the result is the same
//! bits on any number of threads. bf16 sums in f32 and gives an f32 scalar.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Error, Result, Tensor, autograd::Var, with_float};

const OP: &str = "reduce";

/// Reference: a scalar of any output, to take gradients of.
/// The sum of all elements of `x` (f32, f64 or bf16, any shape) as a scalar of shape []; 0 for no elements.
///
/// Errors: a dtype that is no float.
pub fn sum(x: &Var) -> Result<Var> {
    reduce("sum", x, 1.0)
}

/// Reference: a scalar of any output, to take gradients of.
/// The mean of all elements of `x` (f32, f64 or bf16, any shape) as a scalar of shape [].
///
/// Errors: a dtype that is no float; no elements.
pub fn mean(x: &Var) -> Result<Var> {
    if x.value().is_empty() {
        return Err(Error::shape("mean", format!("shape {:?} has no elements to average", x.value().shape())));
    }
    reduce("mean", x, 1.0 / x.value().len() as f64)
}

fn reduce(op: &'static str, x: &Var, factor: f64) -> Result<Var> {
    let y = forward(x.value(), factor)?;
    let (shape, dtype) = (x.value().shape().to_vec(), x.value().dtype());
    Var::record(op, y, [x], move |dy, _| Ok([Some(backward(&dy, &shape, dtype, factor)?)]))
}

fn forward(x: &Tensor, factor: f64) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::forward::<T>(x, factor),
        bf16 => forward(&x.to_dtype(DType::F32)?, factor),
        cpu => cpu::forward::<T>(x, factor),
    })
}

fn backward(dy: &Tensor, shape: &[usize], dtype: DType, factor: f64) -> Result<Tensor> {
    if !dy.device().is_cpu() {
        return with_float!(dtype, OP, T => cuda::backward::<T>(dy, shape, factor));
    }
    Tensor::full(shape, dy.item()? * factor, dtype, dy.device())
}
