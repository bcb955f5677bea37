//! The first half of the backward pass, offered to the convolution that reads y.
//!
//! The pass begins with two sums over the whole gradient, for which it must be read once more than the rest needs. Who writes
//! the last contribution to it has it at hand: it can mask it by the ReLU and take the sums on the way. By given statistics
//! there are no sums, and masking, or scaling too, is all that there is to do.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Affine, NormParams, Saved};
use crate::{DType, Result, Tensor, autograd::Offer};

/// What a batch norm wants of its gradient; [`NormBefore::answer`] says that it was done.
pub(in crate::ops) struct GradientOffer {
    /// Of the gradient.
    shape: Vec<usize>,
    dtype: DType,
    /// The batch norm's input, for the sums.
    x: Option<Tensor>,
    /// Its output, where x does not tell the ReLU's mask.
    y: Option<Tensor>,
    relu: bool,
    affine: Affine,
    params: NormParams,
    answer: Mutex<Option<Answer>>,
}

/// What has been done.
pub(super) enum Answer {
    /// The gradient is masked, and these are its sums by piece: f32 [groups,pieces,2,C], sum g and sum g (x - mean).
    Sums(Tensor),
    /// The gradient is masked and, if that was asked for, scaled.
    Masked,
}

/// The arguments of a kernel that takes the sums, or of one that has none to take.
pub(in crate::ops) struct NormBefore<'a> {
    offer: Option<&'a GradientOffer>,
    pub x: Option<&'a Tensor>,
    pub y: Option<&'a Tensor>,
    /// Mean and variance, \[C\] or \[groups,C\], scale and shift \[C\].
    pub vectors: [Option<&'a Tensor>; 4],
    /// Runs of images with statistics of their own.
    pub groups: usize,
    pub params: NormParams,
    /// Room for them: f32 \[groups,pieces,2,C\].
    pub sums: Option<Tensor>,
}

impl GradientOffer {
    /// By the batch's statistics, on a device whose kernels can take the sums.
    pub(super) fn by_batch(saved: &Saved, y: &Tensor) -> Option<Arc<Self>> {
        let x = saved.x.as_ref().filter(|_| saved.affine.statistics.from_batch)?;
        Self::new(saved, y, Some(x.clone()), false)
    }

    /// By given statistics, with a constant scale and shift: where no residual wants the masked gradient, scaled too.
    pub(super) fn by_given(saved: &Saved, y: &Tensor) -> Option<Arc<Self>> {
        let scaled = !saved.has_residual;
        if scaled || saved.relu { Self::new(saved, y, None, scaled) } else { None }
    }

    fn new(saved: &Saved, image: &Tensor, x: Option<Tensor>, scaled: bool) -> Option<Arc<Self>> {
        // To read the mask costs warpgroups less than to work it out: y lies beside x, and is on its way while they multiply.
        let read = saved.relu && image.device().has_warpgroup_products() && image.dtype() == DType::Bf16;
        let y = if read { Some(image.clone()) } else { saved.y.clone() };
        let affine = saved.affine.clone();
        let params = NormParams::new(&affine, saved.relu).scaled(scaled);
        let (shape, dtype, answer) = (image.shape().to_vec(), image.dtype(), Mutex::default());
        (!image.device().is_cpu())
            .then(|| Arc::new(Self { shape, dtype, x, y, relu: saved.relu, affine, params, answer }))
    }

    /// What became of it.
    pub(super) fn take_answer(&self) -> Option<Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<'a> NormBefore<'a> {
    /// Takes up what was offered for the gradient that will be whole in `dx`, if it is a batch norm's.
    pub fn taken(offer: Option<&'a Offer>, dx: &Tensor) -> Self {
        let norm = offer.and_then(|offer| offer.downcast_ref::<GradientOffer>());
        let Some(norm) = norm.filter(|norm| norm.shape == dx.shape() && norm.dtype == dx.dtype()) else {
            let params = NormParams::NONE;
            return Self { offer: None, x: None, y: None, vectors: [None; 4], groups: 1, params, sums: None };
        };
        let (vectors, groups) = (norm.affine.vectors().map(Some), norm.affine.statistics.groups);
        let (x, y, params) = (norm.x.as_ref(), norm.y.as_ref(), norm.params);
        Self { offer: Some(norm), x, y, vectors, groups, params, sums: None }
    }

    /// The same for a kernel that needs y for a ReLU's mask.
    pub fn taken_by_output(offer: Option<&'a Offer>, dx: &Tensor) -> Self {
        let norm = offer.and_then(|offer| offer.downcast_ref::<GradientOffer>());
        Self::taken(offer.filter(|_| norm.is_some_and(|norm| !norm.relu || norm.y.is_some())), dx)
    }

    /// Forgets what attempts answered.
    pub fn withdraw(offer: Option<&Offer>) {
        if let Some(norm) = offer.and_then(|offer| offer.downcast_ref::<GradientOffer>()) {
            norm.take_answer();
        }
    }

    /// Makes room for the sums of `pieces` pieces a group.
    pub fn with_room(mut self, pieces: usize) -> Result<Self> {
        let room = |x: &Tensor| {
            let channels = x.shape().last().copied().unwrap_or(0);
            Tensor::empty(&[self.groups, pieces, 2, channels], DType::F32, x.device())
        };
        self.sums = self.x.map(room).transpose()?;
        Ok(self)
    }

    /// Tells the batch norm that the kernel was launched.
    pub fn answer(self) {
        if let Some(offer) = self.offer {
            let answer = self.sums.map_or(Answer::Masked, Answer::Sums);
            *offer.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        }
    }
}
