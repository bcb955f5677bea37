//! Work bound by memory: batch norm with and without what is fused into it, and the small operations.

use bicl::{
    DType, Device, Result, Tensor,
    autograd::Var,
    ops::{self, BatchNormMode, BatchNormSpec},
};

use super::harness::{Bench, Held, Pass, Problem, by};

/// Images of DeepLab-V2 with ResNet-101 on two crops of 730 x 730.
const LARGE: [[usize; 4]; 3] = [[2, 365, 365, 64], [2, 92, 92, 256], [2, 92, 92, 1024]];
/// The same for a batch of two crops of either domain, in two groups.
const STEP: [[usize; 4]; 3] = [[4, 92, 92, 1024], [4, 92, 92, 256], [4, 183, 183, 256]];
/// Images of a narrow network, and of ResNet-50 at 256 x 256.
const SMALL: [[usize; 4]; 5] =
    [[4, 96, 160, 16], [4, 24, 40, 32], [4, 12, 20, 256], [2, 128, 128, 64], [2, 32, 32, 1024]];
const PASSES: [(&str, Pass); 2] = [("forward", Pass::Forward), ("backward", Pass::Backward)];

/// x, scale, shift and perhaps a residual.
fn batch_norm(v: &[Var], relu: bool) -> Result<Var> {
    let accumulator = v[0].value().dtype().accumulator();
    let (scale, shift) = (ops::cast(&v[1], accumulator)?, ops::cast(&v[2], accumulator)?);
    let mode = BatchNormMode::Batch { epsilon: 1e-5, groups: 1 };
    Ok(ops::batch_norm_with(&v[0], &scale, &shift, &BatchNormSpec { mode, residual: v.get(3), relu, moments: None })?.y)
}

/// What mixed precision converts to.
fn other(dtype: DType) -> DType {
    if dtype == DType::Bf16 { DType::F32 } else { DType::Bf16 }
}

/// A name and what it computes from the problem's inputs.
type Row = (&'static str, fn(&[Var]) -> Result<Var>);

pub fn rows(bench: &mut Bench) -> Result<()> {
    let cpu = bench.device.is_cpu();
    let (images, dtypes): (&[[usize; 4]], &[DType]) =
        if cpu { (&SMALL, &[DType::F32]) } else { (&LARGE, &[DType::F32, DType::Bf16]) };
    for image in images {
        let (image, vector) = (image.to_vec(), vec![image[3]]);
        let normalised = vec![image.clone(), vector.clone(), vector, image.clone()];
        let rows: [(Row, Vec<Vec<usize>>); 11] = [
            (("batch_norm", |v| batch_norm(v, false)), normalised[..3].to_vec()),
            (("bn_relu", |v| batch_norm(v, true)), normalised[..3].to_vec()),
            (("bn_add_relu", |v| batch_norm(v, true)), normalised),
            (("relu", |v| ops::relu(&v[0])), vec![image.clone()]),
            (("add", |v| ops::add(&v[0], &v[1])), vec![image.clone(); 2]),
            (("add_relu", |v| ops::add_relu(&v[0], &v[1])), vec![image.clone(); 2]),
            (("concat", |v| ops::concat_channels(&[&v[0], &v[1]])), vec![image.clone(); 2]),
            (("scale", |v| ops::scale(&v[0], 0.4)), vec![image.clone()]),
            (("cast", |v| ops::cast(&v[0], other(v[0].value().dtype()))), vec![image.clone()]),
            (("sum", |v| ops::sum(&v[0])), vec![image.clone()]),
            (("mean", |v| ops::mean(&v[0])), vec![image.clone()]),
        ];
        for ((op, run), inputs) in rows {
            for &dtype in dtypes {
                let (shape, inputs) = (by(&image), inputs.clone());
                // The gradient of a sum is handed on as it is.
                let passes = if op == "add" { &PASSES[..1] } else { &PASSES[..] };
                let (operations, more_bytes) = (0.0, 0);
                bench.problem(&Problem {
                    op,
                    shape,
                    inputs,
                    dtype,
                    sums_from: usize::MAX,
                    passes,
                    operations,
                    more_bytes,
                    run: &run,
                })?;
            }
        }
    }
    if cpu { Ok(()) } else { step_rows(bench) }
}

/// Batch norm as a training step runs it. With the batch's statistics a pass launches a reduction, its finish and the pass over
/// the image, which a profiler tells apart; with given statistics forward is the last one alone.
fn step_rows(bench: &mut Bench) -> Result<()> {
    for image in STEP {
        let (image, vector) = (image.to_vec(), vec![image[3]]);
        let statistic = Held::new(Tensor::full(&vector, 1.0, DType::F32, &Device::cpu())?, bench)?;
        for (op, given, relu, residual, passes) in [
            ("bn_groups", false, false, false, &PASSES[..]),
            ("bn_groups_relu", false, true, false, &PASSES[..]),
            ("bn_groups_add_relu", false, true, true, &PASSES[..]),
            ("bn_given", true, true, false, &PASSES[..1]),
            ("bn_given_add", true, true, true, &PASSES[..1]),
        ] {
            let run = |v: &[Var]| {
                let held = statistic.beside(&v[0]);
                let mode = match given {
                    true => BatchNormMode::Running { mean: held, variance: held, epsilon: 1e-5 },
                    false => BatchNormMode::Batch { epsilon: 1e-5, groups: 2 },
                };
                let [scale, shift] = [&v[v.len() - 2], &v[v.len() - 1]];
                let residual = residual.then(|| &v[1]);
                Ok(ops::batch_norm_with(&v[0], scale, shift, &BatchNormSpec { mode, residual, relu, moments: None })?.y)
            };
            let images = 1 + usize::from(residual);
            let inputs = [vec![image.clone(); images], vec![vector.clone(); 2]].concat();
            bench.problem(&Problem {
                op,
                shape: by(&image),
                inputs,
                dtype: DType::Bf16,
                sums_from: images,
                passes,
                operations: 0.0,
                more_bytes: 0,
                run: &run,
            })?;
        }
    }
    Ok(())
}
