//! What a kernel does with its results before it stores them, for the batch norm at the other end of the tensor: normalise
//! them, take their moments, or begin the batch norm's backward pass. Convolutions and the ASPP launch such kernels; the batch
//! norms ask for it and use what comes of it.

mod moments;

pub use moments::BatchNormPartialStats;

use crate::{
    DType, Result, Tensor,
    autograd::{Fused, GradientEpilogue, GradientRequest},
};

/// `NormParams` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct NormParams {
    groups: i32,
    relu: i32,
    scaled: i32,
    epsilon: f32,
}

impl NormParams {
    /// Of no batch norm.
    pub const NONE: Self = Self { groups: 1, relu: 0, scaled: 0, epsilon: 0.0 };

    /// Of one forward, with one group of statistics.
    pub fn forward(relu: bool, epsilon: f64) -> Self {
        Self { groups: 1, relu: i32::from(relu), scaled: 0, epsilon: epsilon as f32 }
    }

    fn backward(epilogue: &GradientEpilogue) -> Self {
        let GradientEpilogue { relu, groups, epsilon, scaled, .. } = *epilogue;
        Self { groups: groups as i32, relu: i32::from(relu), scaled: i32::from(scaled), epsilon: epsilon as f32 }
    }
}

/// The arguments of a kernel whose epilogue is a batch norm by given statistics, or of one that has none.
pub(super) struct BatchNormEpilogue<'a> {
    pub residual: Option<&'a Tensor>,
    /// Mean, variance, scale and shift, \[K\] each.
    pub vectors: [Option<&'a Tensor>; 4],
    pub params: NormParams,
}

impl BatchNormEpilogue<'_> {
    /// No batch norm.
    pub fn none() -> Self {
        Self { residual: None, vectors: [None; 4], params: NormParams::NONE }
    }

    /// The same if the channels come in whole chunks of 16 bytes, as kernels want it; else none.
    pub fn by_chunks(&self, channels: usize, dtype: DType) -> Self {
        if channels.is_multiple_of(16 / dtype.size()) { Self { ..*self } } else { Self::none() }
    }

    pub fn is_some(&self) -> bool {
        self.vectors[0].is_some()
    }
}

/// The arguments of a kernel whose epilogue begins a batch norm's backward pass ([`GradientEpilogue`]), or of one that has none.
pub(super) struct BatchNormBackwardEpilogue<'a> {
    is_some: bool,
    pub x: Option<&'a Tensor>,
    pub y: Option<&'a Tensor>,
    /// Mean and variance, \[C\] or \[groups,C\], scale and shift \[C\].
    pub vectors: [Option<&'a Tensor>; 4],
    /// Runs of images with statistics of their own.
    pub groups: usize,
    pub params: NormParams,
    /// Room for the sums, where they are wanted: f32 \[groups,pieces,2,C\].
    pub sums: Option<Tensor>,
}

impl<'a> BatchNormBackwardEpilogue<'a> {
    /// No batch norm.
    pub fn none() -> Self {
        let params = NormParams::NONE;
        Self { is_some: false, x: None, y: None, vectors: [None; 4], groups: 1, params, sums: None }
    }

    /// The epilogue of a kernel that writes `dx`, if it may be applied and is of such an image.
    pub fn of(request: &'a GradientRequest, dx: &Tensor) -> Self {
        let of_image = |epilogue: &&GradientEpilogue| {
            let images = [&epilogue.x, &epilogue.y].into_iter().flatten();
            let channels = dx.shape().last().copied().unwrap_or(0);
            images.into_iter().all(|image| image.shape() == dx.shape() && image.dtype() == dx.dtype())
                && epilogue.scale.shape() == [channels]
        };
        let Some(epilogue) = request.epilogue().filter(of_image) else { return Self::none() };
        let GradientEpilogue { mean, variance, scale, shift, groups, .. } = epilogue;
        Self {
            is_some: true,
            x: epilogue.x.as_ref(),
            y: epilogue.y.as_ref(),
            vectors: [mean, variance, scale, shift].map(Some),
            groups: *groups,
            params: NormParams::backward(epilogue),
            sums: None,
        }
    }

    /// The same for a kernel that reads a ReLU's mask from y alone.
    pub fn with_mask_from_y(self) -> Self {
        if self.params.relu == 0 || self.y.is_some() { self } else { Self::none() }
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

    /// What the kernel, which was launched, has done.
    pub fn fused(self) -> Option<Fused> {
        self.is_some.then(|| self.sums.map_or(Fused::Masked, Fused::Sums))
    }
}
