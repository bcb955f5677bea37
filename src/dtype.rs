//! The types of a tensor's elements, which errors name too.

use std::fmt;

/// An element type, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: the default.
    F32,
    /// 64-bit float: gradient checks.
    F64,
    /// bfloat16: activations on a GPU; arithmetic is done in f32.
    Bf16,
    /// 8-bit labels and masks.
    U8,
    /// 32-bit counts and indices.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::Bf16)
    }

    /// The type in which sums over elements of this type are kept: bf16 accumulates in f32.
    pub fn accumulator(self) -> Self {
        if self == Self::Bf16 { Self::F32 } else { self }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::U32 => "u32",
        })
    }
}
