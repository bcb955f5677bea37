//! Atrous spatial pyramid pooling, the head of DeepLab-V2 (Chen et al., PAMI 2018; docs/method.md, "Features"): convolutions of
//! one input that differ in their dilation, side by side:
//!
//! `y[n,p,q,b K + k] = bias_b[k] + sum over r,s,c of x[n, p + (r - R/2) d_b, q + (s - S/2) d_b, c] w_b[k,r,s,c]`
//!
//! In general this is [`fn@conv2d`] for each branch and [`fn@concat_channels`]. On tensor cores the four branches are one problem:
//! the input's gradient is summed over them where it is made, and 19 output channels waste no tile of their own. On Hopper, in
//! bf16, that problem is a plain product of matrices, of which warpgroups make the most, and passes that move pixels.

pub(crate) mod cuda;

use super::{Conv2dSpec, concat_channels, conv2d};
use crate::{Error, Result, Tensor, autograd::Var, with_float};

const OP: &str = "aspp";

/// A branch: the filter `[K,R,S,C]` with odd R and S, the bias `[K]`, and the distance between the filter's taps.
#[derive(Clone, Copy)]
pub struct AsppBranch<'a> {
    /// `[K,R,S,C]`.
    pub filter: &'a Var,
    /// `[K]`.
    pub bias: &'a Var,
    /// At least 1.
    pub dilation: usize,
}

/// The branches' outputs for `x` `[N,H,W,C]`, concatenated: `[N,H,W,B*K]`. All of one dtype: f32, f64 or bf16.
///
/// Errors: no branches, filters of different or even extents, and those of [`fn@conv2d`].
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops::{AsppBranch, aspp}};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let x = tape.constant(Tensor::from_vec(vec![1.0f32, 10.0, 100.0], &[1, 1, 3, 1], &device)?);
/// let filter = tape.variable(Tensor::from_vec(vec![1.0f32, 1.0, 1.0], &[1, 1, 3, 1], &device)?);
/// let bias = tape.variable(Tensor::from_vec(vec![0.5f32], &[1], &device)?);
/// let branch = |dilation| AsppBranch { filter: &filter, bias: &bias, dilation };
/// let y = aspp(&x, &[branch(1), branch(2)])?;
/// assert_eq!(y.value().to_vec::<f32>()?, [11.5, 101.5, 111.5, 10.5, 110.5, 101.5]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn aspp(x: &Var, branches: &[AsppBranch<'_>]) -> Result<Var> {
    let Some(first) = branches.first() else {
        return Err(Error::shape(OP, "no branches were given; give at least one"));
    };
    let filter = first.filter.value().dims::<4>(OP)?;
    let mut convolutions = Vec::with_capacity(branches.len());
    for branch in branches {
        branch.filter.value().expect_shape(&filter, OP, "each filter")?;
        let [_, r, s, _] = filter;
        if r % 2 == 0 || s % 2 == 0 {
            return Err(Error::shape(OP, format!("filter {filter:?} [K, R, S, C] has no centre; use odd R and S")));
        }
        let too_large = || Error::shape(OP, format!("dilation {} exceeds 32-bit coordinates", branch.dilation));
        let padding = |taps: usize| branch.dilation.checked_mul(taps / 2).ok_or_else(too_large);
        let padding = [padding(r)?, padding(s)?];
        convolutions.push(Conv2dSpec { stride: [1, 1], padding, dilation: [branch.dilation; 2] });
    }
    match <&[AsppBranch<'_>; cuda::BRANCHES]>::try_from(branches) {
        Ok(branches) if cuda::takes(x, filter) => on_tensor_cores(x, *branches, &convolutions),
        _ => {
            let outputs: Vec<Var> = branches
                .iter()
                .zip(&convolutions)
                .map(|(branch, spec)| conv2d(x, branch.filter, Some(branch.bias), spec))
                .collect::<Result<_>>()?;
            concat_channels(&outputs.iter().collect::<Vec<_>>())
        }
    }
}

fn on_tensor_cores(x: &Var, branches: [AsppBranch<'_>; cuda::BRANCHES], specs: &[Conv2dSpec]) -> Result<Var> {
    let input = x.value();
    let expect = |operand: &Tensor| {
        input.expect_same_device(operand, OP)?;
        match operand.dtype() == input.dtype() {
            true => Ok(()),
            false => Err(Error::shape(
                OP,
                format!("operands of dtype {} and {}; convert one", input.dtype(), operand.dtype()),
            )),
        }
    };
    for branch in &branches {
        expect(branch.filter.value())?;
        expect(branch.bias.value())?;
        branch.bias.value().expect_shape(&branch.filter.value().shape()[..1], OP, "each bias")?;
    }
    let filters = branches.map(|branch| branch.filter.value().clone());
    let biases = branches.map(|branch| branch.bias.value());
    let params = cuda::Params::new(input, &filters[0], specs)?;
    let (y, kept) = with_float!(input.dtype(), OP, T => cuda::forward::<T>(&params, input, filters, biases))?;
    let mut parents = vec![x];
    parents.extend(branches.iter().map(|branch| branch.filter));
    parents.extend(branches.iter().map(|branch| branch.bias));
    Var::record_fusing(
        OP,
        y,
        &parents,
        None,
        move |dy, _, requests| with_float!(dy.dtype(), OP, T => cuda::backward::<T>(&params, &dy, &kept, requests)),
    )
}
