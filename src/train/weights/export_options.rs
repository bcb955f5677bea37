//! What an export is to be.

use std::path::Path;

use crate::{Error, Result};

/// Whose statistics and stem an export takes, where the domains have their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// Those that evaluation and prediction use.
    #[default]
    Target,
    /// Those of the labelled images.
    Source,
}

/// What an export is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Whose statistics and stem.
    pub whose: Whose,
    /// ONNX: the input is an image's levels 0..255, red, green, blue; the graph normalises them.
    pub normalize_inside: bool,
    /// ONNX: the output is each pixel's class and not the logits.
    pub argmax: bool,
}

/// The kind of file that a suffix asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// `.safetensors`.
    Safetensors,
    /// `.onnx`.
    Onnx,
}

impl ExportFormat {
    /// By the suffix of `path`.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().map(|suffix| suffix.to_ascii_lowercase()) {
            Some(suffix) if suffix == "safetensors" => Ok(Self::Safetensors),
            Some(suffix) if suffix == "onnx" => Ok(Self::Onnx),
            _ => Err(Error::data(path, "its suffix names no format that is written; use .safetensors or .onnx")),
        }
    }
}
