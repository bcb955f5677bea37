//! A network for other programs: safetensors with torchvision's names, or ONNX.

use std::path::Path;

use super::{
    about,
    axes::permute,
    export_options::{ExportFormat, ExportOptions, Whose},
    onnx,
    tensor_file::write_tensors,
};
use crate::{
    Device, Result, Tensor,
    nn::{Parameters, TARGET_PREFIX},
    train::{Config, Network, report::write_atomically},
};

/// Writes the network that predicts: one state dict with torchvision's names, without what only the other domain uses.
/// Gives the number of tensors.
pub fn export(network: &Network, config: &Config, path: &Path, options: ExportOptions) -> Result<usize> {
    let format = ExportFormat::of(path)?;
    let tensors = state(&network.parameters, options.whose)?;
    let text = about::describe(config, options.whose);
    match format {
        ExportFormat::Safetensors => write_tensors(path, &tensors, &text)?,
        ExportFormat::Onnx => write_atomically(path, &onnx::model(config, &tensors, &text, options)?)?,
    }
    Ok(tensors.len())
}

/// All tensors of one domain's network, filters as `[K,C,R,S]`.
fn state(parameters: &Parameters, whose: Whose) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    for (name, shared) in parameters.iter().filter(|(name, _)| !name.starts_with(TARGET_PREFIX)) {
        let own = match whose {
            Whose::Target => parameters.find(&format!("{TARGET_PREFIX}{name}")),
            Whose::Source => None,
        };
        let tensor = own.map_or(shared, |id| parameters.get(id));
        let tensor = match *tensor.shape() {
            [k, r, s, c] => {
                let permuted = permute(&tensor.to_vec::<f32>()?, [k, r, s, c], [0, 3, 1, 2]);
                Tensor::from_vec(permuted, &[k, c, r, s], &Device::cpu())?
            }
            _ => tensor.clone(),
        };
        tensors.push((name.to_owned(), tensor));
    }
    Ok(tensors)
}
