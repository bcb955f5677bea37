//! Products that were timed on a GPU: still right, the same on every call and in every graph. And what timing stands on.

use crate::common::{Rng, Tolerance, all_devices, assert_close, assert_same_bits, kernel_devices};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::Tape,
    ops::{self, Conv2dSpec},
};

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
        let device = &device.with(|options| options.autotune = true);
        for dtype in [DType::Bf16, DType::F32] {
            let integers = |device: &Device| {
                let mut rng = Rng(5);
                operands(dtype, device, |shape, dtype, device| rng.integers(shape, dtype, device))
            };
            let (got, want) = (run(&integers(device)).unwrap(), run(&integers(&Device::cpu())).unwrap());
            for (got, want) in got.iter().zip(&want) {
                assert_close(got, want, Tolerance::EXACT, &format!("{dtype}"));
            }
            let mut rng = Rng(6);
            let reals = operands(dtype, device, |shape, dtype, device| rng.reals(shape, dtype, device));
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

/// What benches do: several backward passes in one graph, after their forward passes outside, all results but the last dropped.
#[test]
fn backward_passes_alone_are_captured() {
    for device in all_devices().into_iter().filter(|device| !device.is_cpu()) {
        let mut rng = Rng(7);
        let [x, w, dy] = [[1, 5, 6, 8], [8, 3, 3, 8], [1, 5, 6, 8]].map(|shape| rng.reals(&shape, DType::F32, &device));
        let prepare = || {
            let tape = Tape::new(&device);
            let vars = [&x, &w].map(|tensor| tape.variable(tensor.clone()));
            let y = ops::conv2d(&vars[0], &vars[1], None, &SPEC).unwrap();
            move |dy: &Tensor| -> Result<[Tensor; 2]> {
                let gradients = tape.backward_with(&y, dy.clone())?;
                Ok(vars.each_ref().map(|var| gradients.get(var).cloned().expect("a variable has a gradient")))
            }
        };
        let want = prepare()(&dy).unwrap();
        let ready = [(); 3].map(|()| prepare());
        let all = || ready.into_iter().map(|backward| backward(&dy)).reduce(|_, last| last).expect("there are three");
        let (graph, got) = device.capture(all).unwrap();
        for replay in ["first", "second"] {
            graph.replay().unwrap();
            for (got, want) in got.iter().zip(&want) {
                assert_same_bits(got, want, &format!("{device}, {replay} replay"));
            }
        }
    }
}

#[test]
fn times_of_calls_are_those_between_their_events() {
    for device in kernel_devices() {
        let Some(cuda) = device.as_cuda() else { continue };
        let [small, large] = [1 << 20, 1 << 28].map(|bytes| Tensor::zeros(&[bytes], DType::U8, &device).unwrap());
        // Memory for both lies ready then.
        [&small, &large].iter().for_each(|tensor| drop(tensor.duplicate().unwrap()));
        let attempt = || {
            let mut calls = 0;
            let times = cuda.time_each(
                || large.duplicate().map(drop),
                4,
                || {
                    calls += 1;
                    // The third takes longest.
                    if calls == 3 { large.duplicate().map(drop) } else { small.duplicate().map(drop) }
                },
            );
            let times = times.unwrap();
            assert_eq!((times.len(), calls), (4, 4));
            assert!(times.iter().all(|&time| time >= 0.0), "{times:?}");
            times.iter().all(|&time| time <= times[2])
        };
        // Other tests may use the GPU between two events, but not always.
        assert!((0..20).any(|_| attempt()), "the longest call never took longest");
        assert!(cuda.time(|| large.duplicate().map(drop)).unwrap() > 0.0);
        let inside = device.capture(|| cuda.time(|| Ok(()))).map(drop).unwrap_err().to_string();
        assert!(inside.contains("time the replays"), "{inside}");
    }
}
