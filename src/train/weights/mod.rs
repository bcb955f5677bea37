//! Weights from and to other programs: docs/weights.md.
//!
//! Reading goes from bytes to names: `bytes` (a bounded file), `zip` and `pickle` (what PyTorch's files are made of),
//! `pytorch` and `file` (tensors by name), `names` and `looks` (our names; what network it is), `import`. Writing:
//! `about` (the text entries), `tensor_file`, `onnx`, `export`.

mod about;
mod axes;
mod bytes;
mod convention;
mod export;
mod export_options;
mod file;
mod import;
mod looks;
mod names;
mod onnx;
mod open;
mod pickle;
mod pickle_calls;
mod pytorch;
mod report;
mod stored;
mod tensor_file;
mod zip;

pub(in crate::train) use about::CHECKPOINT_KEY;
pub use convention::Convention;
pub use export::export;
pub use export_options::{ExportFormat, ExportOptions, Whose};
pub use file::WeightsFile;
pub use import::{Import, import};
pub use open::{Given, open_weights};
pub use report::Report;
pub(in crate::train) use tensor_file::{with_values, write_tensors};
