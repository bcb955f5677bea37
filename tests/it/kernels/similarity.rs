//! Pixel-prototype similarity.

use crate::common::golden::Golden;
use crate::common::{
    self, Rng, all_devices, bytes_of, check_devices_at, check_gradients, kernel_devices, of_dtype, value_and_gradients,
    wide,
};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, Prototypes},
};

/// Similarity of v[0] with the prototypes v[1], of which every third is absent.
fn similarity(v: &[Var]) -> Result<Var> {
    let device = v[0].value().device();
    let [pairs, classes, _] = v[1].value().dims("test")?;
    let counts = (0..pairs * classes).map(|i| u32::from(i % 3 != 2)).collect();
    let counts = Tensor::from_vec(counts, &[pairs, classes], device)?;
    ops::pixel_prototype_similarity(&v[0], &Prototypes { vectors: v[1].clone(), counts })
}

fn inputs(rng: &mut Rng, [n, h, w, d]: [usize; 4], classes: usize, dtype: DType) -> [Tensor; 2] {
    let device = Device::cpu();
    [rng.reals(&[n, h, w, d], dtype, &device), rng.reals(&[n, classes, d], dtype.accumulator(), &device)]
}

#[test]
fn known_values() {
    for device in all_devices() {
        for dtype in [DType::F32, DType::F64] {
            let features = of_dtype(&[3.0, 4.0, 0.0, 0.0, -2e18, 0.0], &[1, 1, 3, 2], dtype, &device);
            let vectors = of_dtype(&[5.0, 0.0, 0.0, 0.0, 1.0, 1.0], &[1, 3, 2], dtype, &device);
            let (s, gradients) = value_and_gradients(similarity, &[features, vectors], None);
            // Class 1 is a present zero vector, class 2 absent; pixel 1 is zero.
            let want = [0.6, 0.0, -1.0, 0.0, 0.0, -1.0, -1.0, 0.0, -1.0];
            wide(&s).iter().zip(want).for_each(|(got, want)| assert!((got - want).abs() < 1e-6, "{got}, not {want}"));
            let [df, drho] = [0, 1].map(|i| wide(&gradients[i]));
            assert_eq!(df[2..4], [0.0, 0.0], "a vector without direction has no gradient");
            assert_eq!(drho[2..], [0.0; 4], "neither have zero and absent prototypes");
            // d(f.e0/|f|)/df = (1 - 0.36, -0.48) / 5.
            assert!((df[0] - 0.128).abs() < 1e-6 && (df[1] + 0.096).abs() < 1e-6, "{df:?} on {device}");
        }
    }
}

#[test]
fn norms_that_overflow() {
    for device in all_devices() {
        let features = of_dtype(&[3e30, 4e30, 1e-30, 0.0], &[1, 1, 2, 2], DType::F32, &device);
        let vectors = of_dtype(&[2e37, 0.0], &[1, 1, 2], DType::F32, &device);
        let (s, gradients) = value_and_gradients(similarity, &[features, vectors], None);
        let s = wide(&s);
        // The second norm lies below the clamp: 1e-30 / 1e-12.
        assert!((s[0] - 0.6).abs() < 1e-6 && (s[1] - 1e-18).abs() < 1e-22, "{s:?} on {device}");
        assert!(gradients.iter().all(|gradient| wide(gradient).iter().all(|g| g.is_finite())));
    }
}

#[test]
fn gradients_match_differences() {
    let mut rng = Rng(1);
    for (shape, classes) in [([2, 3, 4, 5], 4), ([1, 2, 2, 33], 7), ([1, 1, 1, 2], 1)] {
        let inputs = inputs(&mut rng, shape, classes, DType::F64);
        check_gradients(similarity, &inputs, &mut rng, 300);
    }
}

/// One dimension has no direction to turn to: the gradients are nothing but the rounding of each device.
#[test]
fn one_dimension_has_a_sign_alone() {
    let mut rng = Rng(2);
    for (dtype, epsilon) in [(DType::F32, 1.2e-7), (DType::F64, 2.3e-16), (DType::Bf16, 1.2e-7)] {
        let inputs = inputs(&mut rng, [1, 1, 1, 1], 1, dtype);
        let [f, rho] = [0, 1].map(|i: usize| wide(&inputs[i])[0]);
        for device in kernel_devices().into_iter().chain([Device::cpu()]) {
            let moved: Vec<Tensor> = inputs.iter().map(|input| input.to_device(&device).unwrap()).collect();
            let (s, gradients) = value_and_gradients(similarity, &moved, None);
            assert!((wide(&s)[0] - (f * rho).signum()).abs() <= 1e-2, "{dtype} on {device}: {:?}", wide(&s));
            for (gradient, length) in gradients.iter().zip([f, rho]) {
                let (gradient, bound) = (wide(gradient)[0], 8.0 * epsilon / length.abs());
                assert!(gradient.abs() <= bound, "{dtype} on {device}: {gradient:e}, bound {bound:e}");
            }
        }
    }
}

#[test]
fn kernels_match_the_cpu() {
    let mut rng = Rng(2);
    for (shape, classes) in [([2, 9, 17, 70], 40), ([1, 17, 16, 33], 5), ([1, 2, 2, 150], 19)] {
        for dtype in [DType::F32, DType::F64, DType::Bf16] {
            check_devices_at(similarity, &inputs(&mut rng, shape, classes, dtype));
        }
    }
}

#[test]
fn every_barrier_is_needed() {
    if common::gpu_alone() {
        return;
    }
    let mut rng = Rng(3);
    let inputs = inputs(&mut rng, [1, 9, 9, 40], 36, DType::F32);
    let run = |device: &Device| {
        let tape = Tape::new(device);
        let vars = inputs.each_ref().map(|input| tape.variable(input.to_device(device).unwrap()));
        let s = similarity(&vars)?;
        let seed = Tensor::full(s.value().shape(), 1.0, DType::F32, device)?;
        let gradients = tape.backward_with(&s, seed)?;
        let [a, b] = [0, 1].map(|i| gradients.get(&vars[i]).cloned().unwrap());
        Ok(bytes_of(&[s.value().clone(), a, b]))
    };
    bicl_emulator::check_barriers("kernels/include/tile_product.cuh", run).unwrap();
}

#[test]
fn pytorch_agrees() {
    let golden = Golden::open("pixel_prototype_similarity");
    for name in golden.cases() {
        let case = golden.case(&name);
        for (device, dtype) in all_devices().into_iter().flat_map(|d| [(d.clone(), DType::F64), (d, DType::F32)]) {
            let tape = Tape::new(&device);
            let real = |name: &str| case.real(name, dtype).to_device(&device).unwrap();
            let (features, vectors) = (tape.variable(real("features")), tape.variable(real("vectors")));
            let counts = case.counts("present").to_device(&device).unwrap();
            let s = ops::pixel_prototype_similarity(&features, &Prototypes { vectors: vectors.clone(), counts });
            let s = s.unwrap();
            case.expect("similarity", s.value());
            let gradients = tape.backward_with(&s, real("seed")).unwrap();
            case.expect("dfeatures", gradients.get(&features).unwrap());
            case.expect("dvectors", gradients.get(&vectors).unwrap());
        }
    }
}
