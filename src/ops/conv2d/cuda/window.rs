//! The kernels of `kernels/conv2d_window.cu`: images of few channels on tensor cores, a row of taps at a time.

use half::bf16;

use super::{Output, by_groups};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    ops::{
        conv2d::{ConvParams, MmaTile, OP, algorithm::WINDOW},
        epilogue::{NormAfter, NormParams},
    },
    tensor::{Element, In, OptIn, OptOut, Out, Val},
};

kernels! { "conv2d_window";
    /// y = x * w + bias of the padded image and filter, tiles of 128 x 64.
    fn conv2d_window_forward_medium<T in f32 | bf16>(
        x4: In<T>, v: In<T>, bias: OptIn<T>, y: Out<T>, moments: OptOut<f32>, residual: OptIn<T>, mean: OptIn<f32>,
        variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, params: Val<ConvParams>, group: Val<i32>,
        norm: Val<NormParams>
    );
    /// As `conv2d_window_forward_medium`, tiles of 128 x 32.
    fn conv2d_window_forward_slim<T in f32 | bf16>(
        x4: In<T>, v: In<T>, bias: OptIn<T>, y: Out<T>, moments: OptOut<f32>, residual: OptIn<T>, mean: OptIn<f32>,
        variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, params: Val<ConvParams>, group: Val<i32>,
        norm: Val<NormParams>
    );
    /// [rows, a, b] moved by `first` along a, in [rows, a2, b2].
    fn conv2d_window_fit<T in f32 | bf16>(
        input: In<T>, out: Out<T>, a: Val<i32>, b: Val<i32>, a2: Val<i32>, b2: Val<i32>, first: Val<i32>, count: Val<i32>
    );
}

/// Channels of the padded image.
const CHANNELS: i32 = 4;

/// The same convolution of the padded image with the padded filter.
pub(super) fn padded(params: &ConvParams) -> ConvParams {
    let [down, across] = params.padding;
    let padding = [down, across + across % 2];
    ConvParams { w: params.w + params.w % 2, c: CHANNELS, s: WINDOW as i32, padding, ..*params }
}

/// `tensor`, seen as [.., a, b], moved by `first` along a, in `shape`, whose last extents are a2 and b2.
fn fit<T: Element>(tensor: &Tensor, shape: &[usize; 4], first: i32) -> Result<Tensor> {
    let [_, _, a, b] = tensor.dims(OP)?;
    let mut out = Tensor::empty(shape, T::DTYPE, tensor.device())?;
    let launch = Launch::linear(OP, out.len())?;
    let [a, b, a2, b2, count] = [a, b, shape[2], shape[3], out.len()].map(|extent| extent as i32);
    // SAFETY: both tensors have the same rows, and the extents that are passed; the launch covers `out`.
    unsafe { conv2d_window_fit::<T>(tensor.device(), launch, tensor, &mut out, a, b, a2, b2, first, count)? };
    Ok(out)
}

/// x [N,H,W,C] as the padded problem wants it.
pub(super) fn image<T: Element>(params: &ConvParams, x: &Tensor) -> Result<Tensor> {
    fit::<T>(x, &padded(params).input(), 0)
}

/// The gradient of the filter from that of the padded one.
pub(super) fn filter_gradient<T: Element>(params: &ConvParams, padded: &Tensor) -> Result<Tensor> {
    fit::<T>(padded, &params.filter(), -(params.padding[1] % 2))
}

pub(super) fn forward<T: Element>(
    params: &ConvParams,
    tile: MmaTile,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
    norm: &NormAfter<'_>,
) -> Result<Output> {
    let norm = norm.by_chunks(params.k as usize, T::DTYPE);
    let (device, p) = (x.device(), padded(params));
    let (x4, v) = (image::<T>(params, x)?, fit::<T>(w, &p.filter(), params.padding[1] % 2)?);
    let mut y = Tensor::empty(&p.output(), T::DTYPE, device)?;
    let (launch, group, mut moments) = by_groups(&p, tile, groups, device)?;
    let m = moments.as_mut().map(|moments| &mut moments.partial);
    let (residual, [mean, var, scale, shift], n) = (norm.residual, norm.vectors, norm.params);
    // SAFETY: the tensors have the extents of the padded problem; the grid covers y in tiles, group by group, and `m` has room
    // for each group's pieces; the residual has y's shape, and the vectors a value for each channel.
    unsafe {
        match tile {
            MmaTile::Slim => conv2d_window_forward_slim::<T>(
                device, launch, &x4, &v, bias, &mut y, m, residual, mean, var, scale, shift, p, group, n,
            )?,
            _ => conv2d_window_forward_medium::<T>(
                device, launch, &x4, &v, bias, &mut y, m, residual, mean, var, scale, shift, p, group, n,
            )?,
        }
    }
    Ok(Output { y, moments, normalized: norm.is_some() })
}
