//! A file of weights, safetensors or PyTorch's: the names and places of its tensors, read one by one.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use safetensors::{Dtype, tensor::Metadata};

use super::{
    bytes::{FileBytes, number},
    pytorch,
    stored::{Number, Stored},
};
use crate::{Device, Error, Result, Tensor};

/// The longest header of a safetensors file, as its own library has it.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes that tell one kind from another.
const HEAD: u64 = 512;

/// An open file of weights. Its suffix does not matter, its first bytes do.
pub struct WeightsFile {
    file: FileBytes,
    tensors: BTreeMap<String, Stored>,
    text: HashMap<String, String>,
}

impl WeightsFile {
    /// Opens a safetensors file or one of `torch.save`. Nothing in it is executed.
    ///
    /// Errors: a file of another kind, a damaged one, one without tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = FileBytes::open(path)?;
        let head = file.read(0, file.length().min(HEAD))?;
        // First by the brace after the length: a length's first byte can be a pickle's.
        let (list, text) = if head.get(8) != Some(&b'{') && pytorch::looks_so(&head) {
            (pytorch::read(&mut file, &head)?, HashMap::new())
        } else {
            header(&mut file)?
        };
        let mut tensors = BTreeMap::new();
        for stored in list {
            let name = stored.name.clone();
            if tensors.insert(name.clone(), stored).is_some() {
                return Err(Error::data(path, format!("has two tensors named {name}; save it again")));
            }
        }
        if tensors.is_empty() {
            let advice = "name a state dict's file, as torch.save(model.state_dict(), FILE) writes it";
            return Err(Error::data(path, format!("holds no tensor; {advice}")));
        }
        Ok(Self { file, tensors, text })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Names of all tensors, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's extents.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// A text entry of a safetensors file.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.text.get(key).map(String::as_str)
    }

    /// A tensor's numbers in f32 (from f32, f16 or bf16), row-major.
    ///
    /// Errors: no such tensor, another dtype, numbers that are NaN or infinite.
    pub fn values(&mut self, name: &str) -> Result<Vec<f32>> {
        let stored = self.tensors.get(name).ok_or_else(|| {
            let advice = "it was made with another network; check the model";
            Error::data(self.file.path(), format!("holds no tensor {name}: {advice}"))
        })?;
        let path = self.file.path().to_owned();
        let refused = |why: String| Error::data(&path, format!("{name} {why}"));
        let Some(size) = stored.number.size() else {
            let Number::Other(dtype) = &stored.number else {
                return Err(Error::Internal("a dtype without size".into()));
            };
            return Err(refused(format!("is {dtype}; convert it to F32, F16 or BF16")));
        };
        let count = stored.span().ok_or_else(|| refused("has overlapping elements; save a copy of it".into()))?;
        let bytes = self.file.read(stored.offset, size.saturating_mul(count as u64))?;
        let values = stored.number.widen(&bytes);
        drop(bytes);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(refused(format!("holds {value}; use weights of a run that did not diverge")));
        }
        Ok(in_order(stored, values))
    }

    /// A tensor as it lies in one of our own files.
    pub fn tensor(&mut self, name: &str, device: &Device) -> Result<Tensor> {
        let values = self.values(name)?;
        Tensor::from_vec(values, self.shape(name).unwrap_or_default(), device)
    }
}

/// Row-major, whatever the order of the axes in the file.
fn in_order(stored: &Stored, values: Vec<f32>) -> Vec<f32> {
    if stored.strides == Stored::dense_strides(&stored.shape) {
        return values;
    }
    let mut ordered = Vec::with_capacity(values.len());
    let mut index = vec![0; stored.shape.len()];
    for _ in 0..values.len() {
        let at: usize = index.iter().zip(&stored.strides).map(|(i, stride)| i * stride).sum();
        ordered.push(values.get(at).copied().unwrap_or_default());
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < stored.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    ordered
}

/// The header of a safetensors file.
fn header(file: &mut FileBytes) -> Result<(Vec<Stored>, HashMap<String, String>)> {
    let foreign = |file: &FileBytes, why: String| {
        let message = format!("neither a safetensors file nor one of torch.save, or a damaged one ({why})");
        Error::data(file.path(), format!("{message}; use another file"))
    };
    let length = match file.length() {
        0..8 => 0,
        _ => number(&file.read(0, 8)?, 0, 8).unwrap_or(0),
    };
    if length == 0 || length > LONGEST_HEADER || length > file.length() - 8 {
        return Err(foreign(file, "no header".into()));
    }
    let bytes = file.read(8, length)?;
    let metadata: Metadata = serde_json::from_slice(&bytes).map_err(|error| foreign(file, error.to_string()))?;
    let start = 8 + length;
    if metadata.data_len() as u64 != file.length() - start {
        return Err(file.broken("does not hold as many bytes as its header says"));
    }
    let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| Stored {
        name,
        number: match info.dtype {
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::BF16 => Number::Bf16,
            other => Number::Other(format!("{other:?}")),
        },
        shape: info.shape.clone(),
        strides: Stored::dense_strides(&info.shape),
        offset: start + info.data_offsets.0 as u64,
    };
    Ok((metadata.tensors().into_iter().map(stored).collect(), metadata.metadata().clone().unwrap_or_default()))
}
