//! What the contrastive operations share: cosines between feature pixels and prototypes, and their gradients.
//!
//! With u = 1 / max(|f|, 1e-12) and v = 1 / max(|rho|, 1e-12) (docs/method.md, "Pixel-prototype similarity"):
//!
//! ```text
//! s(p,c)    = u(p) v(c) <f(p), rho(c)>                        0 for a zero vector, -1 for an absent class
//! df(p)     = u(p) ( sum_c g(p,c) v(c) rho(c)  -  a(p) u(p) f(p) )        a(p) = sum_c g(p,c) s(p,c)
//! drho(c)   = v(c) ( S(c)  -  b(c) v(c) rho(c) )                          S(c) = sum_p g(p,c) u(p) f(p)
//! ```
//!
//! with b(c) = sum_p g(p,c) s(p,c), which is <S(c), v(c) rho(c)>: kernels take the second form, which needs no sum of its own.
//!
//! where g = dL/ds, and g = 0 for absent classes. A vector whose norm is not above the clamp has no direction, and
//! its gradient is 0. Norms are computed with a scale where squares would overflow.

mod cpu;
pub(crate) mod cuda;

pub(super) use cpu::{Gradients, gradients, inverse_norm, similarities, unit_rows};

use super::Prototypes;
use crate::{Error, Result, Tensor, autograd::Var};

/// Norms are clamped below at this value.
pub(super) const EPSILON: f64 = 1e-12;

/// An error unless the temperature is a positive number.
pub(super) fn check_temperature(op: &'static str, temperature: f64) -> Result<()> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!("{op}: temperature {temperature} must be a positive number, such as 0.1")))
}

/// The extents of features [N,h,w,d] against prototypes [N,C,d].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub pairs: usize,
    pub height: usize,
    pub width: usize,
    pub depth: usize,
    pub classes: usize,
}

impl Extents {
    /// Feature pixels of a pair.
    pub fn cells(&self) -> usize {
        self.height * self.width
    }

    /// Holds features [N,h,w,d] against prototypes [N,C,d] and their counts or presence [N,C].
    pub fn check(op: &'static str, features: &Tensor, vectors: &Tensor, presence: &Tensor) -> Result<Self> {
        let [pairs, height, width, depth] = features.dims(op)?;
        let [_, classes, _] = vectors.dims(op)?;
        vectors.expect_shape(&[pairs, classes, depth], op, "the prototypes")?;
        presence.expect_shape(&[pairs, classes], op, "the prototypes' counts")?;
        features.expect_same_device(vectors, op)?;
        features.expect_same_device(presence, op)?;
        let accumulator = features.dtype().accumulator();
        if vectors.dtype() != accumulator || !accumulator.is_float() {
            let (got, want) = (vectors.dtype(), features.dtype());
            return Err(Error::shape(op, format!("prototypes of dtype {got} do not fit features of dtype {want}")));
        }
        if features.is_empty() {
            return Err(Error::shape(op, format!("features {:?} are empty", features.shape())));
        }
        if classes == 0 || classes > 255 {
            return Err(Error::shape(op, format!("{classes} classes; there must be 1 to 255")));
        }
        if features.len() > i32::MAX as usize || pairs * height * width * classes > i32::MAX as usize {
            return Err(Error::shape(op, format!("features {:?} exceed 2^31 - 1 elements", features.shape())));
        }
        Ok(Self { pairs, height, width, depth, classes })
    }

    /// As [`Extents::check`], for the prototypes of a tape.
    pub fn of(op: &'static str, features: &Var, prototypes: &Prototypes) -> Result<Self> {
        Self::check(op, features.value(), prototypes.vectors.value(), &prototypes.counts)
    }
}
