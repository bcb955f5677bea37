//! Products that were timed on a GPU: still right, the same on every call and in every graph.

mod common;

use bicl::{
    DType, Device, Result, Tensor,
    autograd::Tape,
    ops::{self, Conv2dSpec},
};
use common::{Rng, Tolerance, assert_close, assert_same_bits, kernel_devices};

const SPEC: Conv2dSpec = Conv2dSpec { stride: [1, 1], padding: [1, 1], dilation: [1, 1] };

/// x, w and dy.
fn operands(dtype: DType, device: &Device, mut draw: impl FnMut(&[usize], DType, &Device) -> Tensor) -> [Tensor; 3] {
    [[2, 23, 19, 64], [136, 3, 3, 64], [2, 23, 19, 136]].map(|shape| draw(&shape, dtype, device))
}

/// y, dx and dw.
fn run([x, w, dy]: &[Tensor; 3]) -> Result<Vec<Tensor>> {
    let tape = Tape::new(x.device()).with_tf32();
    let [x, w] = [x, w].map(|tensor| tape.variable(tensor.clone()));
    let y = ops::conv2d(&x, &w, None, &SPEC)?;
    let gradients = tape.backward_with(&y, dy.clone())?;
    let of = |var| gradients.get(var).cloned().expect("a variable has a gradient");
    Ok(vec![y.value().clone(), of(&x), of(&w)])
}

#[test]
fn timed_products_are_exact_and_repeat_in_graphs() {
    for device in kernel_devices().into_iter().filter(Device::is_cuda) {
        device.set_autotune(true);
        for dtype in [DType::Bf16, DType::F32] {
            let integers = |device: &Device| {
                let mut rng = Rng(5);
                operands(dtype, device, |shape, dtype, device| rng.integers(shape, dtype, device))
            };
            let (got, want) = (run(&integers(&device)).unwrap(), run(&integers(&Device::cpu())).unwrap());
            for (got, want) in got.iter().zip(&want) {
                assert_close(got, want, Tolerance::EXACT, &format!("{dtype}"));
            }
            let mut rng = Rng(6);
            let reals = operands(dtype, &device, |shape, dtype, device| rng.reals(shape, dtype, device));
            let (first, again) = (run(&reals).unwrap(), run(&reals).unwrap());
            let (graph, captured) = device.capture(|| run(&reals)).unwrap();
            graph.replay().unwrap();
            for ((first, again), captured) in first.iter().zip(&again).zip(&captured) {
                assert_same_bits(first, again, "repeated");
                assert_same_bits(first, captured, "captured");
            }
        }
    }
}
