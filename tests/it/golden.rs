//! The operations on the CPU against PyTorch 2.13: files in tests/golden, made by tools/goldens.py.

use crate::common::golden::{Case, Golden};
use bicl::{
    DType, Device, Tensor,
    adapt::{ConfidenceSample, Selection},
    autograd::{Gradients, Tape, Var},
    ops::{self, Prototypes},
};

/// Runs `test` on every case of a file, in f32 and in f64.
fn each(file: &str, test: impl Fn(Case<'_>, DType)) {
    let golden = Golden::open(file);
    for case in golden.cases() {
        for dtype in [DType::F32, DType::F64] {
            test(golden.case(&case), dtype);
        }
    }
}

/// The gradient of `var`, zeros where none reached it.
fn gradient(gradients: &Gradients, var: &Var) -> Tensor {
    let value = var.value();
    let zeros = || Tensor::zeros(value.shape(), value.dtype(), value.device()).unwrap();
    gradients.get(var).cloned().unwrap_or_else(zeros)
}

fn tape() -> Tape {
    Tape::new(&Device::cpu())
}

#[test]
fn conv2d() {
    each("conv2d", |case, dtype| {
        let tape = tape();
        let [x, w, b] = ["x", "w", "b"].map(|name| tape.variable(case.real(name, dtype)));
        let spec: Vec<usize> = case.numbers("spec").iter().map(|&v| v as usize).collect();
        let spec =
            ops::Conv2dSpec { stride: [spec[0], spec[1]], padding: [spec[2], spec[3]], dilation: [spec[4], spec[5]] };
        let y = ops::conv2d(&x, &w, Some(&b), &spec).unwrap();
        case.expect("y", y.value());
        let gradients = tape.backward_with(&y, case.real("seed", dtype)).unwrap();
        for (name, var) in [("dx", &x), ("dw", &w), ("db", &b)] {
            case.expect(name, &gradient(&gradients, var));
        }
    });
}

#[test]
fn sgd() {
    each("sgd", |case, dtype| {
        let mut value = case.real("before", dtype);
        let mut momentum = Tensor::zeros(value.shape(), dtype, &Device::cpu()).unwrap();
        let [learning_rate, weight_decay] = case.numbers("rate").try_into().unwrap();
        for step in 0..4 {
            let gradient = &case.real(&format!("gradient{step}"), dtype);
            let (value, momentum) = (&mut value, &mut momentum);
            let item = ops::SgdItem { value, momentum, gradient, copy: None, multiplier: 1.0, weight_decay };
            let rate = &Tensor::from_vec(vec![learning_rate], &[1], &Device::cpu()).unwrap();
            ops::sgd_step(&mut [item], &ops::SgdSpec { momentum: 0.9, rate, found_inf: None }).unwrap();
            case.expect(&format!("after{step}"), value);
            case.expect(&format!("momentum{step}"), momentum);
        }
    });
}

#[test]
fn batch_norm() {
    each("batch_norm", |case, dtype| {
        let tape = tape();
        let [x, scale, shift] = ["x", "scale", "shift"].map(|name| tape.variable(case.real(name, dtype)));
        let [mean, variance] = ["mean", "variance"].map(|name| case.real(name, dtype));
        let residual = case.has("residual").then(|| tape.variable(case.real("residual", dtype)));
        let mode = match case.has("new_mean") {
            true => ops::BatchNormMode::Batch { epsilon: 1e-5, groups: 1 },
            false => ops::BatchNormMode::Running { mean: &mean, variance: &variance, epsilon: 1e-5 },
        };
        let spec = ops::BatchNormSpec {
            mode,
            residual: residual.as_ref(),
            relu: case.name().ends_with("relu"),
            moments: None,
        };
        let output = ops::batch_norm_with(&x, &scale, &shift, &spec).unwrap();
        case.expect("y", output.y.value());
        if case.has("new_mean") {
            let (mut mean, mut variance) = (mean.clone(), variance.clone());
            for (average, x) in [(&mut mean, &output.mean), (&mut variance, &output.variance)] {
                ops::move_running_averages(&mut [ops::AverageItem { average, x, row: 0 }], 0.1, None).unwrap();
            }
            case.expect("new_mean", &mean);
            case.expect("new_variance", &variance);
        }
        let gradients = tape.backward_with(&output.y, case.real("seed", dtype)).unwrap();
        let with_residual = residual.iter().map(|residual| ("dresidual", residual));
        for (name, var) in [("dx", &x), ("dscale", &scale), ("dshift", &shift)].into_iter().chain(with_residual) {
            case.expect(name, &gradient(&gradients, var));
        }
    });
}

/// Given prototypes, of which those with a `present` of 1 exist.
fn prototypes(case: Case<'_>, vectors: &Var) -> Prototypes {
    Prototypes { vectors: vectors.clone(), counts: case.counts("present") }
}

#[test]
fn masked_average_pool() {
    each("masked_average_pool", |case, dtype| {
        let tape = tape();
        let features = tape.variable(case.real("features", dtype));
        let classes = case.shape("counts")[1];
        let pooled = ops::masked_average_pool(&features, &case.bytes("labels"), classes).unwrap();
        case.expect("vectors", pooled.vectors.value());
        case.expect("counts", &pooled.counts);
        let gradients = tape.backward_with(&pooled.vectors, case.real("seed", dtype)).unwrap();
        case.expect("dfeatures", &gradient(&gradients, &features));
    });
}

#[test]
fn pixel_prototype_similarity() {
    each("pixel_prototype_similarity", |case, dtype| {
        let tape = tape();
        let [features, vectors] = ["features", "vectors"].map(|name| tape.variable(case.real(name, dtype)));
        let s = ops::pixel_prototype_similarity(&features, &prototypes(case, &vectors)).unwrap();
        case.expect("similarity", s.value());
        let gradients = tape.backward_with(&s, case.real("seed", dtype)).unwrap();
        case.expect("dfeatures", &gradient(&gradients, &features));
        case.expect("dvectors", &gradient(&gradients, &vectors));
    });
}

#[test]
fn contrastive_loss() {
    each("contrastive_loss", |case, dtype| {
        let tape = tape();
        let [features, vectors] = ["features", "vectors"].map(|name| tape.variable(case.real(name, dtype)));
        let (labels, overlap) = (case.bytes("labels"), case.bytes("overlap"));
        let loss = ops::contrastive_loss(&features, &labels, &prototypes(case, &vectors), &overlap, 0.1).unwrap();
        case.expect("loss", loss.value());
        let gradients = tape.backward(&loss).unwrap();
        case.expect("dfeatures", &gradient(&gradients, &features));
        case.expect("dvectors", &gradient(&gradients, &vectors));
    });
}

/// Both directions together: labels to the features' size, prototypes, overlap, terms, and gradients that reach the
/// features as pixels and through the prototypes.
#[test]
fn both_directions() {
    each("bidirectional", |case, dtype| {
        let tape = tape();
        let classes = case.shape("overlap")[1];
        let sides = ["source", "target"].map(|side| {
            let features = tape.variable(case.real(side, dtype));
            let labels = case.bytes(&format!("{side}_labels"));
            let [_, h, w, _] = features.value().dims("test").unwrap();
            let low = ops::resize_labels_nearest(&labels, h, w).unwrap();
            case.expect(&format!("{side}_low"), &low);
            let prototypes = ops::masked_average_pool(&features, &low, classes).unwrap();
            (features, labels, prototypes)
        });
        let [(fs, ys, rho_s), (ft, yt, rho_t)] = &sides;
        let overlap = ops::class_overlap(&rho_s.counts, &rho_t.counts).unwrap();
        case.expect("overlap", &overlap);
        let forward = ops::contrastive_loss(ft, yt, rho_s, &overlap, 0.1).unwrap();
        let backward = ops::contrastive_loss(fs, ys, rho_t, &overlap, 0.1).unwrap();
        let total = ops::weighted_sum(&[(&forward, 0.1), (&backward, 0.2)]).unwrap();
        for (name, var) in [("forward", &forward), ("backward", &backward), ("total", &total)] {
            case.expect(name, var.value());
        }
        let gradients = tape.backward(&total).unwrap();
        case.expect("dsource", &gradient(&gradients, fs));
        case.expect("dtarget", &gradient(&gradients, ft));
    });
}

#[test]
fn transfer_labels() {
    each("transfer_labels", |case, dtype| {
        let [features, vectors] = ["features", "vectors"].map(|name| case.real(name, dtype));
        let labels = ops::transfer_labels(&features, &vectors, &case.bytes("present"), 0.1, 0.8).unwrap();
        case.expect("labels", &labels);
    });
}

#[test]
fn calibration() {
    for dtype in [DType::F32, DType::F64] {
        let golden = Golden::open("calibration");
        let case = golden.case("in");
        let mut bias = case.real("bias", dtype);
        let [counts_s, counts_t] = ["present_source", "present_target"].map(|name| case.counts(name));
        for step in ["step0", "step1", "step2"] {
            let case = golden.case(step);
            let [source, target] = ["source", "target"].map(|name| case.real(name, dtype));
            ops::update_calibration(&mut bias, &source, &counts_s, &target, &counts_t, 0.99).unwrap();
            case.expect("bias", &bias);
        }
    }
}

#[test]
fn max_pool2d() {
    each("max_pool2d", |case, dtype| {
        let tape = tape();
        let x = tape.variable(case.real("x", dtype));
        let [kernel, stride, padding] = [0, 1, 2].map(|i| [case.numbers("spec")[i] as usize; 2]);
        let spec = ops::MaxPool2dSpec { kernel, stride, padding, ceil_mode: true };
        let y = ops::max_pool2d(&x, &spec).unwrap();
        case.expect("y", y.value());
        let gradients = tape.backward_with(&y, case.real("seed", dtype)).unwrap();
        case.expect("dx", &gradient(&gradients, &x));
    });
}

#[test]
fn upsample_bilinear() {
    each("upsample_bilinear", |case, dtype| {
        let tape = tape();
        let x = tape.variable(case.real("x", dtype));
        let y = ops::upsample_bilinear(&x, case.shape("y")[1], case.shape("y")[2]).unwrap();
        case.expect("y", y.value());
        let gradients = tape.backward_with(&y, case.real("seed", dtype)).unwrap();
        case.expect("dx", &gradient(&gradients, &x));
    });
}

#[test]
fn cross_entropy() {
    each("cross_entropy", |case, dtype| {
        let tape = tape();
        let x = tape.variable(case.real("x", dtype));
        let loss = ops::cross_entropy(&x, &case.bytes("labels")).unwrap();
        case.expect("loss", loss.value());
        case.expect("dx", &gradient(&tape.backward(&loss).unwrap(), &x));
    });
}

#[test]
fn entropy() {
    each("entropy", |case, dtype| {
        let tape = tape();
        let x = tape.variable(case.real("x", dtype));
        let loss = ops::entropy(&x).unwrap();
        case.expect("loss", loss.value());
        case.expect("dx", &gradient(&tape.backward(&loss).unwrap(), &x));
    });
}

#[test]
fn segmentation_loss() {
    each("segmentation_loss", |case, dtype| {
        for (name, cross_entropy, entropy) in [("cross_entropy", 1.0, 0.0), ("entropy", 0.0, 1.0)] {
            let tape = tape();
            let x = tape.variable(case.real("x", dtype));
            let weights = ops::SegmentationWeights { cross_entropy, entropy };
            let loss = ops::segmentation_loss(&x, &case.bytes("labels"), weights).unwrap();
            case.expect(name, loss.total.value());
            case.expect("cross_entropy", &loss.cross_entropy);
            case.expect("entropy", &loss.entropy);
            let gradients = tape.backward(&loss.total).unwrap();
            case.expect(&format!("dx_{name}"), &gradient(&gradients, &x));
        }
    });
}

/// Class-balanced thresholds of two images, and which of their pixels keep a label.
#[test]
fn static_labels() {
    let golden = Golden::open("static_labels");
    let all = golden.case("all");
    let thresholds = all.numbers("thresholds");
    let mut sample = ConfidenceSample::new(thresholds.len());
    let images = ["image0", "image1"].map(|name| golden.case(name));
    let own = images.map(|image| {
        let confidence = image.real("confidence", DType::F32).to_vec::<f32>().unwrap();
        let own = sample.add_image(&image.bytes("predicted").to_vec::<u8>().unwrap(), &confidence, 0.1).unwrap();
        assert_eq!(f64::from(own), image.numbers("own")[0], "the image's own value");
        own
    });
    let excluded = all.bytes("excluded").to_vec::<u8>().unwrap();
    let got = sample.thresholds(0.1, &excluded);
    assert_eq!(got.iter().map(|&t| f64::from(t)).collect::<Vec<_>>(), thresholds);
    for (image, image_value) in images.into_iter().zip(own) {
        let confidence = image.real("confidence", DType::F32).to_vec::<f32>().unwrap();
        let mut labels = image.bytes("predicted").to_vec::<u8>().unwrap();
        let pixels = image.numbers("probability").chunks_exact(thresholds.len());
        let reaches: Vec<u8> = pixels.map(|p| u8::from(p.iter().zip(thresholds).any(|(p, t)| p >= t))).collect();
        let kept = Selection { image_value }.apply(&mut labels, &confidence, &reaches);
        assert_eq!(labels, image.bytes("labels").to_vec::<u8>().unwrap());
        assert_eq!(kept, labels.iter().filter(|&&label| label != 255).count());
    }
}
