//! The first half of the backward pass, offered to the convolution that reads y.
//!
//! The pass begins with two sums over the whole gradient, for which it must be read once more than the rest needs. Who writes
//! the last contribution to it has it at hand: it can mask it by the ReLU and take the sums on the way.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Affine, NormParams, Saved};
use crate::{DType, Result, Tensor, autograd::Offer};

/// What a batch norm wants of its gradient; [`NormBefore::answer`] says that it was done.
pub(in crate::ops) struct GradientOffer {
    /// The batch norm's input.
    x: Tensor,
    /// Its output, where x does not tell the ReLU's mask.
    y: Option<Tensor>,
    affine: Affine,
    relu: bool,
    answer: Mutex<Option<Tensor>>,
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
    /// Where the pass needs sums, on a device whose kernels can take them.
    pub(super) fn of(saved: &Saved) -> Option<Arc<Self>> {
        let x = saved.x.clone().filter(|x| !x.device().is_cpu() && saved.affine.statistics.from_batch)?;
        let (y, affine, relu) = (saved.y.clone(), saved.affine.clone(), saved.relu);
        Some(Arc::new(Self { x, y, affine, relu, answer: Mutex::default() }))
    }

    /// The sums by piece, as [`NormBefore::sums`], if the gradient came masked.
    pub(super) fn take_answer(&self) -> Option<Tensor> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<'a> NormBefore<'a> {
    /// Takes up what was offered for the gradient that will be whole in `dx`, if it is a batch norm's.
    pub fn taken(offer: Option<&'a Offer>, dx: &Tensor) -> Self {
        let norm = offer.and_then(|offer| offer.downcast_ref::<GradientOffer>());
        let Some(norm) = norm.filter(|norm| norm.x.shape() == dx.shape() && norm.x.dtype() == dx.dtype()) else {
            let params = NormParams::NONE;
            return Self { offer: None, x: None, y: None, vectors: [None; 4], groups: 1, params, sums: None };
        };
        let (affine, groups) = (&norm.affine, norm.affine.statistics.groups);
        let (vectors, params) = (affine.vectors().map(Some), NormParams::new(affine, norm.relu));
        Self { offer: Some(norm), x: Some(&norm.x), y: norm.y.as_ref(), vectors, groups, params, sums: None }
    }

    /// Makes room for the sums of `pieces` pieces a group.
    pub fn with_room(mut self, pieces: usize) -> Result<Self> {
        let room = |norm: &GradientOffer| {
            let channels = norm.affine.scale.len();
            Tensor::empty(&[self.groups, pieces, 2, channels], DType::F32, norm.x.device())
        };
        self.sums = self.offer.map(room).transpose()?;
        Ok(self)
    }

    /// Tells the batch norm that the kernel was launched.
    pub fn answer(self) {
        if let Some(offer) = self.offer {
            *offer.answer.lock().unwrap_or_else(PoisonError::into_inner) = self.sums;
        }
    }
}
