//! Safetensors files of f32 tensors and text, read and written.

use std::{collections::HashMap, fs, path::Path};

use safetensors::{SafeTensors, tensor::TensorView};

use crate::{Error, Result, Tensor, train::report::write_atomically};

struct Stored {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl safetensors::View for &Stored {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn stored(tensor: &Tensor) -> Result<Stored> {
    let values = tensor.to_vec::<f32>()?;
    Ok(Stored { shape: tensor.shape().to_vec(), bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect() })
}

/// Writes f32 tensors and text under names, atomically.
pub(super) fn write_tensors(path: &Path, tensors: &[(String, Tensor)], text: HashMap<String, String>) -> Result<()> {
    let stored: Vec<(&str, Stored)> =
        tensors.iter().map(|(name, tensor)| Ok((name.as_str(), stored(tensor)?))).collect::<Result<_>>()?;
    let views = stored.iter().map(|(name, stored)| (*name, stored));
    let bytes = safetensors::serialize(views, Some(text))
        .map_err(|error| Error::data(path, format!("cannot be written as safetensors: {error}")))?;
    write_atomically(path, &bytes)
}

/// A safetensors file in memory, with its text.
pub(super) struct TensorFile {
    bytes: Vec<u8>,
}

impl TensorFile {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
        if bytes.is_empty() {
            return Err(Error::data(path, "the file is empty; use another checkpoint"));
        }
        Ok(Self { bytes })
    }

    pub fn parse(&self, path: &Path) -> Result<(SafeTensors<'_>, HashMap<String, String>)> {
        let broken =
            |error| Error::data(path, format!("not a safetensors file, or a damaged one ({error}); use another file"));
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).map_err(broken)?;
        let text = metadata.metadata().clone().unwrap_or_default();
        Ok((SafeTensors::deserialize(&self.bytes).map_err(broken)?, text))
    }
}

/// A stored tensor as f32 values.
pub(super) fn values(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    if view.dtype() != safetensors::Dtype::F32 {
        return Err(Error::data(path, format!("{name} is {:?}; convert it to F32", view.dtype())));
    }
    Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
