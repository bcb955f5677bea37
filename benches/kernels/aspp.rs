//! The head's four dilated convolutions, and the sum of their outputs.

use bicl::{
    DType, Result,
    autograd::Var,
    ops::{self, AsppBranch},
};

use super::harness::{Bench, Pass, Problem, by};

const RATES: [usize; 4] = [6, 12, 18, 24];
const CLASSES: usize = 19;

fn run(v: &[Var]) -> Result<Var> {
    let branch = |i: usize| AsppBranch { filter: &v[1 + i], bias: &v[5 + i], dilation: RATES[i] };
    ops::aspp(&v[0], &[0, 1, 2, 3].map(branch))
}

pub fn rows(bench: &mut Bench) -> Result<()> {
    let cpu = bench.device.is_cpu();
    let (x, dtypes): ([usize; 4], &[DType]) =
        if cpu { ([4, 13, 17, 128], &[DType::F32]) } else { ([2, 92, 92, 2048], &[DType::F32, DType::Bf16]) };
    for &dtype in dtypes {
        let filter = [CLASSES, 3, 3, x[3]];
        let mut inputs = vec![x.to_vec()];
        inputs.extend(vec![filter.to_vec(); RATES.len()]);
        inputs.extend(vec![vec![CLASSES]; RATES.len()]);
        let pixels = x[0] * x[1] * x[2];
        let products = (RATES.len() * pixels * filter.iter().product::<usize>()) as f64;
        bench.problem(&Problem {
            op: "aspp",
            shape: format!("{} {}", by(&x), by(&filter)),
            inputs,
            dtype,
            sums_from: usize::MAX,
            passes: &[("forward", Pass::Forward), ("backward", Pass::Backward)],
            operations: 2.0 * products,
            more_bytes: 0,
            run: &run,
        })?;
        let features = [x[0], x[1], x[2], RATES.len() * CLASSES];
        bench.problem(&Problem {
            op: "sum_channel_groups",
            shape: by(&features),
            inputs: vec![features.to_vec()],
            dtype,
            sums_from: usize::MAX,
            passes: &[("forward", Pass::Forward), ("backward", Pass::Backward)],
            operations: 0.0,
            more_bytes: 0,
            run: &|v| ops::sum_channel_groups(&v[0], RATES.len()),
        })?;
    }
    Ok(())
}
