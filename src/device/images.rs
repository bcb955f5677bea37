//! The compiled kernels that build.rs embeds, one fatbin for each `kernels/*.cu`; empty without nvcc.

/// A kernel file's compiled form.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The file's stem, `conv2d` for `kernels/conv2d.cu`.
    pub name: &'static str,
    /// A fatbin with SASS for each named architecture and PTX for later ones.
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));
