//! Convolutions against the CPU: each direction, each kind of kernel.

use super::{
    check::{Check, Trouble, need_warpgroups},
    compare::{Bound, Inputs, expect},
};
use crate::{DType, Device, Result, Tensor, autograd::Tape, ops, ops::Conv2dSpec};

/// N, H, W, C; K, R; stride, padding, dilation.
pub(super) type Shape = ([usize; 4], [usize; 2], [usize; 3]);

/// One of the three products.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Forward,
    DataGradient,
    WeightGradient,
}

impl Direction {
    pub const ALL: [Self; 3] = [Self::Forward, Self::DataGradient, Self::WeightGradient];

    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::DataGradient => "data gradient",
            Self::WeightGradient => "weight gradient",
        }
    }
}

/// A convolution's inputs and the gradient of its output.
#[derive(Clone)]
pub(super) struct Problem {
    x: Tensor,
    w: Tensor,
    bias: Tensor,
    dy: Tensor,
    spec: Conv2dSpec,
    /// Whether factors in f32 may be rounded to tf32.
    tf32: bool,
}

impl Problem {
    /// On the CPU.
    pub fn new(
        (x, [k, r], [stride, padding, dilation]): Shape,
        tf32: bool,
        mut draw: impl FnMut(&[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let extent = |extent: usize| (extent + 2 * padding - dilation * (r - 1) - 1) / stride + 1;
        let spec = Conv2dSpec { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
        let (w, dy) = (draw(&[k, r, r, x[3]])?, draw(&[x[0], extent(x[1]), extent(x[2]), k])?);
        Ok(Self { x: draw(&x)?, w, bias: draw(&[k])?, dy, spec, tf32 })
    }

    fn each(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let [x, w, bias, dy] = [&self.x, &self.w, &self.bias, &self.dy].map(change);
        Ok(Self { x: x?, w: w?, bias: bias?, dy: dy?, ..*self })
    }

    pub fn to_device(&self, device: &Device) -> Result<Self> {
        self.each(|tensor| tensor.to_device(device))
    }

    /// y, dx or dw.
    pub fn run(&self, direction: Direction) -> Result<Tensor> {
        let tape = Tape::new(self.x.device());
        let tape = if self.tf32 { tape.with_tf32() } else { tape };
        let (x, w) = match direction {
            Direction::Forward => (tape.constant(self.x.clone()), tape.constant(self.w.clone())),
            Direction::DataGradient => (tape.variable(self.x.clone()), tape.constant(self.w.clone())),
            Direction::WeightGradient => (tape.constant(self.x.clone()), tape.variable(self.w.clone())),
        };
        let y = ops::conv2d(&x, &w, Some(&tape.constant(self.bias.clone())), &self.spec)?;
        let wanted = match direction {
            Direction::Forward => return Ok(y.value().clone()),
            Direction::DataGradient => x,
            Direction::WeightGradient => w,
        };
        let gradients = tape.backward_with(&y, self.dy.clone())?;
        gradients.get(&wanted).cloned().ok_or_else(|| crate::Error::Internal("a variable has no gradient".into()))
    }
}

/// Kernels of one kind.
struct Kind {
    name: &'static str,
    dtype: DType,
    tf32: bool,
    warpgroups: bool,
    shapes: &'static [Shape],
    /// Of reals, from the CPU in f64.
    bound: Bound,
    advice: &'static str,
}

/// Windows over 3 and 2 channels; stride; a dilation; 19 filters; sums long enough to be cut; channels off all chunks, in few tiles
/// and in many; few filters over many pixels.
const SHAPES: &[Shape] = &[
    ([1, 22, 26, 3], [64, 7], [2, 3, 1]),
    ([1, 9, 10, 40], [72, 3], [2, 1, 1]),
    ([2, 5, 7, 16], [24, 3], [1, 2, 2]),
    ([1, 6, 5, 64], [19, 3], [1, 6, 6]),
    ([1, 5, 7, 264], [40, 3], [1, 1, 1]),
    ([1, 7, 9, 2], [19, 3], [2, 1, 1]),
    ([1, 5, 7, 5], [24, 3], [1, 1, 1]),
    ([4, 92, 92, 5], [64, 1], [1, 0, 1]),
    ([4, 92, 92, 64], [5, 1], [1, 0, 1]),
];

/// Channels off every slice and tile, with a dilation; 1 x 1 with more columns than a tile; stride 2.
const WIDE_SHAPES: &[Shape] = &[
    ([2, 9, 11, 72], [136, 3], [1, 2, 2]),
    ([2, 10, 13, 72], [264, 1], [1, 0, 1]),
    ([1, 17, 15, 64], [72, 3], [2, 1, 1]),
];

const KINDS: [Kind; 4] = [
    Kind {
        name: "conv f32",
        dtype: DType::F32,
        tf32: false,
        warpgroups: false,
        shapes: SHAPES,
        bound: Bound::Distance(1e-5),
        advice: "convolutions in fp32 would be wrong: train with --device cpu, and report this row with the card and its driver",
    },
    Kind {
        name: "conv tf32",
        dtype: DType::F32,
        tf32: true,
        warpgroups: false,
        shapes: SHAPES,
        bound: Bound::Distance(2e-3),
        advice: "convolutions in tf32 would be wrong: train with --precision fp32, and report this row with the card and its driver",
    },
    Kind {
        name: "conv bf16",
        dtype: DType::Bf16,
        tf32: false,
        warpgroups: false,
        shapes: SHAPES,
        bound: Bound::Distance(1e-2),
        advice: "convolutions in bf16 would be wrong: train with --precision tf32 or fp32, and report this row with the card and its driver",
    },
    Kind {
        name: "conv bf16 by warpgroups",
        dtype: DType::Bf16,
        tf32: false,
        warpgroups: true,
        shapes: WIDE_SHAPES,
        bound: Bound::Distance(1e-2),
        advice: super::NO_WARPGROUPS,
    },
];

impl Kind {
    fn check(&self, direction: Direction, device: &Device) -> Result<(), Trouble> {
        for &shape in self.shapes {
            let what = format!("{shape:?}");
            let mut draw = Inputs::new(17);
            let integers = Problem::new(shape, self.tf32, |shape| draw.integers(shape, self.dtype))?;
            let (got, want) = (integers.to_device(device)?.run(direction)?, integers.run(direction)?);
            expect(&format!("{what}, integers"), &got, &want, Bound::Exact)?;
            let reals = Problem::new(shape, self.tf32, |shape| draw.reals(shape, self.dtype))?;
            let exact = reals.each(|tensor| tensor.to_dtype(DType::F64))?.run(direction)?;
            let got = reals.to_device(device)?.run(direction)?.to_device(&Device::cpu())?;
            expect(&format!("{what}, reals"), &got.to_dtype(DType::F64)?, &exact, self.bound)?;
        }
        Ok(())
    }
}

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in KINDS {
        let kind = std::rc::Rc::new(kind);
        for direction in Direction::ALL {
            let kind = kind.clone();
            let name = format!("{}, {}", kind.name, direction.name());
            checks.push(Check::new("convolution", name, kind.advice, move |device| {
                let device = if kind.warpgroups { need_warpgroups(device)? } else { device.clone() };
                kind.check(direction, &device)?;
                Ok(format!("{} shapes, exact on integers", kind.shapes.len()))
            }));
        }
    }
    checks
}
