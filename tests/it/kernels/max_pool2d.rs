//! Max pooling.

use crate::common::{Rng, all_devices, check_devices, check_gradients, of_dtype, value_and_gradients, wide};
use bicl::{
    DType, Device, Tensor,
    autograd::Tape,
    ops::{self, MaxPool2dSpec},
};
use proptest::prelude::*;

fn spec(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], ceil_mode: bool) -> MaxPool2dSpec {
    MaxPool2dSpec { kernel, stride, padding, ceil_mode }
}

/// The output of one row and the gradient of its sum.
fn row(data: &[f64], spec: MaxPool2dSpec, device: &Device) -> (Vec<f64>, Vec<f64>) {
    let x = of_dtype(data, &[1, 1, data.len(), 1], DType::F32, device);
    let (y, dx) = value_and_gradients(|v| ops::max_pool2d(&v[0], &spec), &[x], None);
    (wide(&y), wide(&dx[0]))
}

#[test]
fn known_values() {
    for device in all_devices() {
        known_values_on(&device);
    }
}

fn known_values_on(device: &Device) {
    let overlapping = spec([1, 3], [1, 1], [0, 1], false);
    assert_eq!(row(&[1.0, 5.0, 2.0, 3.0], overlapping, device), (vec![5.0, 5.0, 5.0, 3.0], vec![0.0, 3.0, 0.0, 1.0]));
    // Padding never wins, and of equal values the first does.
    assert_eq!(row(&[-4.0, -4.0, -7.0], overlapping, device), (vec![-4.0; 3], vec![2.0, 1.0, 0.0]));
    let nan = row(&[1.0, f64::NAN, 9.0, 2.0], spec([1, 2], [1, 2], [0, 0], false), device);
    assert!(nan.0[0].is_nan() && nan.0[1] == 9.0);
    assert_eq!(nan.1, [0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn ceil_mode_follows_pytorch() {
    // (input, kernel, stride, padding) and PyTorch 2.13's output extents without and with ceil_mode.
    let cases = [
        (5, 2, 2, 0, 2, 3),
        (6, 3, 2, 1, 3, 4),
        (365, 3, 2, 1, 183, 183),
        (364, 3, 2, 1, 182, 183),
        (3, 2, 3, 1, 2, 2),
        (4, 2, 3, 1, 2, 2),
        (2, 2, 5, 1, 1, 1),
        (1, 1, 4, 0, 1, 1),
        (7, 3, 3, 0, 2, 3),
    ];
    let device = Device::cpu();
    for (input, kernel, stride, padding, floor, ceil) in cases {
        for (ceil_mode, want) in [(false, floor), (true, ceil)] {
            let x = Tape::new(&device).constant(Tensor::zeros(&[1, input, 2, 1], DType::F32, &device).unwrap());
            let y = ops::max_pool2d(&x, &spec([kernel, 1], [stride, 1], [padding, 0], ceil_mode)).unwrap();
            assert_eq!(y.value().shape(), [1, want, 2, 1], "{input} {kernel} {stride} {padding} {ceil_mode}");
        }
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(6);
    let specs = [
        spec([3, 3], [2, 2], [1, 1], true),
        spec([3, 2], [1, 2], [1, 0], false),
        spec([2, 5], [3, 1], [0, 2], true),
        spec([1, 1], [2, 2], [0, 0], false),
    ];
    for spec in specs {
        let x = rng.reals(&[2, 7, 6, 3], DType::F64, &Device::cpu());
        check_gradients(|v| ops::max_pool2d(&v[0], &spec), &[x], &mut rng, 300);
    }
}

#[test]
fn kernels_match_the_cpu() {
    let specs = [
        spec([3, 3], [2, 2], [1, 1], true),
        spec([3, 2], [1, 2], [1, 0], false),
        spec([2, 5], [3, 1], [0, 2], true),
        spec([16, 16], [1, 3], [8, 8], false),
        spec([1, 1], [2, 2], [0, 0], false),
    ];
    for spec in specs {
        // Integers have ties, which must go to the same pixel. Channels that make up no 16 bytes, those of two f64, of four f32
        // and of eight bf16.
        for channels in [5, 6, 12, 16] {
            check_devices(
                |v| ops::max_pool2d(&v[0], &spec),
                &[&[2, 9, 8, channels]],
                &[DType::F32, DType::F64, DType::Bf16],
                true,
            );
        }
    }
}

#[test]
fn bad_windows_are_refused() {
    let device = Device::cpu();
    let x = Tape::new(&device).constant(Tensor::zeros(&[1, 4, 4, 1], DType::F32, &device).unwrap());
    let bad = [
        spec([0, 1], [1, 1], [0, 0], false),
        spec([2, 2], [0, 1], [0, 0], false),
        spec([2, 2], [1, 1], [2, 0], false),
        spec([5, 1], [1, 1], [0, 0], false),
        spec([17, 17], [1, 1], [8, 8], false),
        spec([usize::MAX, 2], [1, 1], [0, 0], true),
    ];
    for spec in bad {
        assert!(ops::max_pool2d(&x, &spec).is_err(), "{spec:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against the definition, window by window.
    #[test]
    fn equals_the_definition(
        h in 1usize..12, w in 1usize..12, c in 1usize..4, k in 1usize..5, s in 1usize..5, pad in 0usize..3, ceil: bool, seed: u64,
    ) {
        let padding = pad.min(k / 2);
        let spec = spec([k, k], [s, s], [padding, padding], ceil);
        let x = Rng(seed).integers(&[1, h, w, c], DType::F32, &Device::cpu());
        let tape = Tape::new(&Device::cpu());
        let Ok(y) = ops::max_pool2d(&tape.constant(x.clone()), &spec) else {
            prop_assert!(h + 2 * padding < k || w + 2 * padding < k);
            return Ok(());
        };
        let (x, shape) = (wide(&x), y.value().shape().to_vec());
        let mut seeds = vec![0.0; x.len()];
        let mut want = Vec::new();
        for (p, q, channel) in (0..shape[1]).flat_map(|p| (0..shape[2]).flat_map(move |q| (0..c).map(move |k| (p, q, k)))) {
            let inside = |at: usize, extent: usize| (at >= padding && at < extent + padding).then(|| at - padding);
            let places = (0..k * k).filter_map(|i| Some((inside(p * s + i / k, h)?, inside(q * s + i % k, w)?)));
            let index = |(i, j): (usize, usize)| (i * w + j) * c + channel;
            let best = places.map(index).reduce(|a, b| if x[b] > x[a] { b } else { a }).expect("a window is never empty");
            seeds[best] += 1.0;
            want.push(x[best]);
        }
        let input = of_dtype(&x, &[1, h, w, c], DType::F32, &Device::cpu());
        let (got, dx) = value_and_gradients(|v| ops::max_pool2d(&v[0], &spec), &[input], None);
        prop_assert_eq!(wide(&got), want);
        prop_assert_eq!(wide(&dx[0]), seeds);
    }
}
