//! A tensor as it lies in a file.

use half::{bf16, f16};

/// What its numbers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
    /// Not read: its name.
    Other(String),
}

impl Number {
    /// Bytes of one.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Other(_) => None,
        }
    }

    /// As f32, from little-endian bytes.
    pub fn widen(&self, bytes: &[u8]) -> Vec<f32> {
        let halves = || bytes.as_chunks::<2>().0.iter();
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::Bf16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Self::Other(_) => Vec::new(),
        }
    }
}

/// A tensor's name, extents and place. Its bytes lie in the file, in one run.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    pub number: Number,
    pub shape: Vec<usize>,
    /// Elements from one index to the next, by axis.
    pub strides: Vec<usize>,
    /// The first element's byte in the file.
    pub offset: u64,
}

impl Stored {
    /// Numbers in all; `None` where they do not fit memory.
    pub fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent))
    }

    /// Strides of the order in which the last axis runs fastest.
    pub fn dense_strides(shape: &[usize]) -> Vec<usize> {
        let mut strides = vec![1usize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        strides
    }

    /// Elements from the first to past the last; `None` where they overlap, leave gaps, or do not fit memory.
    pub fn span(&self) -> Option<usize> {
        let count = self.count()?;
        let last = self.shape.iter().zip(&self.strides).try_fold(0usize, |last, (&extent, &stride)| {
            last.checked_add(stride.checked_mul(extent.saturating_sub(1))?)
        })?;
        if count == 0 { Some(0) } else { (last.checked_add(1)? == count).then_some(count) }
    }
}
