//! Launch of `kernels/argmax.cu`.

use half::bf16;

use super::OP;
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Out, Val},
};

kernels! { "argmax";
    /// labels = the first largest class of each pixel.
    fn argmax<T in f32 | f64 | bf16>(x: In<T>, labels: Out<u8>, classes: Val<i32>, count: Val<i32>);
}

pub(super) fn labels<T: Element>(logits: &Tensor, classes: usize) -> Result<Tensor> {
    let mut labels = Tensor::empty(&logits.shape()[..3], DType::U8, logits.device())?;
    let (launch, count) = (Launch::linear(OP, labels.len())?, labels.len() as i32);
    // SAFETY: `count` pixels of `classes` logits each; the launch covers the pixels.
    unsafe { argmax::<T>(logits.device(), launch, logits, &mut labels, classes as i32, count)? };
    Ok(labels)
}
