//! Two-dimensional convolution (cross-correlation, as in every framework), NHWC:
//!
//! `y[n,p,q,k] = b[k] + sum over r,s,c of x[n, p stride - pad + r dilation, q stride - pad + s dilation, c] w[k,r,s,c]`
//!
//! with zeros outside the image. Gradients:
//! `dx[n,h,w,c]` = sum over the taps that hit the pixel of `dy[n,p,q,k] w[k,r,s,c]`;
//! `dw[k,r,s,c]` = sum over n,p,q of `dy[n,p,q,k] x[..]`; `db[k]` = sum over n,p,q of `dy[n,p,q,k]`.
//! Every sum runs in an order fixed by the shapes alone, or by what was chosen for them once ([`DeviceOptions::autotune`]).
//!
//! [`DeviceOptions::autotune`]: crate::device::DeviceOptions::autotune

mod cpu;
pub(crate) mod cuda;
mod heuristic;
mod mma_tiling;
mod pointwise;
mod problem;
mod wgmma_tiling;

pub(super) use mma_tiling::{MmaTile, split_k};
pub(super) use pointwise::PointwiseConv;
pub use problem::Conv2dSpec;
pub(crate) use problem::ConvProblem;

use super::epilogue::{BatchNormEpilogue, BatchNormPartialStats};
use crate::{
    DType, Error, Result, Tensor,
    autograd::{Contribution, GradientRequest, Var},
    with_float, with_real,
};

const OP: &str = "conv2d";

/// The arithmetic of f32 products on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MathMode {
    /// As they are.
    Full,
    /// Rounded to tf32, on tensor cores.
    Tf32,
}

/// Convolution of `x` `[N, H, W, C]` with the filter `w` `[K, R, S, C]`, plus `bias` `[K]`: `[N, P, Q, K]` with
/// P = (H + 2 padding - dilation (R - 1) - 1) / stride + 1, and Q likewise. All of one dtype: f32, f64 or bf16
/// (stored; sums are saved in f32). On a GPU bf16 is multiplied on tensor cores, and so is f32, rounded to tf32, where the
/// tape says so ([`crate::autograd::Tape::with_tf32`]).
///
/// Errors: channels that differ, a filter larger than the padded input, a stride or dilation of 0, empty tensors,
/// more than 2^31 - 1 elements, dtypes or devices that differ.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{Conv2dSpec, conv2d}};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let x = tape.constant(Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], &[1, 2, 2, 1], &device)?);
/// let w = tape.variable(Tensor::from_vec(vec![1.0f32, 10.0, 100.0, 1000.0], &[1, 2, 2, 1], &device)?);
/// let y = conv2d(&x, &w, None, &Conv2dSpec::default())?;
/// assert_eq!(y.value().to_vec::<f32>()?, [4321.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn conv2d(x: &Var, w: &Var, bias: Option<&Var>, spec: &Conv2dSpec) -> Result<Var> {
    Ok(convolve(x, w, bias, spec, None)?.0)
}

/// As [`conv2d`], for a batch norm with the batch's statistics over `groups` runs of images: where the kernel can, it also
/// takes the moments that [`BatchNormSpec::moments`](crate::ops::BatchNormSpec::moments) wants, and spares a pass over y.
///
/// Errors: as [`conv2d`]; images that do not divide into the groups.
pub fn conv2d_with_moments(
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    spec: &Conv2dSpec,
    groups: usize,
) -> Result<(Var, Option<BatchNormPartialStats>)> {
    let images = x.value().dims::<4>(OP)?[0];
    if groups == 0 || !images.is_multiple_of(groups) {
        return Err(Error::shape(OP, format!("{images} images do not divide into {groups} groups")));
    }
    convolve(x, w, bias, spec, Some(groups))
}

fn convolve(
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    spec: &Conv2dSpec,
    groups: Option<usize>,
) -> Result<(Var, Option<BatchNormPartialStats>)> {
    let conv = CheckedConv::new(x, w, bias, spec)?;
    let (y, moments) = forward(&conv, x.value(), w.value(), bias.map(Var::value), groups)?;
    let saved = SavedConv::new(conv, x, w);
    let parents: Vec<&Var> = [Some(x), Some(w), bias].into_iter().flatten().collect();
    let y = Var::record_fusing(OP, y, &parents, None, move |dy, _, requests| saved.gradients(&dy, requests))?;
    Ok((y, moments))
}

/// A checked convolution.
#[derive(Clone, Copy)]
pub(super) struct CheckedConv {
    problem: ConvProblem,
    math_mode: MathMode,
}

impl CheckedConv {
    pub fn new(x: &Var, w: &Var, bias: Option<&Var>, spec: &Conv2dSpec) -> Result<Self> {
        let (input, filter) = (x.value(), w.value());
        let problem = ConvProblem::new(input.dims(OP)?, filter.dims(OP)?, spec)?;
        if let Some(bias) = bias {
            bias.value().expect_shape(&[problem.k as usize], OP, "the bias")?;
        }
        for other in [Some(w), bias].into_iter().flatten() {
            input.expect_same_device(other.value(), OP)?;
            if other.value().dtype() != input.dtype() {
                let dtypes = (input.dtype(), other.value().dtype());
                return Err(Error::shape(OP, format!("operands of dtype {} and {}; convert one", dtypes.0, dtypes.1)));
            }
        }
        Ok(Self { problem, math_mode: if x.tape().tf32() { MathMode::Tf32 } else { MathMode::Full } })
    }

    /// [N, P, Q, K].
    pub fn output(&self) -> [usize; 4] {
        self.problem.output()
    }
}

/// What the backward pass needs: the gradient of one factor needs the other.
pub(super) struct SavedConv {
    conv: CheckedConv,
    input: Option<Tensor>,
    filter: Option<Tensor>,
}

impl SavedConv {
    pub fn new(conv: CheckedConv, x: &Var, w: &Var) -> Self {
        let input = w.is_tracked().then(|| x.value().clone());
        let filter = x.is_tracked().then(|| w.value().clone());
        Self { conv, input, filter }
    }

    /// Those of x, w and, where there is a third request, the bias.
    pub fn gradients(self, dy: &Tensor, requests: &mut [GradientRequest]) -> Result<Vec<Option<Contribution>>> {
        let CheckedConv { problem, math_mode } = self.conv;
        let wanted: Vec<bool> = requests.iter().map(|request| request.wanted).collect();
        let image = &mut requests[0];
        let dx = self.filter.filter(|_| wanted[0]).map(|w| data_gradient(&problem, dy, &w, math_mode, image));
        let dw = self.input.filter(|_| wanted[1]).map(|x| weight_gradient(&problem, dy, &x, math_mode));
        let mut gradients = vec![dx.transpose()?, dw.transpose()?.map(Contribution::from)];
        if let Some(&wanted) = wanted.get(2) {
            gradients.push(wanted.then(|| bias_gradient(&problem, dy)).transpose()?.map(Contribution::from));
        }
        Ok(gradients)
    }
}

/// y = x * w + bias, or relu(norm(x * w + bias) + residual), and whether it is the latter: where the kernel can.
pub(super) fn forward_normalized(
    conv: &CheckedConv,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    norm: &BatchNormEpilogue<'_>,
) -> Result<(Tensor, bool)> {
    if x.device().is_cpu() {
        return Ok((forward(conv, x, w, bias, None)?.0, false));
    }
    let CheckedConv { problem, math_mode } = conv;
    let out = with_float!(x.dtype(), OP, T => cuda::forward::<T>(problem, x, w, bias, *math_mode, None, norm))?;
    count_product(&[x, w, &out.y]);
    Ok((out.y, out.normalized))
}

/// Tells a plan which tensors a product cannot do without.
pub(super) fn count_product(tensors: &[&Tensor]) {
    if let Some(plan) = tensors.first().and_then(|tensor| tensor.device().as_plan()) {
        plan.product(tensors.iter().map(|tensor| tensor.len() * tensor.dtype().size()).sum());
    }
}

/// y, and its moments by group where they are asked for and come for nothing.
fn forward(
    CheckedConv { problem, math_mode }: &CheckedConv,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    groups: Option<usize>,
) -> Result<(Tensor, Option<BatchNormPartialStats>)> {
    if !x.device().is_cpu() {
        let none = BatchNormEpilogue::none();
        let out = with_float!(x.dtype(), OP, T => cuda::forward::<T>(problem, x, w, bias, *math_mode, groups, &none))?;
        count_product(&[x, w, &out.y]);
        return Ok((out.y, out.moments));
    }
    if x.dtype() == DType::Bf16 {
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        let (x, w) = (x.to_dtype(DType::F32)?, w.to_dtype(DType::F32)?);
        let y = with_real!(DType::F32, OP, T => cpu::forward::<T>(problem, &x, &w, bias.as_ref()))?;
        return Ok((y.to_dtype(DType::Bf16)?, None));
    }
    let y = with_real!(x.dtype(), OP, T => cpu::forward::<T>(problem, x, w, bias))?;
    Ok((y, None))
}

/// Accumulates, and applies the epilogue of the image's producer, where the kernel can.
fn data_gradient(
    problem: &ConvProblem,
    dy: &Tensor,
    w: &Tensor,
    math_mode: MathMode,
    request: &mut GradientRequest,
) -> Result<Contribution> {
    if !dy.device().is_cpu() {
        let dx = with_float!(dy.dtype(), OP, T => cuda::data_gradient::<T>(problem, dy, w, math_mode, request))?;
        count_product(&[dy, w, &dx.gradient]);
        return Ok(dx);
    }
    if dy.dtype() == DType::Bf16 {
        let (dy, w) = (dy.to_dtype(DType::F32)?, w.to_dtype(DType::F32)?);
        let dx = with_real!(DType::F32, OP, T => cpu::data_gradient::<T>(problem, &dy, &w))?;
        return Ok(dx.to_dtype(DType::Bf16)?.into());
    }
    let dx = with_real!(dy.dtype(), OP, T => cpu::data_gradient::<T>(problem, dy, w))?;
    Ok(dx.into())
}

fn weight_gradient(problem: &ConvProblem, dy: &Tensor, x: &Tensor, math_mode: MathMode) -> Result<Tensor> {
    if !dy.device().is_cpu() {
        let dw = with_float!(dy.dtype(), OP, T => cuda::weight_gradient::<T>(problem, dy, x, math_mode))?;
        count_product(&[dy, x, &dw]);
        return Ok(dw);
    }
    if dy.dtype() == DType::Bf16 {
        let dw = weight_gradient(problem, &dy.to_dtype(DType::F32)?, &x.to_dtype(DType::F32)?, math_mode)?;
        return dw.to_dtype(DType::Bf16);
    }
    with_real!(dy.dtype(), OP, T => cpu::weight_gradient::<T>(problem, dy, x))
}

pub(super) fn bias_gradient(problem: &ConvProblem, dy: &Tensor) -> Result<Tensor> {
    if !dy.device().is_cpu() {
        return with_float!(dy.dtype(), OP, T => cuda::bias_gradient::<T>(problem, dy));
    }
    if dy.dtype() == DType::Bf16 {
        return bias_gradient(problem, &dy.to_dtype(DType::F32)?)?.to_dtype(DType::Bf16);
    }
    with_real!(dy.dtype(), OP, T => cpu::bias_gradient::<T>(problem, dy))
}
