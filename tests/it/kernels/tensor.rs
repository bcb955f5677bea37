//! Tensors: construction, sharing, conversion, moving between devices.

use crate::common::{Rng, all_devices, assert_same_bits, kernel_devices, wide};
use bicl::{DType, Device, Tensor};
use half::bf16;
use proptest::prelude::*;

fn of(data: &[f32], shape: &[usize], device: &Device) -> Tensor {
    Tensor::from_slice(data, shape, device).unwrap()
}

fn text<T>(result: bicl::Result<T>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn shapes_must_be_filled() {
    for device in all_devices() {
        let error = text(Tensor::from_vec(vec![1.0f32; 5], &[2, 3], &device));
        assert_eq!(error, "tensor: 5 elements do not fill the shape [2, 3]");
        assert!(Tensor::from_vec(vec![1.0f32], &[], &device).is_ok(), "a scalar has one element");
        assert!(text(Tensor::from_vec(Vec::<f32>::new(), &[], &device)).contains("0 elements"));
        let empty = Tensor::from_vec(Vec::<f32>::new(), &[3, 0, 2], &device).unwrap();
        assert!(empty.is_empty() && empty.to_vec::<f32>().unwrap().is_empty());
    }
}

#[test]
fn shapes_beyond_memory_are_refused() {
    let device = Device::cpu();
    for shape in [&[usize::MAX, 2][..], &[1 << 40, 1 << 40], &[usize::MAX], &[1 << 62]] {
        let error = text(Tensor::empty(shape, DType::F32, &device));
        assert!(error.contains("does not fit memory"), "{error}");
        assert!(text(Tensor::zeros(shape, DType::F64, &device)).contains("does not fit memory"));
    }
    // A product that wraps around to what the data or the tensor holds is still refused.
    let wrapped = [1usize << 32, 1 << 32];
    assert!(text(Tensor::from_vec(Vec::<f32>::new(), &wrapped, &device)).starts_with("tensor: "));
    assert!(text(of(&[], &[0], &device).reshape(&wrapped)).starts_with("reshape: "));
    assert!(text(Tensor::full(&wrapped, 1.0, DType::F32, &device)).starts_with("tensor: "));
}

#[test]
fn writing_leaves_copies_alone() {
    for device in all_devices() {
        let mut a = of(&[1.0, 2.0], &[2], &device);
        let copy = a.clone();
        a.accumulate(&copy).unwrap();
        assert_eq!((wide(&a), wide(&copy)), (vec![2.0, 4.0], vec![1.0, 2.0]));
        // Also through another shape, and against itself.
        let mut b = a.reshape(&[2, 1]).unwrap();
        let other = b.clone();
        b.accumulate(&other).unwrap();
        assert_eq!((wide(&b), wide(&a)), (vec![4.0, 8.0], vec![2.0, 4.0]));
        let own = a.duplicate().unwrap();
        assert_same_bits(&own, &a, "duplicate");
    }
    let mut a = of(&[1.0, 2.0], &[2], &Device::cpu());
    let copy = a.clone();
    a.as_mut_slice::<f32>().unwrap()[0] = 7.0;
    assert_eq!((wide(&a), wide(&copy)), (vec![7.0, 2.0], vec![1.0, 2.0]));
}

/// To nearest even, and the same bits on every device.
#[test]
fn bf16_rounds_to_nearest_even() {
    let f = f32::from_bits;
    let cases = [
        (1.0, 0x3F80),
        (f(0x3F80_8000), 0x3F80), // a tie, to even: down
        (f(0x3F80_8001), 0x3F81), // just above the tie
        (f(0x3F81_8000), 0x3F82), // a tie, to even: up
        (f(0x3F80_7FFF), 0x3F80), // just below
        (f(0xBF81_8000), 0xBF82),
        (f(0x7F7F_FFFF), 0x7F80), // beyond the largest: infinity
        (f32::INFINITY, 0x7F80),
        (f32::NEG_INFINITY, 0xFF80),
        (0.0, 0),
        (-0.0, 0x8000),
        (f(0x0000_8000), 0x0000), // subnormal ties
        (f(0x0001_8000), 0x0002),
    ];
    for device in kernel_devices().into_iter().chain([Device::cpu()]) {
        let x = of(&cases.map(|(x, _)| x), &[cases.len()], &device);
        let bits: Vec<u16> =
            x.to_dtype(DType::Bf16).unwrap().to_vec::<bf16>().unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, cases.map(|(_, bits)| bits), "{device}");
        let nan = of(&[f32::NAN], &[1], &device).to_dtype(DType::Bf16).unwrap();
        assert!(wide(&nan)[0].is_nan(), "{device}");
    }
}

#[test]
fn conversions_between_all_floats() {
    let floats = [DType::F32, DType::F64, DType::Bf16];
    for device in all_devices() {
        let x = of(&[0.5, -3.0, 1024.0, 0.0], &[2, 2], &device);
        for from in floats {
            for to in floats {
                let y = x.to_dtype(from).unwrap().to_dtype(to).unwrap();
                assert_eq!((y.dtype(), y.shape(), wide(&y)), (to, x.shape(), wide(&x)));
            }
        }
        let labels = Tensor::from_vec(vec![1u8], &[1], &device).unwrap();
        assert!(text(labels.to_dtype(DType::F32)).contains("u8"));
        assert!(text(x.to_dtype(DType::U8)).contains("float"));
    }
}

#[test]
fn wrong_types_are_refused() {
    let x = of(&[1.0], &[1], &Device::cpu());
    assert!(text(x.to_vec::<f64>()).contains("f64"));
    assert!(text(x.as_slice::<u8>()).contains("u8"));
    assert!(text(x.clone().as_mut_slice::<u32>()).contains("u32"));
    assert!(text(Tensor::full(&[1], 1.0, DType::U8, &Device::cpu())).contains("u8"));
}

#[test]
fn moving_keeps_every_bit() {
    let cpu = Device::cpu();
    let tensors = [
        of(&[1.5, f32::NAN, -0.0], &[3], &cpu),
        Tensor::from_vec(vec![0u8, 255, 7], &[1, 3], &cpu).unwrap(),
        Tensor::from_vec(vec![u32::MAX], &[], &cpu).unwrap(),
        Tensor::from_vec(Vec::<f64>::new(), &[0, 4], &cpu).unwrap(),
    ];
    for device in all_devices() {
        for tensor in &tensors {
            let there = tensor.to_device(&device).unwrap();
            assert_eq!((there.device(), there.shape(), there.dtype()), (&device, tensor.shape(), tensor.dtype()));
            assert_same_bits(&there.to_device(&cpu).unwrap(), tensor, "there and back");
        }
    }
    let mut a = of(&[1.0], &[1], &cpu);
    let b = of(&[1.0], &[1], &bicl_emulator::device());
    assert_eq!(text(a.accumulate(&b)), "accumulate: operands are on cpu and emulated; move one with to_device");
}

#[test]
fn reshape_and_item() {
    for device in all_devices() {
        let x = of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &device);
        assert_eq!(x.reshape(&[3, 1, 2]).unwrap().shape(), [3, 1, 2]);
        assert!(text(x.reshape(&[4])).contains("[2, 3] cannot become [4]"));
        assert!(text(x.item()).contains("[2, 3]"));
        assert_eq!(of(&[2.5], &[1, 1], &device).item().unwrap(), 2.5);
        assert_eq!(Tensor::from_vec(vec![9u8], &[], &device).unwrap().item().unwrap(), 9.0);
        assert!(text(x.dims::<3>("here")).contains("here: expected 3 dimensions"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Kernels and CPU agree on conversion and accumulation, whatever the size.
    #[test]
    fn kernels_match_the_cpu(count in 0usize..600, seed: u64) {
        let x = Rng(seed).reals(&[count], DType::F32, &Device::cpu());
        for device in all_devices() {
            for dtype in [DType::F32, DType::F64, DType::Bf16] {
                let run = |device: &Device| {
                    let mut y = x.to_device(device).unwrap().to_dtype(dtype).unwrap();
                    let other = y.clone();
                    y.accumulate(&other).unwrap();
                    y.to_dtype(DType::F32).unwrap()
                };
                assert_same_bits(&run(&device), &run(&Device::cpu()), "convert and accumulate");
            }
        }
    }
}
