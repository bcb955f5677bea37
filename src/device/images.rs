//! The compiled kernels that build.rs embeds, one fatbin for each `kernels/*.cu`; empty without nvcc.

/// A kernel file's compiled form.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The file's stem, `conv2d` for `kernels/conv2d.cu`.
    pub name: &'static str,
    /// What it was compiled for: `sm_80` is machine code, `compute_80` is PTX, which a driver compiles for newer cards.
    pub architectures: &'static [&'static str],
    /// A fatbin that holds all of them.
    pub bytes: &'static [u8],
}

impl Image {
    /// Whether it holds code for compute capability 9.0 alone.
    pub fn is_for_hopper_alone(&self) -> bool {
        self.architectures == ["sm_90a"]
    }
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));
