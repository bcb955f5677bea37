//! Convolutions: on a GPU the shapes of DeepLab-V2 with ResNet-101 on two crops of 730 x 730 (output stride 8), and one of few
//! tiles and long sums (its last stage at output stride 32); on the CPU those of the miniature preset and of ResNet-50 at
//! 256 x 256. Names and shapes are those of tools/bench_pytorch.py.

use bicl::{
    DType, Result,
    ops::{self, Conv2dSpec},
};

use super::harness::{Bench, Pass, Problem, by};

/// N, H, W, C; K, R; stride, padding, dilation.
type Shape = ([usize; 4], [usize; 2], [usize; 3]);

const LARGE: [Shape; 14] = [
    ([2, 92, 92, 256], [256, 3], [1, 2, 2]),
    ([2, 92, 92, 512], [512, 3], [1, 4, 4]),
    ([2, 92, 92, 256], [1024, 1], [1, 0, 1]),
    ([2, 92, 92, 1024], [256, 1], [1, 0, 1]),
    ([2, 92, 92, 512], [2048, 1], [1, 0, 1]),
    ([2, 92, 92, 1024], [2048, 1], [1, 0, 1]),
    ([2, 92, 92, 2048], [512, 1], [1, 0, 1]),
    ([2, 92, 92, 128], [128, 3], [1, 1, 1]),
    ([2, 92, 92, 2048], [19, 3], [1, 6, 6]),
    ([2, 92, 92, 2048], [19, 3], [1, 12, 12]),
    ([2, 92, 92, 2048], [19, 3], [1, 18, 18]),
    ([2, 92, 92, 2048], [19, 3], [1, 24, 24]),
    ([2, 730, 730, 3], [64, 7], [2, 3, 1]),
    ([2, 23, 23, 512], [512, 3], [1, 1, 1]),
];

const SMALL: [Shape; 17] = [
    ([4, 96, 128, 3], [16, 7], [2, 3, 1]),
    ([4, 25, 33, 16], [16, 3], [1, 1, 1]),
    ([4, 25, 33, 16], [32, 3], [2, 1, 1]),
    ([4, 13, 17, 32], [32, 3], [1, 1, 1]),
    ([4, 13, 17, 64], [64, 3], [1, 2, 2]),
    ([4, 13, 17, 128], [128, 3], [1, 4, 4]),
    ([4, 13, 17, 128], [19, 3], [1, 6, 6]),
    ([4, 13, 17, 128], [19, 3], [1, 12, 12]),
    ([4, 13, 17, 128], [19, 3], [1, 18, 18]),
    ([4, 13, 17, 128], [19, 3], [1, 24, 24]),
    ([2, 256, 256, 3], [64, 7], [2, 3, 1]),
    ([2, 64, 64, 64], [64, 3], [1, 1, 1]),
    ([2, 64, 64, 64], [256, 1], [1, 0, 1]),
    ([2, 64, 64, 256], [128, 1], [1, 0, 1]),
    ([2, 32, 32, 256], [512, 1], [1, 0, 1]),
    ([2, 64, 64, 128], [128, 3], [2, 1, 1]),
    ([2, 32, 32, 512], [512, 3], [1, 4, 4]),
];

pub fn rows(bench: &mut Bench) -> Result<()> {
    let cpu = bench.device.is_cpu();
    let (shapes, dtypes): (&[Shape], &[DType]) =
        if cpu { (&SMALL, &[DType::F32]) } else { (&LARGE, &[DType::F32, DType::Bf16]) };
    for &(x, [k, r], [stride, padding, dilation]) in shapes {
        for &dtype in dtypes {
            let w = [k, r, r, x[3]];
            let spec = Conv2dSpec { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
            let extent = |extent: usize| (extent + 2 * padding - dilation * (r - 1) - 1) / stride + 1;
            let outputs = x[0] * extent(x[1]) * extent(x[2]) * k;
            // No gradient flows to the images.
            let all = [("forward", Pass::Forward), ("weight", Pass::Gradient(1)), ("data", Pass::Gradient(0))];
            bench.problem(&Problem {
                op: "conv2d",
                shape: format!("{} {} s{stride} d{dilation}", by(&x), by(&w)),
                inputs: vec![x.to_vec(), w.to_vec()],
                dtype,
                sums_from: usize::MAX,
                passes: if x[3] == 3 { &all[..2] } else { &all },
                operations: 2.0 * (outputs * r * r * x[3]) as f64,
                more_bytes: 0,
                run: &|v| ops::conv2d(&v[0], &v[1], None, &spec),
            })?;
        }
    }
    Ok(())
}
