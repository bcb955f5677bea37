//! Bilinear resizing with align_corners = true, as docs/method.md, "Features", asks for the logits.
//!
//! `y[i,j]` = lerp over rows of the lerp over columns: with (y0, y1, s) and (x0, x1, t) the positions of i and j,
//! `y[i,j] = u0 + s (u1 - u0)`, where `u0 = x[y0,x0] + t (x[y0,x1] - x[y0,x0])`, and u1 likewise in row y1.
//! The backward pass gathers: an input pixel adds up the output pixels around it in a fixed order.

mod axis;
mod band;
mod cpu;
pub(crate) mod cuda;

pub(crate) use axis::{Axis, lerp};

use crate::{DType, Result, Tensor, autograd::Var};

const OP: &str = "upsample_bilinear";

/// The extents of a resizing of [N,h,w,C] to [N,H,W,C].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    pub images: usize,
    pub rows: Axis,
    pub columns: Axis,
    pub channels: usize,
}

impl Resize {
    pub fn new(op: &'static str, x: &Tensor, height: usize, width: usize) -> Result<Self> {
        Self::of(op, x.dims(op)?, height, width)
    }

    /// Of an input [N,h,w,C].
    pub fn of(op: &'static str, [images, h, w, channels]: [usize; 4], height: usize, width: usize) -> Result<Self> {
        Ok(Self { images, rows: Axis::new(op, h, height)?, columns: Axis::new(op, w, width)?, channels })
    }

    pub fn input_shape(&self) -> [usize; 4] {
        [self.images, self.rows.input, self.columns.input, self.channels]
    }

    pub fn output_shape(&self) -> [usize; 4] {
        [self.images, self.rows.output, self.columns.output, self.channels]
    }
}

/// Reference: [`fn@super::segmentation_loss`] and [`fn@super::predict`] upsample as they go.
/// Resizes x `[N,h,w,C]` to `[N,height,width,C]`, f32, f64 or bf16; the corner pixels keep their values.
///
/// Works upwards and downwards; an axis of one output pixel takes the first input pixel.
///
/// Errors: x that has not four dimensions, an extent of 0, a dtype that is no float.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let x = Tape::new(&device).constant(Tensor::from_vec(vec![0.0f32, 4.0], &[1, 1, 2, 1], &device)?);
/// let y = ops::upsample_bilinear(&x, 1, 5)?;
/// assert_eq!(y.value().to_vec::<f32>()?, [0.0, 1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn upsample_bilinear(x: &Var, height: usize, width: usize) -> Result<Var> {
    let resize = Resize::new(OP, x.value(), height, width)?;
    let y = forward(x.value(), &resize)?;
    Var::record(OP, y, [x], move |dy, _| Ok([Some(backward(&dy, &resize)?)]))
}

fn forward(x: &Tensor, resize: &Resize) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::forward::<T>(x, resize),
        bf16 => forward(&x.to_dtype(DType::F32)?, resize)?.to_dtype(DType::Bf16),
        cpu => cpu::forward::<T>(x, resize),
    })
}

fn backward(dy: &Tensor, resize: &Resize) -> Result<Tensor> {
    dispatch!(dy, OP, T => {
        kernels => cuda::backward::<T>(dy, resize),
        bf16 => backward(&dy.to_dtype(DType::F32)?, resize)?.to_dtype(DType::Bf16),
        cpu => cpu::backward::<T>(dy, resize),
    })
}
