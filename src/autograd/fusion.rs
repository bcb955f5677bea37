//! Fusion of two backward passes: a tensor's producer describes its epilogue, and the last of its consumers may apply it.
//!
//! The backward pass of a batch norm begins with a ReLU's mask and two sums over the whole gradient of its output, for which
//! the gradient must be read once more than the rest needs. The consumer that writes the last contribution to that gradient
//! has it in registers. So:
//!
//! 1. The producer records a [`GradientEpilogue`] with its node: data that says what is to be done, no code.
//! 2. The tape shows it ([`GradientRequest::epilogue`]) to the one consumer whose contribution completes the gradient.
//! 3. That consumer applies it in the kernel that writes the gradient, or does not. What it did it returns beside its
//!    contribution: [`Contribution::fused`].
//! 4. The tape hands both to the producer's backward pass, which does what is left.

use crate::Tensor;

/// The first part of the backward pass of
///
///   y = relu( (x - mean_c) / sqrt(variance_c + epsilon) * scale_c + shift_c + residual )
///
/// over images `[N,H,W,C]`, as the epilogue of a kernel that writes the whole gradient dy: with g = dy where the ReLU passed,
/// and 0 elsewhere, it stores g in place of dy; where there is `x` it also takes the sums of g and g (x - mean).
#[derive(Clone)]
pub struct GradientEpilogue {
    /// The input, where the sums are wanted.
    pub x: Option<Tensor>,
    /// The output, where the mask is to be read from it; else `x` tells it.
    pub y: Option<Tensor>,
    /// Whether there is a ReLU. Without one g is dy.
    pub relu: bool,
    /// Mean of each channel, \[C\] or \[groups,C\].
    pub mean: Tensor,
    /// Variance of each channel, biased, of the mean's shape.
    pub variance: Tensor,
    /// \[C\].
    pub scale: Tensor,
    /// \[C\].
    pub shift: Tensor,
    /// How many runs of N / `groups` images have statistics of their own.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether g scale / sqrt(variance + epsilon) is to be stored in place of g.
    pub scaled: bool,
}

/// What a consumer has done of a producer's [`GradientEpilogue`].
pub enum Fused {
    /// The gradient is masked, and these are its sums over pieces of the pixels, in a fixed order: f32 \[groups,pieces,2,C\],
    /// the sum of g and the sum of g (x - mean).
    Sums(Tensor),
    /// The gradient is masked and, where that was asked for, scaled.
    Masked,
}

/// What a backward pass is asked for one parent.
pub struct GradientRequest {
    /// Whether its gradient is wanted.
    pub wanted: bool,
    /// The sum of the contributions of other consumers. An operation that can add to it where it writes takes it and returns
    /// the new sum; what is left here the tape adds.
    pub accumulate: Option<Tensor>,
    /// Of the parent's producer, where this contribution completes the gradient.
    pub(super) epilogue: Option<GradientEpilogue>,
}

/// What a backward pass returns for one parent.
pub struct Contribution {
    /// Of the parent's shape and dtype; the whole gradient so far where `accumulate` was taken.
    pub gradient: Tensor,
    /// What was done of the producer's epilogue, if anything.
    pub fused: Option<Fused>,
}

impl GradientRequest {
    /// Takes the sum of the others' contributions if it has this shape. The tape refuses one that has not.
    pub fn take_accumulate(&mut self, shape: &[usize]) -> Option<Tensor> {
        self.accumulate.take_if(|sum| sum.shape() == shape)
    }

    /// The epilogue that may be applied to what is written: none unless that is the whole gradient, which it is not as long as
    /// there is something to accumulate that was not taken.
    pub fn epilogue(&self) -> Option<&GradientEpilogue> {
        self.epilogue.as_ref().filter(|_| self.accumulate.is_none())
    }
}

impl From<Tensor> for Contribution {
    /// With nothing fused.
    fn from(gradient: Tensor) -> Self {
        Self { gradient, fused: None }
    }
}
