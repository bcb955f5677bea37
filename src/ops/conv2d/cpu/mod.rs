//! Convolution on the CPU as an implicit matrix product: gathered pixels (`gather`) by packed filters (`panels`), in
//! blocks (`product`) around a register-tiled microkernel (`tile`, `simd`).

mod gather;
mod panels;
mod product;
mod simd;
mod tile;

use rayon::prelude::*;

use super::ConvProblem;
use crate::{Result, Tensor};
use gather::Gather;
use panels::Panels;
use tile::Microkernels;

/// y = x * w + bias.
pub(super) fn forward<T: Microkernels>(
    problem: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = Tensor::empty(&problem.output(), T::DTYPE, x.device())?;
    let panels = Panels::forward::<T>(problem, w.as_slice()?)?;
    let bias = bias.map(Tensor::as_slice::<T>).transpose()?;
    product::gathered_by_panels(&Gather::forward(problem), x.as_slice()?, &panels, bias, y.as_mut_slice()?)?;
    Ok(y)
}

/// dx from dy and w.
pub(super) fn data_gradient<T: Microkernels>(problem: &ConvProblem, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut dx = Tensor::empty(&problem.input(), T::DTYPE, dy.device())?;
    let (dy, w) = (dy.as_slice::<T>()?, w.as_slice::<T>()?);
    let phases = |axis: usize, extent: i32| 0..(problem.stride[axis].min(extent) as usize);
    for down in phases(0, problem.h) {
        for across in phases(1, problem.w) {
            let gather = Gather::backward(problem, [down, across]);
            let panels = Panels::backward::<T>(problem, &gather, w)?;
            let dx = dx.as_mut_slice::<T>()?;
            if problem.stride == [1, 1] {
                product::gathered_by_panels(&gather, dy, &panels, None, dx)?;
            } else {
                let mut part = Tensor::empty(&[gather.rows(), problem.c as usize], T::DTYPE, &crate::Device::cpu())?;
                product::gathered_by_panels(&gather, dy, &panels, None, part.as_mut_slice()?)?;
                spread(problem, [down, across], gather.grid, part.as_slice()?, dx);
            }
        }
    }
    Ok(dx)
}

/// Copies the pixels of one phase to their places among all.
fn spread<T: Microkernels>(problem: &ConvProblem, phase: [usize; 2], grid: [usize; 3], part: &[T], dx: &mut [T]) {
    let [_, h, w, c] = problem.input();
    let stride = problem.stride.map(|stride| stride as usize);
    dx.par_chunks_mut(w * c).enumerate().for_each(|(line, dx)| {
        let (image, row) = (line / h, line % h);
        if row % stride[0] != phase[0] {
            return;
        }
        let part = &part[(image * grid[1] + row / stride[0]) * grid[2] * c..][..grid[2] * c];
        for (pixel, part) in dx.chunks_mut(c).skip(phase[1]).step_by(stride[1]).zip(part.chunks(c)) {
            pixel.copy_from_slice(part);
        }
    });
}

/// dw from dy and x.
pub(super) fn weight_gradient<T: Microkernels>(problem: &ConvProblem, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let mut dw = Tensor::empty(&problem.filter(), T::DTYPE, dy.device())?;
    let filters = problem.k as usize;
    product::transposed_by_gathered(
        &Gather::forward(problem),
        x.as_slice()?,
        dy.as_slice()?,
        filters,
        dw.as_mut_slice::<T>()?,
    )?;
    Ok(dw)
}

/// db from dy: sums over blocks of pixels, added in order.
pub(super) fn bias_gradient<T: Microkernels>(problem: &ConvProblem, dy: &Tensor) -> Result<Tensor> {
    const PIXELS: usize = 512;
    let filters = problem.k as usize;
    let add = |mut total: Vec<T>, more: &[T]| {
        total.iter_mut().zip(more).for_each(|(total, &value)| *total += value);
        total
    };
    let zeros = || vec![T::zero(); filters];
    let blocks = dy.as_slice::<T>()?.par_chunks(PIXELS * filters);
    let sums: Vec<Vec<T>> = blocks.map(|block| block.chunks(filters).fold(zeros(), add)).collect();
    let total = sums.iter().fold(zeros(), |total, sum| add(total, sum));
    Tensor::from_vec(total, &[filters], dy.device())
}
