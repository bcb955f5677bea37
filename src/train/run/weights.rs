//! Exchange of weights with PyTorch: safetensors files with torchvision's names and layouts.
//!
//! Filters are `[K,C,R,S]` there and `[K,R,S,C]` here; everything else has one layout.

use std::path::Path;

use super::tensor_file::{TensorFile, values, write_tensors};
use crate::{Device, Error, Result, Tensor, nn::Parameters};

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Tensors taken.
    pub loaded: Vec<String>,
    /// Tensors of the network that the file lacks: they keep their initial values.
    pub missing: Vec<String>,
    /// Tensors of the file that the network has no place for.
    pub unused: Vec<String>,
}

/// The permutation of a filter's axes; `from` gives the source axis of each target axis.
fn permute(values: &[f32], shape: [usize; 4], from: [usize; 4]) -> Vec<f32> {
    let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
    let extent = from.map(|axis| shape[axis]);
    let stride = from.map(|axis| strides[axis]);
    let mut permuted = Vec::with_capacity(values.len());
    for a in 0..extent[0] {
        for b in 0..extent[1] {
            for c in 0..extent[2] {
                permuted.extend(
                    (0..extent[3]).map(|d| values[a * stride[0] + b * stride[1] + c * stride[2] + d * stride[3]]),
                );
            }
        }
    }
    permuted
}

/// Loads every tensor that the file and the network share. A file that shares none, or a shape that differs, is an
/// error: it belongs to another network.
pub fn import(parameters: &mut Parameters, path: &Path) -> Result<Report> {
    let file = TensorFile::read(path)?;
    let (tensors, _) = file.parse(path)?;
    let mut report = Report::default();
    // Our own checkpoints keep the model under a prefix, with our layout of filters.
    let own = tensors.names().iter().any(|name| name.starts_with("model."));
    let prefix = if own { "model." } else { "" };
    for id in parameters.ids() {
        let name = parameters.name(id).to_owned();
        let Ok(view) = tensors.tensor(&format!("{prefix}{name}")) else {
            report.missing.push(name);
            continue;
        };
        let mut values = values(path, &name, &view)?;
        let mut shape = view.shape().to_vec();
        if let (false, &[k, c, r, s]) = (own, shape.as_slice()) {
            values = permute(&values, [k, c, r, s], [0, 2, 3, 1]);
            shape = vec![k, r, s, c];
        }
        let want = parameters.get(id).shape();
        if shape != want {
            let message = format!("{name} has extents {shape:?}, the network wants {want:?}; check model.*");
            return Err(Error::data(path, message));
        }
        parameters.set(id, Tensor::from_vec(values, &shape, &Device::cpu())?)?;
        report.loaded.push(name);
    }
    if report.loaded.is_empty() {
        return Err(Error::data(path, "holds no tensor of this network; names must be torchvision's (conv1.weight)"));
    }
    let known = |name: &str| name.strip_prefix(prefix).is_some_and(|name| parameters.find(name).is_some());
    report.unused = tensors.names().into_iter().filter(|name| !known(name)).map(|name| name.to_string()).collect();
    report.unused.sort();
    Ok(report)
}

/// Writes all parameters with torchvision's names and layouts.
pub fn export(parameters: &Parameters, path: &Path) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, tensor) in parameters.iter() {
        let tensor = match *tensor.shape() {
            [k, r, s, c] => {
                let permuted = permute(&tensor.to_vec::<f32>()?, [k, r, s, c], [0, 3, 1, 2]);
                Tensor::from_vec(permuted, &[k, c, r, s], &Device::cpu())?
            }
            _ => tensor.clone(),
        };
        tensors.push((name.to_owned(), tensor));
    }
    write_tensors(path, &tensors, Default::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permuting_there_and_back_is_the_identity() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 5).map(|x| x as f32).collect();
        let torch = permute(&values, [2, 3, 4, 5], [0, 3, 1, 2]);
        assert_eq!(torch[1], values[5], "the next column of the filter is 5 channels on");
        assert_eq!(permute(&torch, [2, 5, 3, 4], [0, 2, 3, 1]), values);
    }
}
