//! A model with its numbers, ready to train or to predict.

use std::collections::HashSet;

use crate::{
    DType, Device, Result, Tensor,
    models::{DeepLab, DeepLabConfig},
    nn::{Domain, Forward, Parameters, Precision},
};

/// DeepLab and its parameters on a device.
pub struct Network {
    /// The structure.
    pub model: DeepLab,
    /// The numbers.
    pub parameters: Parameters,
    /// In which numbers it computes.
    pub precision: Precision,
}

impl Network {
    /// With initial weights from `seed`.
    pub fn new(config: &DeepLabConfig, precision: Precision, seed: u64, device: &Device) -> Result<Self> {
        Self::with(Parameters::new(device), config, precision, seed)
    }

    /// The same, where filters of the names `expected` will be replaced before they are used.
    pub fn expecting(
        config: &DeepLabConfig,
        precision: Precision,
        seed: u64,
        device: &Device,
        expected: HashSet<String>,
    ) -> Result<Self> {
        Self::with(Parameters::expecting(device, expected), config, precision, seed)
    }

    fn with(mut parameters: Parameters, config: &DeepLabConfig, precision: Precision, seed: u64) -> Result<Self> {
        let model = DeepLab::new(&mut parameters, config, seed)?;
        if precision == Precision::Bf16 {
            parameters.keep_copies()?;
        }
        Ok(Self { model, parameters, precision })
    }

    /// The normalised pixels of one image as a batch `[1,H,W,3]` on the network's device.
    pub fn image(&self, pixels: Vec<f32>, height: usize, width: usize) -> Result<Tensor> {
        Tensor::from_vec(pixels, &[1, height, width, 3], self.parameters.device())
    }

    /// Logits `[N,h,w,C]` in f32 of normalised target images `[N,H,W,3]`, with running statistics.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let pass = Forward::evaluate(&self.parameters, self.precision);
        self.model.forward(&pass, images, &[Domain::Target])?.logits.value().to_dtype(DType::F32)
    }
}
