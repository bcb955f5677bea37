//! Safetensors files of f32 tensors and text, written.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use serde_json::json;

use crate::{Device, Error, Result, Tensor, train::report::write_streamed};

/// Writes f32 tensors and text under names, atomically, tensor by tensor: memory holds no second copy of them. Equal
/// tensors and text give equal files.
pub(in crate::train) fn write_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    text: &BTreeMap<String, String>,
) -> Result<()> {
    let mut sorted: Vec<&(String, Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _)| name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::Internal(format!("two tensors are named {}", pair[0].0)));
    }
    // In the order of the bytes, which no JSON map of a library keeps.
    let mut header = format!("{{\"__metadata__\":{}", json!(text));
    let mut start = 0;
    for (name, tensor) in &sorted {
        let end = start + 4 * tensor.len();
        let (name, shape) = (json!(name), json!(tensor.shape()));
        header.push_str(&format!(",{name}:{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}"));
        start = end;
    }
    header.push('}');
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    write_streamed(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        sorted.iter().try_for_each(|(_, tensor)| write_values(file, tensor))
    })
}

/// The numbers as little-endian bytes.
pub(super) fn write_values(file: &mut dyn Write, tensor: &Tensor) -> io::Result<()> {
    let write = |values: &[f32]| match cfg!(target_endian = "little") {
        true => file.write_all(bytemuck::cast_slice(values)),
        false => values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())),
    };
    with_values(tensor, write).map_err(io::Error::other)?
}

/// `look` at the numbers of an f32 tensor, which are copied only where they lie on a GPU or in a graph.
pub(in crate::train) fn with_values<T>(tensor: &Tensor, look: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let host = tensor.to_device(&Device::cpu())?;
    match host.as_slice::<f32>() {
        Ok(values) => Ok(look(values)),
        Err(_) => Ok(look(&tensor.to_vec::<f32>()?)),
    }
}
