//! The kernels of `kernels/conv2d_few_channels.cu`: images of few channels on tensor cores, a row of taps at a time.

use half::bf16;

use super::{
    Output, by_groups,
    epilogue::{Forward, ForwardEpilogue},
};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    ops::{
        conv2d::{ConvProblem, MmaTile, OP, heuristic::ROW_TAPS},
        epilogue::BatchNormEpilogue,
    },
    tensor::{Element, In, Out, Val},
};

kernels! { "conv2d_few_channels";
    /// y = x * w of the padded image and filter, and what its epilogue adds.
    fn conv2d_few_channels_forward<T in f32 | bf16; MmaTile in [medium slim]>(
        x4: In<T>, v: In<T>, y: Out<T>, epilogue: Forward<T>, problem: Val<ConvProblem>, group: Val<i32>
    );
    /// [rows, a, b] moved by `first` along a, in [rows, a2, b2].
    fn conv2d_few_channels_fit<T in f32 | bf16>(
        input: In<T>, out: Out<T>, a: Val<i32>, b: Val<i32>, a2: Val<i32>, b2: Val<i32>, first: Val<i32>, count: Val<i32>
    );
}

/// Channels of the padded image.
const CHANNELS: i32 = 4;

/// The same convolution of the padded image with the padded filter.
pub(super) fn padded(problem: &ConvProblem) -> ConvProblem {
    let [down, across] = problem.padding;
    let padding = [down, across + across % 2];
    ConvProblem { w: problem.w + problem.w % 2, c: CHANNELS, s: ROW_TAPS as i32, padding, ..*problem }
}

/// `tensor`, seen as [.., a, b], moved by `first` along a, in `shape`, whose last extents are a2 and b2.
fn fit<T: Element>(tensor: &Tensor, shape: &[usize; 4], first: i32) -> Result<Tensor> {
    let [_, _, a, b] = tensor.dims(OP)?;
    let mut out = Tensor::empty(shape, T::DTYPE, tensor.device())?;
    let launch = Launch::linear(OP, out.len())?;
    let [a, b, a2, b2, count] = [a, b, shape[2], shape[3], out.len()].map(|extent| extent as i32);
    // SAFETY: both tensors have the same rows, and the extents that are passed; the launch covers `out`.
    unsafe { conv2d_few_channels_fit::<T>(tensor.device(), launch, tensor, &mut out, a, b, a2, b2, first, count)? };
    Ok(out)
}

/// x [N,H,W,C] as the padded problem wants it.
pub(super) fn image<T: Element>(problem: &ConvProblem, x: &Tensor) -> Result<Tensor> {
    fit::<T>(x, &padded(problem).input(), 0)
}

/// The gradient of the filter from that of the padded one.
pub(super) fn filter_gradient<T: Element>(problem: &ConvProblem, padded: &Tensor) -> Result<Tensor> {
    fit::<T>(padded, &problem.filter(), -(problem.padding[1] % 2))
}

pub(super) fn forward<T: Element>(
    problem: &ConvProblem,
    tile: MmaTile,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
    norm: &BatchNormEpilogue<'_>,
) -> Result<Output> {
    let norm = norm.by_chunks(problem.k as usize, T::DTYPE);
    let (device, p) = (x.device(), padded(problem));
    let (x4, v) = (image::<T>(problem, x)?, fit::<T>(w, &p.filter(), problem.padding[1] % 2)?);
    let mut y = Tensor::empty(&p.output(), T::DTYPE, device)?;
    let (launch, group, mut moments) = by_groups(&p, tile, groups, device)?;
    let epilogue = ForwardEpilogue::new(bias, moments.as_mut().map(|moments| &mut moments.partial), &norm);
    // SAFETY: the tensors have the extents of the padded problem; the grid covers y in tiles, group by group, and the moments
    // have room for each group's pieces; the residual has y's shape, and the vectors a value for each channel.
    unsafe { conv2d_few_channels_forward::<T>(device, launch, tile, &x4, &v, &mut y, epilogue, p, group)? };
    Ok(Output { y, moments, normalized: norm.is_some() })
}
