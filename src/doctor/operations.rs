//! What a network does besides convolving, each kind of kernel against the CPU.

use super::{
    check::{Check, Outcome, Trouble},
    compare::{Bound, Inputs, expect, expect_cpu, expect_cpu_both, of_floats},
};
use crate::{
    DType, Device, Result, Tensor,
    autograd::{Tape, Var},
    ops::{self, AsppBranch, AverageItem, BatchNormMode, BatchNormSpec, Conv2dSpec, MaxPool2dSpec, SgdItem, SgdSpec},
};

const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

pub(super) fn checks() -> Vec<Check> {
    let check = |name, run: fn(&Device) -> Outcome| Check::new("operations", name, super::REPORT, run);
    vec![
        check("elementwise", elementwise),
        check("channels and images", channels),
        check("batch norm", batch_norm),
        check("batch norm at a convolution", batch_norm_at_convolution),
        check("max pool", max_pool),
        check("upsampling", upsampling),
        check("ASPP head", aspp),
        check("prediction", prediction),
        check("label maps", label_maps),
        check("SGD", sgd),
        check("running averages", running_averages),
    ]
}

fn elementwise(device: &Device) -> Outcome {
    let image: &[usize] = &[2, 5, 7, 24];
    let both = |what, op: fn(&[Var]) -> Result<Var>, shapes: &[&[usize]]| {
        expect_cpu_both(what, device, op, shapes, image, Bound::Exact)
    };
    both("add", |v| ops::add(&v[0], &v[1]), &[image, image])?;
    both("add_relu", |v| ops::add_relu(&v[0], &v[1]), &[image, image])?;
    both("relu", |v| ops::relu(&v[0]), &[image])?;
    both("scale", |v| ops::scale(&v[0], 0.5), &[image])?;
    let mut draw = Inputs::new(3);
    for (dtype, other) in [(DType::F32, DType::Bf16), (DType::Bf16, DType::F32)] {
        let x = draw.reals(image, dtype)?;
        expect_cpu("cast", device, |v| ops::cast(&v[0], other), &[x], None, Some(Bound::Exact))?;
        let x = draw.integers(image, dtype)?;
        expect_cpu("sum", device, |v| ops::sum(&v[0]), &[x], None, Some(Bound::Exact))?;
    }
    Ok("add, ReLU, scale, cast, sum".into())
}

fn channels(device: &Device) -> Outcome {
    let (one, two): (&[usize], &[usize]) = (&[3, 4, 5, 6], &[3, 4, 5, 10]);
    expect_cpu_both(
        "concat",
        device,
        |v| ops::concat_channels(&[&v[0], &v[1]]),
        &[one, two],
        &[3, 4, 5, 16],
        Bound::Exact,
    )?;
    let groups = |v: &[Var]| ops::sum_channel_groups(&v[0], 2);
    expect_cpu_both("sum of groups", device, groups, &[two], &[3, 4, 5, 5], Bound::Exact)?;
    // A second use of x, whose gradient is added where the first one lies.
    let groups =
        |v: &[Var]| ops::add(&ops::sum_channel_groups(&v[0], 2)?, &ops::sum_channel_groups(&ops::relu(&v[0])?, 2)?);
    expect_cpu_both("sums of groups", device, groups, &[two], &[3, 4, 5, 5], Bound::Exact)?;
    let second = |v: &[Var]| {
        let [mut plain, mut positive] =
            [ops::split_images(&v[0], &[1, 2])?, ops::split_images(&ops::relu(&v[0])?, &[1, 2])?];
        ops::add(&plain.swap_remove(1), &positive.swap_remove(1))
    };
    expect_cpu_both("split", device, second, &[two], &[2, 4, 5, 10], Bound::Exact)?;
    Ok("concatenation, sums of groups, halves of a batch".into())
}

fn batch_norm(device: &Device) -> Outcome {
    let mut draw = Inputs::new(5);
    for dtype in FLOATS {
        for channels in [5, 72] {
            let image = [4, 9, 8, channels];
            let inputs = [
                draw.reals(&image, dtype)?,
                draw.reals(&[channels], DType::F32)?,
                draw.reals(&[channels], DType::F32)?,
                draw.reals(&image, dtype)?,
            ];
            let seed = draw.reals(&image, dtype)?;
            let batch = |v: &[Var]| {
                let mode = BatchNormMode::Batch { epsilon: 1e-5, groups: 2 };
                let spec = BatchNormSpec { mode, residual: v.get(3), relu: true, moments: None };
                Ok(ops::batch_norm_with(&v[0], &v[1], &v[2], &spec)?.y)
            };
            // Sums over pixels, whose terms cancel.
            let bound = Bound::Share(if dtype == DType::Bf16 { 2e-2 } else { 1e-4 });
            expect_cpu("the batch's statistics", device, batch, &inputs, Some(&seed), Some(bound))?;
            let statistics = [
                draw.reals(&[channels], DType::F32)?,
                of_floats((0..channels).map(|i| 0.5 + i as f32), &[channels], DType::F32)?,
            ];
            let running = |v: &[Var]| {
                let device = v[0].value().device();
                let [mean, variance] = [statistics[0].to_device(device)?, statistics[1].to_device(device)?];
                let mode = BatchNormMode::Running { mean: &mean, variance: &variance, epsilon: 1e-5 };
                let spec = BatchNormSpec { mode, residual: v.get(3), relu: true, moments: None };
                Ok(ops::batch_norm_with(&v[0], &v[1], &v[2], &spec)?.y)
            };
            expect_cpu("given statistics", device, running, &inputs, Some(&seed), Some(bound))?;
        }
    }
    Ok("by the batch and by given statistics, with residual and ReLU".into())
}

/// What the convolutions around a batch norm do for it: moments of its input, sums for its gradient.
fn batch_norm_at_convolution(device: &Device) -> Outcome {
    let wide = [2, 9, 8, 64];
    let mut draw = Inputs::new(6);
    let one = Conv2dSpec::default();
    for warpgroups in [false, true] {
        let device = &device.with(|options| options.warpgroups = Some(warpgroups));
        if device.has_warpgroup_products() != warpgroups {
            break;
        }
        let filters = [draw.reals(&[72, 1, 1, 64], DType::Bf16)?, draw.reals(&[64, 1, 1, 72], DType::Bf16)?];
        let vectors = [draw.reals(&[72], DType::F32)?, draw.reals(&[72], DType::F32)?];
        let (x, seed) = (draw.reals(&wide, DType::Bf16)?, draw.reals(&wide, DType::Bf16)?);
        let run = |device: &Device, dtype: DType| -> Result<Vec<Tensor>> {
            let tape = Tape::new(device);
            let place = |tensor: &Tensor| Ok(tape.variable(tensor.to_device(device)?));
            let floats = |tensor: &Tensor| Ok(tape.variable(tensor.to_dtype(dtype)?.to_device(device)?));
            let [x, first, second] = [floats(&x)?, floats(&filters[0])?, floats(&filters[1])?];
            let [scale, shift] = [place(&vectors[0])?, place(&vectors[1])?];
            let (y, moments) = ops::conv2d_with_moments(&x, &first, None, &one, 2)?;
            let mode = BatchNormMode::Batch { epsilon: 1e-5, groups: 2 };
            let spec = BatchNormSpec { mode, residual: None, relu: true, moments: moments.as_ref() };
            let y = ops::batch_norm_with(&y, &scale, &shift, &spec)?.y;
            let y = ops::conv2d(&y, &second, None, &one)?;
            let gradients = tape.backward_with(&y, seed.to_dtype(dtype)?.to_device(device)?)?;
            let all = [&x, &first, &scale, &shift, &second].into_iter().filter_map(|var| gradients.get(var).cloned());
            [y.value().clone()].into_iter().chain(all).map(|tensor| tensor.to_device(&Device::cpu())).collect()
        };
        let (got, want) = (run(device, DType::Bf16)?, run(&Device::cpu(), DType::F32)?);
        for (part, (got, want)) in
            ["y", "dx", "dw", "dscale", "dshift", "dw of the second"].iter().zip(got.iter().zip(&want))
        {
            expect(part, &got.to_dtype(DType::F32)?, want, Bound::Distance(4e-2))?;
        }
    }
    Ok("moments of its input, sums for its gradient".into())
}

fn max_pool(device: &Device) -> Outcome {
    let spec = MaxPool2dSpec { kernel: [3, 3], stride: [2, 2], padding: [1, 1], ceil_mode: true };
    // Of equal integers the first wins, on every device.
    let pool = |v: &[Var]| ops::max_pool2d(&v[0], &spec);
    expect_cpu_both("max pool", device, pool, &[&[2, 9, 12, 20]], &[2, 5, 7, 20], Bound::Exact)?;
    Ok("3 x 3, value and gradient".into())
}

fn upsampling(device: &Device) -> Outcome {
    let up = |v: &[Var]| ops::upsample_bilinear(&v[0], 25, 31);
    for dtype in FLOATS {
        let mut draw = Inputs::new(8);
        let (x, seed) = (draw.reals(&[2, 4, 5, 19], dtype)?, draw.reals(&[2, 25, 31, 19], dtype)?);
        expect_cpu("upsampling", device, up, &[x], Some(&seed), None)?;
    }
    Ok("value and gradient".into())
}

/// Images and taps: the published head in small, and a plain one with tiles for a whole card.
const HEADS: [([usize; 4], usize); 2] = [([2, 9, 7, 64], 3), ([4, 92, 92, 8], 1)];

fn aspp(device: &Device) -> Outcome {
    for (dtype, tf32, warpgroups) in
        [(DType::F32, false, false), (DType::F32, true, false), (DType::Bf16, false, false), (DType::Bf16, false, true)]
    {
        let device = &device.with(|options| options.warpgroups = Some(warpgroups));
        if device.has_warpgroup_products() != warpgroups {
            break;
        }
        let tensor_cores = tf32 || dtype == DType::Bf16;
        for shape @ (image, _) in HEADS.into_iter().take(if tensor_cores && !warpgroups { 2 } else { 1 }) {
            let what = match (tf32, warpgroups) {
                (true, _) => "tf32".to_owned(),
                (_, true) => format!("{dtype} by warpgroups"),
                _ => dtype.to_string(),
            };
            let bound = match (dtype, tf32) {
                (DType::Bf16, _) => 1e-2,
                (_, true) => 2e-3,
                _ => 1e-5,
            };
            head(&format!("{what}, {image:?}"), shape, dtype, tf32, Bound::Distance(bound), device)?;
        }
    }
    Ok("four dilations, value and gradients".into())
}

fn head(
    what: &str,
    (image @ [n, h, w, channels], taps): ([usize; 4], usize),
    dtype: DType,
    tf32: bool,
    bound: Bound,
    device: &Device,
) -> Result<(), Trouble> {
    const DILATIONS: [usize; 4] = [6, 12, 18, 24];
    let run = |inputs: &[Tensor], seed: &Tensor, device: &Device| -> Result<Vec<Tensor>> {
        let tape = Tape::new(device);
        let tape = if tf32 { tape.with_tf32() } else { tape };
        let place = |(i, input): (usize, &Tensor)| {
            let input = input.to_device(device)?;
            // Over many pixels only the gradient of x has a kernel of its own.
            Ok(if i == 0 || n * h * w < 1000 { tape.variable(input) } else { tape.constant(input) })
        };
        let vars: Vec<Var> = inputs.iter().enumerate().map(place).collect::<Result<_>>()?;
        let branch = |i: usize| AsppBranch { filter: &vars[1 + i], bias: &vars[5 + i], dilation: DILATIONS[i] };
        let y = ops::aspp(&vars[0], &[0, 1, 2, 3].map(branch))?;
        let gradients = tape.backward_with(&y, seed.to_device(device)?)?;
        let all = vars.iter().filter_map(|var| gradients.get(var).cloned());
        [y.value().clone()].into_iter().chain(all).map(|tensor| tensor.to_device(&Device::cpu())).collect()
    };
    let mut draw = Inputs::new(9);
    let filter = [19, taps, taps, channels];
    let shapes = [&[&image[..]][..], &[&filter[..]; 4], &[&filter[..1]; 4]].concat();
    let inputs = shapes.iter().map(|shape| draw.reals(shape, dtype)).collect::<Result<Vec<_>>>()?;
    let seed = draw.reals(&[n, h, w, 76], dtype)?;
    // The CPU would round bf16 after each branch.
    let wide = inputs.iter().map(|input| input.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let want = run(&wide, &seed.to_dtype(DType::F64)?, &Device::cpu())?;
    for (i, (got, want)) in run(&inputs, &seed, device)?.iter().zip(&want).enumerate() {
        expect(&format!("{what}, result {i}"), &got.to_dtype(DType::F64)?, want, bound)?;
    }
    Ok(())
}

fn prediction(device: &Device) -> Outcome {
    for dtype in FLOATS {
        let x = Inputs::new(4).reals(&[2, 3, 4, 19], dtype)?;
        let spec = ops::PredictSpec { confidence: true, thresholds: Some(&[0.06; 19]) };
        let got = ops::predict(&x.to_device(device)?, 9, 13, spec)?;
        let want = ops::predict(&x, 9, 13, spec)?;
        expect("labels", &got.labels, &want.labels, Bound::Exact)?;
        for (what, got, want, bound) in [
            ("confidence", &got.confidence, &want.confidence, Bound::Share(2e-5)),
            ("reaches", &got.reaches, &want.reaches, Bound::Exact),
        ] {
            let (Some(got), Some(want)) = (got, want) else {
                return Err(Trouble::Wrong(format!("{what} is missing")));
            };
            expect(what, got, want, bound)?;
        }
        expect("argmax", &ops::argmax(&x.to_device(device)?)?, &ops::argmax(&x)?, Bound::Exact)?;
    }
    Ok("labels, confidence, thresholds".into())
}

fn label_maps(device: &Device) -> Outcome {
    let labels = Inputs::new(10).labels(&[2, 31, 41], 19, 5)?;
    let there = labels.to_device(device)?;
    let resized = ops::resize_labels_nearest(&labels, 8, 10)?;
    expect("nearest", &ops::resize_labels_nearest(&there, 8, 10)?, &resized, Bound::Exact)?;
    expect("aligned", &ops::align_labels(&there, 8, 10, 2)?, &ops::align_labels(&labels, 8, 10, 2)?, Bound::Exact)?;
    let hybrid = ops::hybrid_labels(&there, &resized.to_device(device)?)?;
    expect("hybrid", &hybrid, &ops::hybrid_labels(&labels, &resized)?, Bound::Exact)?;
    Ok("nearest, aligned, hybrid".into())
}

/// Two steps, in f32 with gradients in f32 and in bf16; a loss that is no number prevents one.
fn sgd(device: &Device) -> Outcome {
    let run = |device: &Device| -> Result<Vec<Tensor>> {
        let mut draw = Inputs::new(33);
        let mut all = Vec::new();
        for (size, dtype) in [(1, DType::F32), (2049, DType::Bf16), (5, DType::F32), (4100, DType::Bf16)] {
            let mut placed = |dtype| draw.integers(&[size], dtype)?.to_device(device);
            all.push((placed(DType::F32)?, placed(DType::F32)?, placed(dtype)?, placed(DType::Bf16)?));
        }
        let losses = |loss: f32| Tensor::from_vec(vec![1.0, loss], &[2], device);
        for loss in [losses(2.0)?, losses(f32::NAN)?, losses(0.5)?] {
            let item = |(value, momentum, gradient, copy)| SgdItem {
                value,
                momentum,
                gradient,
                copy: Some(copy),
                // Exact in f32, so that rounding is the same everywhere.
                multiplier: 0.5,
                weight_decay: 0.5,
            };
            let parts = all.iter_mut().map(|(value, momentum, gradient, copy)| (value, momentum, &*gradient, copy));
            let mut items: Vec<SgdItem<'_>> = parts.map(item).collect();
            let rate = &Tensor::from_vec(vec![0.5f64], &[1], device)?;
            ops::sgd_step(&mut items, &SgdSpec { momentum: 0.5, rate, found_inf: Some(&loss) })?;
        }
        Ok(all.into_iter().flat_map(|(value, momentum, _, copy)| [value, momentum, copy]).collect())
    };
    for (i, (got, want)) in run(device)?.iter().zip(&run(&Device::cpu())?).enumerate() {
        expect(&format!("tensor {i}"), got, want, Bound::Exact)?;
    }
    Ok("values, momentum, copies in bf16, found_inf".into())
}

fn running_averages(device: &Device) -> Outcome {
    let run = |device: &Device| -> Result<Tensor> {
        let mut draw = Inputs::new(34);
        let mut average = draw.integers(&[70], DType::F32)?.to_device(device)?;
        let x = &draw.integers(&[2, 70], DType::F32)?.to_device(device)?;
        ops::move_running_averages(&mut [AverageItem { average: &mut average, x, row: 1 }], 0.25, None)?;
        Ok(average)
    };
    expect("average", &run(device)?, &run(&Device::cpu())?, Bound::Exact)?;
    Ok("exact".into())
}
