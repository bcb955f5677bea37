//! Sum over groups of channels, as of the ASPP branches' logits: `y[n,h,w,k] = sum_g x[n,h,w,g K + k]`, g in rising order.

mod cpu;
pub(crate) mod cuda;

use crate::{DType, Error, Result, Tensor, autograd::Var, with_float};

const OP: &str = "sum_channel_groups";

/// `[N,H,W,G*K]` -> `[N,H,W,K]` for G = `groups`, f32, f64 or bf16 (summed in f32). The gradient of each group is dy.
///
/// Errors: channels that are no multiple of `groups`.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let x = Tape::new(&device).constant(Tensor::from_vec(vec![1.0f32, 2.0, 10.0, 20.0], &[1, 1, 1, 4], &device)?);
/// assert_eq!(ops::sum_channel_groups(&x, 2)?.value().to_vec::<f32>()?, [11.0, 22.0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn sum_channel_groups(x: &Var, groups: usize) -> Result<Var> {
    let [.., channels] = x.value().dims::<4>(OP)?;
    if groups == 0 || channels % groups != 0 {
        return Err(Error::shape(OP, format!("{channels} channels are no {groups} groups of one size")));
    }
    let shape = x.value().shape().to_vec();
    Var::record_fusing(OP, forward(x.value(), groups)?, &[x], None, move |dy, _, requests| {
        let accumulate = requests[0].take_accumulate(&shape);
        Ok(vec![Some(backward(&dy, groups, accumulate)?.into())])
    })
}

fn forward(x: &Tensor, groups: usize) -> Result<Tensor> {
    dispatch!(x, OP, T => {
        kernels => cuda::forward::<T>(x, groups),
        bf16 => forward(&x.to_dtype(DType::F32)?, groups)?.to_dtype(DType::Bf16),
        cpu => cpu::forward::<T>(x, groups),
    })
}

/// The gradient, added to `accumulate` where there is one.
fn backward(dy: &Tensor, groups: usize, accumulate: Option<Tensor>) -> Result<Tensor> {
    if !dy.device().is_cpu() {
        return with_float!(dy.dtype(), OP, T => cuda::backward::<T>(dy, groups, accumulate));
    }
    let dx = with_float!(dy.dtype(), OP, T => cpu::backward::<T>(dy, groups))?;
    let Some(mut sum) = accumulate else { return Ok(dx) };
    sum.accumulate(&dx)?;
    Ok(sum)
}
