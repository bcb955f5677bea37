//! Element types: what a tensor stores, and what the CPU computes with.

use std::fmt;

use half::bf16;

pub use crate::dtype::DType;

/// A Rust type that tensors store.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + fmt::Debug + sealed::Sealed {
    /// Its tag.
    const DTYPE: DType;
    /// The type in which sums of it are kept: f32 for bf16, u32 for u8, else the type itself.
    type Accumulator: Element;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($($type:ty => $dtype:ident, $accumulator:ty;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            type Accumulator = $accumulator;
        }
    )*};
}
element!(f32 => F32, f32; f64 => F64, f64; bf16 => Bf16, f32; u8 => U8, u32; u32 => U32, u32;);

/// A float that the CPU computes with: f32, or f64 where gradients are checked.
pub trait Real:
    Element + num_traits::Float + num_traits::NumAssign + std::iter::Sum + num_traits::FromPrimitive
{
    /// From a Rust literal or a hyperparameter.
    fn of(value: f64) -> Self;
    /// To the widest type.
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Runs an expression with a type alias bound to the Rust type of a float dtype; any other dtype is an error.
///
/// `with_float!(x.dtype(), "relu", T => cuda::forward::<T>(x))` serves f32, f64 and bf16,
/// `with_real!` only f32 and f64.
#[macro_export]
macro_rules! with_float {
    ($dtype:expr, $op:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            $crate::tensor::DType::Bf16 => {
                type $t = half::bf16;
                $body
            }
            got => Err($crate::Error::DType { op: $op, got, want: "f32, f64 or bf16" }),
        }
    };
}

/// As [`with_float!`](crate::with_float), for the two types that the CPU computes with.
#[macro_export]
macro_rules! with_real {
    ($dtype:expr, $op:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            got => Err($crate::Error::DType { op: $op, got, want: "f32 or f64" }),
        }
    };
}
