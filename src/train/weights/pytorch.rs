//! PyTorch's files: the zip archive of `torch.save`, and the stream that it wrote before 1.6, in which torchvision's and
//! Caffe's weights still go round. The pickle in them is read, not run.

use std::collections::HashMap;

use super::{
    bytes::{FileBytes, number},
    pickle::{self, Id, Node, Pickle},
    pickle_calls::wraps_tensor,
    stored::{Number, Stored},
    zip::{self, Span},
};
use crate::{Error, Result};

/// The longest pickle: that of a ResNet-152 has 100 kB.
const LONGEST_PICKLE: u64 = 16 << 20;
/// How deep dicts lie in each other, and how many values are looked at: a pickle can contain itself.
const DEEPEST: usize = 8;
const MOST_VALUES: usize = 1 << 20;
/// PyTorch's mark of its old files, 0x1950a86a20f9469cfc6c.
const MAGIC: &str = "1950a86a20f9469cfc6c";

/// Whether these are the first bytes of such a file.
pub(super) fn looks_so(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04")
        || matches!(head, [0x80, 1..=5, ..] | [b'(' | b'c' | b'}' | b']', ..])
        || is_tar(head)
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// All tensors of the file.
pub(super) fn read(file: &mut FileBytes, head: &[u8]) -> Result<Vec<Stored>> {
    if is_tar(head) {
        let advice = "load it with PyTorch and save it again with torch.save";
        return Err(Error::data(file.path(), format!("is a tar archive, as PyTorch wrote before 0.1.10; {advice}")));
    }
    if head.starts_with(b"PK") { archive(file) } else { stream(file) }
}

fn refused(file: &FileBytes, why: String) -> Error {
    Error::data(file.path(), why)
}

fn archive(file: &mut FileBytes) -> Result<Vec<Stored>> {
    let entries = zip::entries(file)?;
    let Some((folder, place)) = entries.iter().find_map(|(name, span)| Some((name.strip_suffix("data.pkl")?, *span)))
    else {
        return Err(refused(file, "is a zip archive but holds no data.pkl, so PyTorch did not write it".into()));
    };
    if place.length > LONGEST_PICKLE {
        return Err(refused(file, format!("its pickle has {} bytes, too many for a state dict", place.length)));
    }
    let bytes = file.read(place.offset, place.length)?;
    let pickle = pickle::read(&bytes).map_err(|why| refused(file, why))?;
    if let Some(order) = entries.get(&format!("{folder}byteorder"))
        && file.read(order.offset, order.length.min(16))?.starts_with(b"big")
    {
        return Err(refused(file, "has big-endian numbers; save it on a little-endian machine".into()));
    }
    let found = tensors(file, &pickle)?;
    place_all(file, found, |storage| entries.get(&format!("{folder}data/{}", storage.key)).copied())
}

fn stream(file: &mut FileBytes) -> Result<Vec<Stored>> {
    let bytes = file.read(0, file.length().min(LONGEST_PICKLE))?;
    let mut at = 0;
    let mut next = |file: &FileBytes| -> Result<Pickle> {
        let pickle = pickle::read(&bytes[at..]).map_err(|why| refused(file, why))?;
        at += pickle.length;
        Ok(pickle)
    };
    let magic = next(file)?;
    if magic.text(magic.root).is_none_or(|text| text.trim_start_matches('0') != MAGIC) {
        let why = "is a pickle but not a file of torch.save; save a state dict with torch.save or as safetensors";
        return Err(refused(file, why.into()));
    }
    // The version, the machine's sizes, what was saved, the storages' keys in the order of their bytes.
    let (_, _, saved, keys) = (next(file)?, next(file)?, next(file)?, next(file)?);
    let found = tensors(file, &saved)?;
    let sizes: HashMap<&str, u64> =
        found.iter().filter_map(|tensor| Some((tensor.storage.key.as_str(), tensor.storage.element?))).collect();
    let Node::Sequence(list) = keys.node(keys.root) else {
        return Err(file.broken("does not list its storages"));
    };
    let mut places = HashMap::new();
    let mut offset = at as u64;
    for &key in list {
        let key = keys.text(key).unwrap_or_default();
        let count = number(&file.read(offset, 8)?, 0, 8).unwrap_or(u64::MAX);
        // Storages that no tensor names have an unknown size, and all behind them an unknown place.
        let Some(length) = sizes.get(key).and_then(|size| size.checked_mul(count)) else { break };
        places.insert(key.to_owned(), Span { offset: offset + 8, length });
        offset = match (offset + 8).checked_add(length) {
            Some(offset) => offset,
            None => return Err(file.broken("claims too large a storage")),
        };
    }
    place_all(file, found, |storage| places.get(&storage.key).copied())
}

/// Where numbers lie outside the pickle.
struct Storage {
    key: String,
    number: Number,
    /// Bytes of a number, of whatever kind.
    element: Option<u64>,
}

/// A tensor of the pickle: `first` is its first element's index in the storage.
struct Found {
    name: String,
    storage: Storage,
    first: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// All tensors in nested dicts, under their keys joined by dots.
fn tensors(file: &FileBytes, pickle: &Pickle) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut queue = vec![(String::new(), pickle.root, 0)];
    let mut seen = 0;
    while let Some((name, id, depth)) = queue.pop() {
        seen += 1;
        if seen > MOST_VALUES || depth > DEEPEST {
            return Err(refused(file, "its pickle is nested deeper than any state dict".into()));
        }
        match pickle.node(id) {
            Node::Dict(items) => {
                for &(key, value) in items.iter().rev() {
                    // Dicts under numbers are an optimiser's.
                    let Some(key) = pickle.text(key) else { continue };
                    let inner = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
                    if inner.len() <= 512 && matches!(pickle.node(value), Node::Dict(_) | Node::Call(..)) {
                        queue.push((inner, value, depth + 1));
                    }
                }
            }
            Node::Call(callable, arguments) => match arguments.first() {
                Some(&inner) if wraps_tensor(callable) => queue.push((name, inner, depth + 1)),
                Some(_) => found.push(
                    tensor(pickle, &name, arguments)
                        .ok_or_else(|| file.broken(&format!("has no readable tensor under {name}")))?,
                ),
                None => return Err(file.broken(&format!("has no readable tensor under {name}"))),
            },
            _ => {}
        }
    }
    Ok(found)
}

/// `_rebuild_tensor(storage, first, shape, strides, ...)`.
fn tensor(pickle: &Pickle, name: &str, arguments: &[Id]) -> Option<Found> {
    let &[storage, first, shape, strides, ..] = arguments else { return None };
    let (shape, strides) = (pickle.counts(shape)?, pickle.counts(strides)?);
    if shape.len() != strides.len() || shape.len() > 8 {
        return None;
    }
    Some(Found { name: name.to_owned(), storage: place(pickle, storage)?, first: pickle.count(first)?, shape, strides })
}

/// `('storage', torch.FloatStorage, key, device, numbers, ...)`.
fn place(pickle: &Pickle, id: Id) -> Option<Storage> {
    let Node::Persistent(id) = pickle.node(id) else { return None };
    let Node::Sequence(parts) = pickle.node(*id) else { return None };
    let &[_, kind, key, ..] = parts.as_slice() else { return None };
    let Node::Global(kind) = pickle.node(kind) else { return None };
    let kind = kind.rsplit('.').next().unwrap_or(kind);
    let (number, element) = match kind {
        "FloatStorage" => (Number::F32, Some(4)),
        "HalfStorage" => (Number::F16, Some(2)),
        "BFloat16Storage" => (Number::Bf16, Some(2)),
        _ => {
            let element = match kind {
                "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => Some(8),
                "IntStorage" => Some(4),
                "ShortStorage" => Some(2),
                "CharStorage" | "ByteStorage" | "BoolStorage" => Some(1),
                _ => None,
            };
            (Number::Other(kind.chars().take(32).collect()), element)
        }
    };
    Some(Storage { key: pickle.text(key)?.to_owned(), number, element })
}

/// Tensors with their places in the file. One whose numbers lie beyond its storage is an error, and so are tensors that
/// together claim far more than the file has: copies of one storage under many names.
fn place_all(file: &FileBytes, found: Vec<Found>, of: impl Fn(&Storage) -> Option<Span>) -> Result<Vec<Stored>> {
    let mut all = Vec::with_capacity(found.len());
    let mut claimed = 0u64;
    for Found { name, storage, first, shape, strides } in found {
        let mut stored = Stored { name, number: storage.number.clone(), shape, strides, offset: 0 };
        if let Some(size) = stored.number.size() {
            let Some(span) = of(&storage) else {
                return Err(file.broken(&format!("lacks the numbers of {}", stored.name)));
            };
            let place = (|| {
                let start = size.checked_mul(first as u64)?;
                let length = size.checked_mul(stored.span()? as u64)?;
                claimed = claimed.checked_add(length)?;
                let inside = start.checked_add(length)? <= span.length;
                let end = span.offset.checked_add(span.length)?;
                (inside && end <= file.length() && claimed / 2 <= file.length()).then_some(span.offset + start)
            })();
            let why = || file.broken(&format!("holds fewer numbers than {} needs", stored.name));
            stored.offset = place.ok_or_else(why)?;
        }
        all.push(stored);
    }
    Ok(all)
}
