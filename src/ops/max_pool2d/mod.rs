//! Max pooling with PyTorch's semantics: padding never wins, a NaN in the window does, and with `ceil_mode` the last
//! window may reach beyond the padded input as long as it starts inside the input or the padding before it.
//!
//! The forward pass keeps each maximum's place in its window in one byte; the backward pass gathers with it.

mod cpu;
pub(crate) mod cuda;

use std::ops::Range;

use crate::{DType, Error, Result, Tensor, autograd::Var};

const OP: &str = "max_pool2d";

/// The windows of a pooling: [vertical, horizontal].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2dSpec {
    /// Extent of a window in pixels; together at most 256.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Padding on each side, at most half the window.
    pub padding: [usize; 2],
    /// Whether a last window that is only partly inside counts.
    pub ceil_mode: bool,
}

/// A pooling of a given input.
#[derive(Clone, Copy, Debug)]
struct Pooling {
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

/// The maximum over each window of x `[N,H,W,C]`, f32, f64 or bf16: `[N,P,Q,C]`. The gradient goes to the first maximum
/// of a window (to the last NaN, where there is one).
///
/// Errors: x without four dimensions, a kernel or stride of 0, a padding above half the kernel, a window of more
/// than 256 pixels, an input smaller than one window, a dtype that is no float.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{self, MaxPool2dSpec}};
/// let device = Device::cpu();
/// let x = Tape::new(&device).constant(Tensor::from_vec(vec![1.0f32, 4.0, 3.0, 2.0, 0.0], &[1, 1, 5, 1], &device)?);
/// let spec = MaxPool2dSpec { kernel: [1, 2], stride: [1, 2], padding: [0, 0], ceil_mode: true };
/// assert_eq!(ops::max_pool2d(&x, &spec)?.value().to_vec::<f32>()?, [4.0, 3.0, 0.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn max_pool2d(x: &Var, spec: &MaxPool2dSpec) -> Result<Var> {
    let problem = Pooling::new(x.value(), spec)?;
    let (y, places) = forward(x.value(), &problem)?;
    Var::record(OP, y, [x], move |dy, _| Ok([Some(backward(&dy, &places, &problem)?)]))
}

impl Pooling {
    fn new(x: &Tensor, spec: &MaxPool2dSpec) -> Result<Self> {
        let [images, height, width, channels] = x.dims(OP)?;
        let MaxPool2dSpec { kernel, stride, padding, .. } = *spec;
        let sound = (0..2).all(|axis| kernel[axis] > 0 && stride[axis] > 0 && padding[axis] <= kernel[axis] / 2);
        if !sound {
            let rule = "kernel and stride must be positive, padding at most half the kernel";
            return Err(Error::shape(OP, format!("{spec:?}: {rule}")));
        }
        if kernel[0].checked_mul(kernel[1]).is_none_or(|area| area > 256) {
            return Err(Error::shape(OP, format!("{spec:?}: a window holds at most 256 pixels")));
        }
        let output = |axis: usize, input: usize| -> Option<usize> {
            let padded = input.checked_add(2 * padding[axis])?;
            let room = padded.checked_sub(kernel[axis]);
            let last = match room {
                Some(room) if spec.ceil_mode => room.div_ceil(stride[axis]),
                Some(room) => room / stride[axis],
                // The only window reaches beyond the padded input.
                None if spec.ceil_mode && input > 0 && kernel[axis] - padded < stride[axis] => 0,
                None => return None,
            };
            // A window has to start before the padding after the input.
            let outside = spec.ceil_mode && last > 0 && last * stride[axis] >= input + padding[axis];
            Some(last + 1 - usize::from(outside))
        };
        let (Some(out_height), Some(out_width)) = (output(0, height), output(1, width)) else {
            return Err(Error::shape(OP, format!("input {height} x {width} is smaller than one window of {spec:?}")));
        };
        if height == 0 || width == 0 {
            return Err(Error::shape(OP, format!("input {height} x {width} holds no pixels")));
        }
        Ok(Self { images, height, width, channels, out_height, out_width, kernel, stride, padding })
    }

    fn input_shape(&self) -> [usize; 4] {
        [self.images, self.height, self.width, self.channels]
    }

    fn output_shape(&self) -> [usize; 4] {
        [self.images, self.out_height, self.out_width, self.channels]
    }

    /// The pixels of window `window` along `axis` that lie inside the input: (place in the window, input pixel).
    fn window(&self, axis: usize, window: usize, input: usize) -> impl Iterator<Item = (usize, usize)> {
        let (start, padding) = (window * self.stride[axis], self.padding[axis]);
        let first = padding.saturating_sub(start);
        let end = self.kernel[axis].min((input + padding).saturating_sub(start));
        (first..end).map(move |place| (place, start + place - padding))
    }

    /// The windows along `axis` that cover input pixel `pixel`.
    fn windows_over(&self, axis: usize, pixel: usize, output: usize) -> Range<usize> {
        let at = pixel + self.padding[axis];
        let first = (at + 1).saturating_sub(self.kernel[axis]).div_ceil(self.stride[axis]);
        first..(at / self.stride[axis] + 1).min(output)
    }
}

fn forward(x: &Tensor, problem: &Pooling) -> Result<(Tensor, Tensor)> {
    dispatch!(x, OP, T => {
        kernels => cuda::forward::<T>(x, problem),
        bf16 => {
            let (y, places) = forward(&x.to_dtype(DType::F32)?, problem)?;
            Ok((y.to_dtype(DType::Bf16)?, places))
        },
        cpu => cpu::forward::<T>(x, problem),
    })
}

fn backward(dy: &Tensor, places: &Tensor, problem: &Pooling) -> Result<Tensor> {
    dispatch!(dy, OP, T => {
        kernels => cuda::backward::<T>(dy, places, problem),
        bf16 => backward(&dy.to_dtype(DType::F32)?, places, problem)?.to_dtype(DType::Bf16),
        cpu => cpu::backward::<T>(dy, places, problem),
    })
}
