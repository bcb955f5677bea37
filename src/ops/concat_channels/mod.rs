//! Concatenation of images along their channels, as of the ASPP branches.

mod cpu;
pub(crate) mod cuda;

use crate::{Error, Result, Tensor, autograd::Var};

const OP: &str = "concat_channels";

/// Reference: [`fn@super::aspp`] is composed of it where its kernels do not fit.
/// `[N,H,W,C1]`, `[N,H,W,C2]`, .. -> `[N,H,W,C1+C2+..]`, all of one float dtype and device. The gradients are the slices.
///
/// Errors: no parts; parts that differ in N, H, W, dtype or device.
pub fn concat_channels(parts: &[&Var]) -> Result<Var> {
    let tensors: Vec<&Tensor> = parts.iter().map(|part| part.value()).collect();
    let Some(first) = tensors.first() else {
        return Err(Error::shape(OP, "no parts were given; give at least one"));
    };
    let [n, h, w, _] = first.dims(OP)?;
    let mut widths = Vec::with_capacity(tensors.len());
    for tensor in &tensors {
        let [.., channels] = tensor.dims::<4>(OP)?;
        tensor.expect_shape(&[n, h, w, channels], OP, "each part")?;
        first.expect_same_device(tensor, OP)?;
        if tensor.dtype() != first.dtype() {
            let (left, right) = (first.dtype(), tensor.dtype());
            return Err(Error::shape(OP, format!("parts of dtype {left} and {right}; convert one")));
        }
        widths.push(channels);
    }
    let y = forward(&tensors, &[n, h, w, widths.iter().sum()])?;
    Var::record_many(OP, y, parts, move |dy, wanted| {
        let mut from = 0;
        let slices = widths.iter().zip(wanted).map(|(&channels, &wanted)| {
            from += channels;
            wanted.then(|| slice(&dy, from - channels, channels)).transpose()
        });
        slices.collect()
    })
}

fn forward(parts: &[&Tensor], shape: &[usize; 4]) -> Result<Tensor> {
    dispatch!(parts[0], OP, T => {
        kernels => cuda::forward::<T>(parts, shape),
        cpu => cpu::forward::<T>(parts, shape),
    })
}

/// The channels `from..from + channels` of an image.
pub(super) fn slice(x: &Tensor, from: usize, channels: usize) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::slice::<T>(x, from, channels),
        cpu => cpu::slice::<T>(x, from, channels),
    })
}
