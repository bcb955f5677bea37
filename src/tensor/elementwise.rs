//! The elementwise work that tensors themselves need: conversion between float types, and the sum of gradients.

use half::bf16;
use rayon::prelude::*;

use super::{DType, Element, In, Inout, Out, Tensor, Val};
use crate::{Result, device::Launch, kernels, with_float};

/// Elements a parallel task handles: big enough that scheduling is noise, small enough to balance.
const CHUNK: usize = 1 << 15;

kernels! { "tensor";
    /// y = T(x) from f32.
    fn cast_from_f32<T in f64 | bf16>(x: In<f32>, y: Out<T>, count: Val<i32>);
    /// y = f32(x).
    fn cast_to_f32<T in f64 | bf16>(x: In<T>, y: Out<f32>, count: Val<i32>);
    /// total += x.
    fn accumulate<T in f32 | f64 | bf16>(total: Inout<T>, x: In<T>, count: Val<i32>);
}

fn convert<A: Element, B: Element>(x: &Tensor, f: impl Fn(A) -> B + Sync) -> Result<Tensor> {
    let mut y = Tensor::empty(x.shape(), B::DTYPE, x.device())?;
    let (source, target) = (x.as_slice::<A>()?, y.as_mut_slice::<B>()?);
    target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK)).for_each(|(target, source)| {
        for (t, &s) in target.iter_mut().zip(source) {
            *t = f(s);
        }
    });
    Ok(y)
}

impl Tensor {
    /// A copy with another float type, rounded to nearest even; the same type shares the memory.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if self.device().is_cpu() {
            return match (self.dtype(), dtype) {
                (DType::F32, DType::F64) => convert(self, |x: f32| f64::from(x)),
                (DType::F64, DType::F32) => convert(self, |x: f64| x as f32),
                (DType::F32, DType::Bf16) => convert(self, bf16::from_f32),
                (DType::Bf16, DType::F32) => convert(self, |x: bf16| x.to_f32()),
                (DType::Bf16, DType::F64) => convert(self, |x: bf16| x.to_f64()),
                (DType::F64, DType::Bf16) => convert(self, bf16::from_f64),
                (got, _) => Err(crate::Error::DType { op: "to_dtype", got, want: "a float type on both sides" }),
            };
        }
        let mut y = Tensor::empty(self.shape(), dtype, self.device())?;
        let launch = Launch::packs("to_dtype", self.len(), self.dtype().size().min(dtype.size()))?;
        let count = self.len() as i32;
        match (self.dtype(), dtype) {
            // SAFETY (each call): both tensors hold `count` elements, which the launch covers.
            (DType::F32, DType::F64) => unsafe {
                cast_from_f32::<f64>(self.device(), launch, self, &mut y, count)?;
            },
            (DType::F32, DType::Bf16) => unsafe {
                cast_from_f32::<bf16>(self.device(), launch, self, &mut y, count)?;
            },
            (DType::F64, DType::F32) => unsafe {
                cast_to_f32::<f64>(self.device(), launch, self, &mut y, count)?;
            },
            (DType::Bf16, DType::F32) => unsafe {
                cast_to_f32::<bf16>(self.device(), launch, self, &mut y, count)?;
            },
            (DType::Bf16, DType::F64) | (DType::F64, DType::Bf16) => {
                return self.to_dtype(DType::F32)?.to_dtype(dtype);
            }
            (got, _) => return Err(crate::Error::DType { op: "to_dtype", got, want: "a float type on both sides" }),
        }
        Ok(y)
    }

    /// Adds `other` to this tensor in place (`+=`).
    pub fn accumulate(&mut self, other: &Tensor) -> Result<()> {
        const OP: &str = "accumulate";
        other.expect_shape(self.shape(), OP, "the summand")?;
        self.expect_same_device(other, OP)?;
        if self.device().is_cpu() {
            return match self.dtype() {
                DType::F32 => add_to::<f32>(self, other, |a, b| a + b),
                DType::F64 => add_to::<f64>(self, other, |a, b| a + b),
                DType::Bf16 => add_to::<bf16>(self, other, |a, b| bf16::from_f32(a.to_f32() + b.to_f32())),
                got => Err(crate::Error::DType { op: OP, got, want: "f32, f64 or bf16" }),
            };
        }
        let (device, count) = (self.device().clone(), self.len());
        let launch = Launch::packs(OP, count, self.dtype().size())?;
        // SAFETY: both tensors hold `count` elements, which the launch covers.
        with_float!(self.dtype(), OP, T => unsafe { accumulate::<T>(&device, launch, self, other, count as i32) })
    }
}

fn add_to<T: Element>(total: &mut Tensor, x: &Tensor, add: impl Fn(T, T) -> T + Sync) -> Result<()> {
    let (total, x) = (total.as_mut_slice::<T>()?, x.as_slice::<T>()?);
    total.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(total, x)| {
        for (t, &x) in total.iter_mut().zip(x) {
            *t = add(*t, x);
        }
    });
    Ok(())
}
