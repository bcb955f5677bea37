//! What follows the backward pass: the step of stochastic gradient descent and the running averages.

use bicl::{
    DType, Device, Result, Tensor,
    autograd::Var,
    ops::{self, AverageItem, SgdItem, SgdSpec},
};

use super::harness::{Bench, Held, Pass, Problem, by};

const PASSES: [(&str, Pass); 1] = [("forward", Pass::Forward)];

/// Parameters of a filter of the last stage.
const SHAPE: [usize; 4] = [512, 3, 3, 512];

fn step(v: &[Var], rate: &Tensor) -> Result<Var> {
    let (mut value, mut momentum) = (v[0].value().duplicate()?, v[1].value().duplicate()?);
    let gradient = v[2].value();
    let item = SgdItem {
        value: &mut value,
        momentum: &mut momentum,
        gradient,
        copy: None,
        multiplier: 1.0,
        weight_decay: 5e-4,
    };
    ops::sgd_step(&mut [item], &SgdSpec { momentum: 0.9, rate, found_inf: None })?;
    Ok(v[0].tape().constant(value))
}

/// 256 averages of 512 channels: all of a network's.
fn averages(v: &[Var]) -> Result<Var> {
    let mut averages = (0..256).map(|_| v[0].value().duplicate()).collect::<Result<Vec<_>>>()?;
    let x = v[1].value();
    let mut items: Vec<_> = averages.iter_mut().map(|average| AverageItem { average, x, row: 0 }).collect();
    ops::move_running_averages(&mut items, 0.1, None)?;
    Ok(v[0].tape().constant(averages.swap_remove(0)))
}

pub fn rows(bench: &mut Bench) -> Result<()> {
    let (dtype, passes, operations) = (DType::F32, &PASSES, 0.0);
    let shape = SHAPE.to_vec();
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let rate = Held::new(Tensor::full(&[1], 0.1, DType::F64, &Device::cpu())?, bench)?;
    // Two copies, each read and written, and the momentum.
    let (inputs, more_bytes) = (vec![shape.clone(); 3], 5 * bytes);
    bench.problem(&Problem {
        op: "sgd_step",
        shape: by(&shape),
        inputs,
        dtype,
        sums_from: usize::MAX,
        passes,
        operations,
        more_bytes,
        run: &|v| step(v, rate.beside(&v[0])),
    })?;
    let channels = vec![512];
    bench.problem(&Problem {
        op: "running_averages",
        shape: "256x512".into(),
        inputs: vec![channels.clone(); 2],
        dtype,
        sums_from: usize::MAX,
        passes,
        operations,
        // Each copied and moved: five accesses.
        more_bytes: 256 * 5 * 512 * dtype.size(),
        run: &averages,
    })
}
