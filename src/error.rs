//! The one error type. Every message is a single line: what is wrong, where, and what to do.

use std::path::{Path, PathBuf};

use crate::dtype::DType;

/// Shorthand for results with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, one variant per kind of remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine has no CUDA driver library.
    #[error("no CUDA driver: libcuda.so.1 was not found; install the NVIDIA driver or use --device cpu")]
    NoDriver,
    /// A driver, but no such GPU.
    #[error("no CUDA device {index}: the driver reports {count}; use --device cpu or a smaller index")]
    NoDevice {
        /// The index that was asked for.
        index: usize,
        /// How many devices there are.
        count: usize,
    },
    /// The binary was built without nvcc.
    #[error("this binary holds no GPU kernels: run tools/setup-cuda.sh and build again, or use --device cpu")]
    NoKernels,
    /// A CUDA call failed.
    #[error("CUDA failed in {op}: {message}")]
    Cuda {
        /// The driver call or the kernel.
        op: String,
        /// The driver's name and description of the error.
        message: String,
    },
    /// A kernel run by the emulator broke a rule of the execution model.
    #[error("emulated kernel {kernel}: {message}")]
    Emulator {
        /// The kernel's symbol.
        kernel: &'static str,
        /// What it did, with file and line.
        message: String,
    },
    /// A kernel's symbol is missing from the compiled image or from the emulator.
    #[error("kernel {kernel} is not in the image {image}: the kernel file and its declaration differ; rebuild")]
    MissingKernel {
        /// The kernel's symbol.
        kernel: &'static str,
        /// The kernel file's stem.
        image: &'static str,
    },
    /// Shapes that do not fit the operation.
    #[error("{op}: {message}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shapes found and the shapes wanted.
        message: String,
    },
    /// A dtype that the operation does not take.
    #[error("{op}: dtype {got} is not supported; use {want}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What was given.
        got: DType,
        /// What would do.
        want: &'static str,
    },
    /// Operands on different devices.
    #[error("{op}: operands are on {left} and {right}; move one with to_device")]
    DeviceMismatch {
        /// The operation.
        op: &'static str,
        /// Device of the first operand.
        left: String,
        /// Device of the other.
        right: String,
    },
    /// Misuse of the tape.
    #[error("autograd: {0}")]
    Autograd(String),
    /// Misuse of a captured graph, or of a device while it captures one.
    #[error("graph: {0}")]
    Graph(String),
    /// A file could not be read or written.
    #[error("{}: {reason}{}", path.display(), advice(reason))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file whose content is not what it must be.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A value in the configuration or on the command line.
    #[error("config: {0}")]
    Config(String),
    /// A loss or a gradient stopped being finite.
    #[error("{what} is {value} at step {step}: training stopped; {advice}")]
    NotFinite {
        /// Which quantity.
        what: String,
        /// NaN or an infinity.
        value: f64,
        /// The step, counted from 1.
        step: u64,
        /// The last good checkpoint and what to try.
        advice: String,
    },
    /// A broken invariant of the program itself.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

/// What to do about the system's reason, where that can be said without knowing the file.
fn advice(reason: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    match reason.kind() {
        NotFound | NotADirectory => "; check the path",
        PermissionDenied | ReadOnlyFilesystem => "; change its permissions or choose another folder",
        StorageFull => "; free space and try again",
        _ => "",
    }
}

impl Error {
    /// A shape error of operation `op`.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { op, message: message.into() }
    }

    /// A file's content is wrong.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Data { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// A file could not be read or written.
    pub fn io(path: impl AsRef<Path>, reason: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), reason }
    }
}
