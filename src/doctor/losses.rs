//! The losses and what they are made of, against the CPU.

use super::{
    check::{Check, Outcome, Trouble},
    compare::{Bound, Inputs, expect, expect_cpu, of_floats, wide},
};
use crate::{
    DType, Device, Result, Tensor,
    autograd::Var,
    ops::{self, ContrastSpec, DomainPair, LabelSampling, PrototypeScope, Prototypes, SegmentationWeights},
};

const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];
/// N, h, w, d of the features, rows and columns of the labels, classes.
const PAIRS: usize = 2;
const FEATURES: [usize; 4] = [PAIRS, 8, 9, 76];
const LABELS: [usize; 3] = [PAIRS, 31, 41];
const CLASSES: usize = 19;

pub(super) fn checks() -> Vec<Check> {
    let check = |name, run: fn(&Device) -> Outcome| Check::new("losses", name, super::REPORT, run);
    vec![
        check("cross entropy", cross_entropy),
        check("entropy", entropy),
        check("segmentation loss", segmentation),
        check("prototypes", prototypes),
        check("similarity", similarity),
        check("label transfer", label_transfer),
        check("contrastive loss", contrastive),
        check("bidirectional contrast", bidirectional),
        check("calibration", calibration),
    ]
}

/// At reals of this shape, in f32 and bf16.
fn expect_reals(
    what: &str,
    device: &Device,
    shape: &[usize],
    op: impl Fn(&[Var]) -> Result<Var>,
) -> Result<(), Trouble> {
    for dtype in FLOATS {
        expect_cpu(what, device, &op, &[Inputs::new(21).reals(shape, dtype)?], None, None)?;
    }
    Ok(())
}

fn cross_entropy(device: &Device) -> Outcome {
    let labels = Inputs::new(22).labels(&LABELS, CLASSES, 4)?;
    let [n, h, w] = LABELS;
    let loss = |v: &[Var]| ops::cross_entropy(&v[0], &labels.to_device(v[0].value().device())?);
    expect_reals("cross entropy", device, &[n, h, w, CLASSES], loss)?;
    Ok("value and gradient".into())
}

fn entropy(device: &Device) -> Outcome {
    expect_reals("entropy", device, &[2, 13, 11, CLASSES], |v| ops::entropy(&v[0]))?;
    Ok("value and gradient".into())
}

fn segmentation(device: &Device) -> Outcome {
    let weights = SegmentationWeights { cross_entropy: 0.7, entropy: 0.4 };
    // Many classes have a kernel of their own.
    for classes in [CLASSES, 60] {
        let labels = Inputs::new(23).labels(&LABELS, classes, 4)?;
        let loss = |v: &[Var]| {
            let labels = labels.to_device(v[0].value().device())?;
            Ok(ops::segmentation_loss(&v[0], &labels, weights)?.total)
        };
        expect_reals(&format!("{classes} classes"), device, &[PAIRS, 5, 6, classes], loss)?;
    }
    Ok("upsampling, cross entropy and entropy in one, value and gradient".into())
}

/// Labels of the features' own size.
fn small_labels(seed: u64) -> Result<Tensor> {
    Inputs::new(seed).labels(&FEATURES[..3], CLASSES, 4)
}

fn prototypes(device: &Device) -> Outcome {
    let labels = small_labels(24)?;
    for scope in [PrototypeScope::Pair, PrototypeScope::Batch] {
        let pool = |v: &[Var]| {
            let labels = labels.to_device(v[0].value().device())?;
            Ok(ops::masked_average_pool_scoped(&v[0], &labels, CLASSES, scope)?.vectors)
        };
        expect_reals("prototypes", device, &FEATURES, pool)?;
    }
    let pooled = |device: &Device| -> Result<[Tensor; 2]> {
        let tape = crate::autograd::Tape::new(device);
        let features = tape.constant(Inputs::new(25).reals(&FEATURES, DType::F32)?.to_device(device)?);
        let prototypes = ops::masked_average_pool(&features, &labels.to_device(device)?, CLASSES)?;
        Ok([prototypes.present()?, prototypes.counts])
    };
    for (got, want) in pooled(device)?.iter().zip(&pooled(&Device::cpu())?) {
        expect("counts", got, want, Bound::Exact)?;
    }
    Ok("of each pair and of the batch, value and gradient".into())
}

fn similarity(device: &Device) -> Outcome {
    for dtype in FLOATS {
        let mut draw = Inputs::new(26);
        let vectors = draw.reals(&[PAIRS, CLASSES, FEATURES[3]], DType::F32)?;
        let inputs = [draw.reals(&FEATURES, dtype)?, vectors];
        // Every third class is absent.
        let op = |v: &[Var]| {
            let counts = (0..PAIRS * CLASSES).map(|i| u32::from(i % 3 != 2)).collect();
            let counts = Tensor::from_vec(counts, &[PAIRS, CLASSES], v[0].value().device())?;
            ops::pixel_prototype_similarity(&v[0], &Prototypes { vectors: v[1].clone(), counts })
        };
        expect_cpu("similarity", device, op, &inputs, None, None)?;
    }
    Ok("value and gradients".into())
}

/// Features around one direction a class, so that no label hangs on rounding; two classes are absent.
fn label_transfer(device: &Device) -> Outcome {
    let [n, h, w, d] = FEATURES;
    let mut draw = Inputs::new(27);
    let vectors = draw.reals(&[PAIRS, CLASSES, d], DType::F32)?;
    let values = wide(&vectors)?;
    let class = |pixel: usize| (pixel * 7 + pixel / w) % CLASSES;
    let near = (0..n * h * w * d).map(|i| {
        let (pixel, channel) = (i / d, i % d);
        let own = values[(pixel / (h * w) * CLASSES + class(pixel)) * d + channel];
        (own + 0.1 * draw.symmetric()) as f32
    });
    let features = of_floats(near, &FEATURES, DType::F32)?;
    let present: Vec<u8> = (0..n * CLASSES).map(|i| u8::from(i % CLASSES > 1)).collect();
    let present = Tensor::from_vec(present, &[n, CLASSES], &Device::cpu())?;
    for dtype in FLOATS {
        let [features, vectors, present] =
            [&features.to_dtype(dtype)?, &vectors, &present].map(|tensor| tensor.to_device(device));
        let labels = ops::transfer_labels(&features?, &vectors?, &present?, 0.1, 0.5)?;
        let want = (0..n * h * w).map(|pixel| if class(pixel) > 1 { class(pixel) as u8 } else { 255 }).collect();
        let want = Tensor::from_vec(want, &FEATURES[..3], &Device::cpu())?;
        expect("labels", &labels, &want, Bound::Exact)?;
    }
    Ok("the labels that were meant".into())
}

fn contrastive(device: &Device) -> Outcome {
    let (labels, other) = (Inputs::new(28).labels(&LABELS, CLASSES, 4)?, small_labels(29)?);
    let op = |v: &[Var]| {
        let device = v[0].value().device();
        let [labels, other] = [labels.to_device(device)?, other.to_device(device)?];
        let own = ops::resize_labels_nearest(&labels, FEATURES[1], FEATURES[2])?;
        let own = ops::masked_average_pool(&v[0].detach(), &own, CLASSES)?;
        let prototypes = ops::masked_average_pool(&v[1], &other, CLASSES)?;
        let overlap = ops::class_overlap(&own.counts, &prototypes.counts)?;
        ops::contrastive_loss(&v[0], &labels, &prototypes, &overlap, 0.1)
    };
    for dtype in FLOATS {
        let mut draw = Inputs::new(30);
        let inputs = [draw.reals(&FEATURES, dtype)?, draw.reals(&FEATURES, dtype)?];
        expect_cpu("contrastive loss", device, op, &inputs, None, None)?;
    }
    Ok("value and gradients".into())
}

fn bidirectional(device: &Device) -> Outcome {
    let mut draw = Inputs::new(31);
    let labels = [draw.labels(&LABELS, CLASSES, 5)?, draw.labels(&LABELS, CLASSES, 2)?];
    let xi: Vec<f32> = (0..CLASSES * FEATURES[3]).map(|_| 0.1 * draw.symmetric() as f32).collect();
    let xi = of_floats(xi.into_iter(), &[CLASSES, FEATURES[3]], DType::F32)?;
    let spec = ContrastSpec {
        classes: CLASSES,
        forward_weight: 0.1,
        backward_weight: 0.2,
        temperature: 0.1,
        transfer_threshold: Some(0.3),
        scope: PrototypeScope::Pair,
        sampling: LabelSampling::Nearest,
    };
    let op = |v: &[Var]| {
        let device = v[0].value().device();
        let [source, target] = [labels[0].to_device(device)?, labels[1].to_device(device)?];
        let features = DomainPair::Together(v[0].clone());
        let contrast = ops::bidirectional_contrast(&features, [&source, &target], Some(&xi.to_device(device)?), &spec)?;
        contrast.total.ok_or_else(|| crate::Error::Internal("both weights are above 0, and there is no loss".into()))
    };
    let [n, h, w, d] = FEATURES;
    for dtype in FLOATS {
        let features = draw.reals(&[2 * n, h, w, d], dtype)?;
        expect_cpu("both terms", device, op, &[features], None, None)?;
    }
    Ok("both terms with label transfer, value and gradient".into())
}

fn calibration(device: &Device) -> Outcome {
    let run = |device: &Device| -> Result<[Tensor; 2]> {
        let mut draw = Inputs::new(32);
        let shape = [PAIRS, CLASSES, FEATURES[3]];
        let mut xi = draw.reals(&shape[1..], DType::F32)?.to_device(device)?;
        let rho =
            [draw.reals(&shape, DType::F32)?.to_device(device)?, draw.reals(&shape, DType::F32)?.to_device(device)?];
        let counts = |every: usize| {
            let counts = (0..PAIRS * CLASSES).map(|i| u32::from(i % every != 1)).collect();
            Tensor::from_vec(counts, &shape[..2], device)
        };
        ops::update_calibration(&mut xi, &rho[0], &counts(3)?, &rho[1], &counts(4)?, 0.75)?;
        Ok([ops::calibrate(&xi, &rho[0])?, xi])
    };
    for (got, want) in run(device)?.iter().zip(&run(&Device::cpu())?) {
        expect("calibration", got, want, Bound::Share(1e-6))?;
    }
    Ok("update and use".into())
}
