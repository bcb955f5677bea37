//! In which numbers a network computes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{DType, Error};

/// Precision of activations, filters and their products; parameters, statistics, sums and losses are always f32.
///
/// ```
/// use bicl::{DType, nn::Precision};
/// let precision: Precision = "tf32".parse()?;
/// assert_eq!(precision.dtype(), DType::F32);
/// # Ok::<(), bicl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit.
    Fp32,
    /// 32-bit storage; convolutions round their factors to 10 bits of mantissa, for tensor cores.
    Tf32,
    /// bfloat16 storage.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Tf32, Self::Bf16];

    /// The element type of activations.
    pub fn dtype(self) -> DType {
        match self {
            Self::Fp32 | Self::Tf32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
}

impl FromStr for Precision {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|precision| precision.to_string() == text);
        found.ok_or_else(|| Error::Config(format!("unknown precision {text:?}; use fp32, tf32 or bf16")))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}
