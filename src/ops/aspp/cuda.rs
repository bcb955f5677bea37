//! The two ways of computing the branches on tensor cores, and what they share.

mod gathers;
mod taps;

use bytemuck::{Pod, Zeroable};

use super::OP;
use crate::{
    DType, Result, Tensor,
    autograd::{Contribution, GradientRequest, Var},
    ops::{
        Conv2dSpec, concat_channels,
        conv2d::{ConvProblem, bias_gradient},
    },
    tensor::{Declaration, Element},
};
use taps::TapProduct;

/// Branches that the kernels take.
pub(super) const BRANCHES: usize = 4;
/// Output channels that they take: the columns of the tile of `gathers`.
const MOST_CHANNELS: usize = 32;

/// What the kernel files declare.
pub(crate) fn declarations() -> Vec<Declaration> {
    [gathers::declarations(), taps::declarations()].concat()
}

/// Mirrors `AsppParams` of kernels/include/aspp_params.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct AsppParams {
    n: i32,
    h: i32,
    w: i32,
    c: i32,
    k: i32,
    r: i32,
    s: i32,
    dilation: [i32; BRANCHES],
}

/// Whether the kernels take this input and filter.
pub(super) fn takes(x: &Var, [k, _, _, c]: [usize; 4]) -> bool {
    let tensor = x.value();
    let tensor_cores = match tensor.dtype() {
        DType::Bf16 => true,
        DType::F32 => x.tape().tf32(),
        _ => false,
    };
    tensor_cores && !tensor.device().is_cpu() && c > 0 && c % (16 / tensor.dtype().size()) == 0 && k <= MOST_CHANNELS
}

/// A checked problem: the first branch as a convolution, and the dilations of all.
#[derive(Clone, Copy)]
pub(super) struct Params {
    conv: ConvProblem,
    aspp: AsppParams,
}

impl Params {
    /// Errors as those of a convolution for each branch.
    pub fn new(x: &Tensor, filter: &Tensor, specs: &[Conv2dSpec]) -> Result<Self> {
        let (x, w) = (x.dims::<4>(OP)?, filter.dims::<4>(OP)?);
        let branches: Vec<ConvProblem> =
            specs.iter().map(|spec| ConvProblem::new(x, w, spec)).collect::<Result<_>>()?;
        // All branches together have more channels, and whole chunks of them.
        ConvProblem::new(x, [BRANCHES * w[0].next_multiple_of(8), w[1], w[2], w[3]], &specs[0])?;
        let conv = branches[0];
        let mut dilation = [0; BRANCHES];
        dilation.iter_mut().zip(&branches).for_each(|(d, branch)| *d = branch.dilation[0]);
        let ConvProblem { n, h, w, c, k, r, s, .. } = conv;
        Ok(Self { conv, aspp: AsppParams { n, h, w, c, k, r, s, dilation } })
    }

    fn pixels(&self) -> usize {
        self.conv.output()[..3].iter().product()
    }
}

/// What the backward pass needs.
pub(super) struct Saved {
    x: Tensor,
    filters: [Tensor; BRANCHES],
    /// Where it goes that way.
    taps: Option<TapProduct>,
}

pub(super) fn forward<T: Element>(
    params: &Params,
    x: &Tensor,
    filters: [Tensor; BRANCHES],
    biases: [&Tensor; BRANCHES],
) -> Result<(Tensor, Saved)> {
    let taps = TapProduct::by_warpgroups(params, x, &filters)?;
    let y = match &taps {
        Some(taps) => taps.forward(x, &filters, biases)?,
        None => gathers::forward::<T>(params, x, &filters, biases)?,
    };
    Ok((y, Saved { x: x.clone(), filters, taps }))
}

/// Gradients of x, the filters and the biases, in this order, as far as they are wanted.
pub(super) fn backward<T: Element>(
    params: &Params,
    dy: &Tensor,
    Saved { x, filters, taps }: &Saved,
    requests: &mut [GradientRequest],
) -> Result<Vec<Option<Contribution>>> {
    let wanted: Vec<bool> = requests.iter().map(|request| request.wanted).collect();
    let (of_filters, of_biases) = wanted[1..].split_at(BRANCHES);
    let (image, of_filters) = (&mut requests[0], of_filters.contains(&true));
    let (dx, dw) = match taps {
        _ if !image.wanted && !of_filters => (None, [const { None }; BRANCHES]),
        Some(taps) => taps.backward(dy, x, filters, image, of_filters)?,
        None => gathers::backward::<T>(params, dy, x, filters, image, of_filters)?,
    };
    let mut gradients = vec![dx];
    let parameters = dw.into_iter().chain(bias_gradients(params, dy, of_biases)?);
    gradients.extend(parameters.map(|gradient| gradient.map(Contribution::from)));
    gradients.iter_mut().zip(wanted).filter(|(_, wanted)| !wanted).for_each(|(gradient, _)| *gradient = None);
    Ok(gradients)
}

/// One launch makes those of all biases, if any is wanted.
fn bias_gradients(params: &Params, dy: &Tensor, wanted: &[bool]) -> Result<[Option<Tensor>; BRANCHES]> {
    let mut gradients = [const { None }; BRANCHES];
    if wanted.contains(&true) {
        let channels = params.conv.k as usize;
        let all = ConvProblem { k: BRANCHES as i32 * params.conv.k, ..params.conv };
        let all = bias_gradient(&all, dy)?.reshape(&[1, 1, 1, BRANCHES * channels])?;
        for (branch, gradient) in gradients.iter_mut().enumerate() {
            *gradient = Some(concat_channels::slice(&all, branch * channels, channels)?.reshape(&[channels])?);
        }
    }
    Ok(gradients)
}
