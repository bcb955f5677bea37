//! What the device reaches at most, measured before any row: the rate of a copy, and of one large matrix product a dtype.
//!
//! Both are rows of their own, with the names that tools/bench_pytorch.py gives to its copy and its cuBLAS product, so that
//! tools/join_bench.py can hold every rate against the faster of the two.

use std::{hint::black_box, time::Instant};

use bicl::{
    DType, Device, Error, Result, Tensor,
    autograd::Tape,
    ops::{self, Conv2dSpec},
};
use serde_json::json;

use super::harness::{by, random, time, wide};

struct Ceiling {
    op: &'static str,
    shape: String,
    dtype: DType,
    /// Median and least.
    seconds: [f64; 2],
    /// Bytes read and written, or floating-point operations.
    work: f64,
}

pub struct Ceilings(Vec<Ceiling>);

impl Ceilings {
    pub fn measure(device: &Device) -> Result<Self> {
        let dtypes: &[DType] = if device.is_cpu() { &[DType::F32] } else { &[DType::F32, DType::Bf16] };
        let mut all = vec![copy(device)?];
        for &dtype in dtypes {
            all.push(matrix_product(device, dtype)?);
        }
        Ok(Self(all))
    }

    fn rate(&self, op: &str, dtype: DType) -> Option<f64> {
        let ceiling = self.0.iter().find(|ceiling| ceiling.op == op && ceiling.dtype == dtype)?;
        Some(ceiling.work / ceiling.seconds[0])
    }

    /// Bytes per second of a copy, read and written.
    pub fn copy(&self) -> Option<f64> {
        self.rate("copy", DType::U8)
    }

    /// Floating-point operations per second of a large product.
    pub fn matrix(&self, dtype: DType) -> Option<f64> {
        self.rate("matrix_product", dtype)
    }

    /// The rows, as JSON lines hold them.
    pub fn rows(&self, device: &Device) -> Vec<serde_json::Value> {
        let row = |ceiling: &Ceiling| {
            let (rate, product) = (ceiling.work / ceiling.seconds[0], ceiling.op != "copy");
            json!({
                "op": ceiling.op, "shape": ceiling.shape, "direction": "forward", "dtype": ceiling.dtype.to_string(),
                "device": if device.is_cuda() { "cuda" } else { "cpu" },
                "ms": ceiling.seconds[0] * 1e3, "least_ms": ceiling.seconds[1] * 1e3,
                "bytes_per_second": (!product).then_some(rate), "operations_per_second": product.then_some(rate),
            })
        };
        self.0.iter().map(row).collect()
    }
}

/// Median and least seconds of `work`, of which the first two calls warm up.
fn measure(device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<[f64; 2]> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 12 || (times.len() < 100 && start.elapsed().as_secs_f64() < 0.3) {
        times.push(time(device, &mut work)?);
    }
    let mut times = times.split_off(2);
    times.sort_by(f64::total_cmp);
    Ok([times[times.len() / 2], times[0]])
}

fn copy(device: &Device) -> Result<Ceiling> {
    let mib = if device.is_cuda() { 1024 } else { 256 };
    let source = Tensor::zeros(&[mib << 20], DType::U8, device)?;
    let seconds = measure(device, || source.duplicate().map(|copy| drop(black_box(copy))))?;
    let work = (2 * (mib << 20)) as f64;
    Ok(Ceiling { op: "copy", shape: format!("{mib} MiB"), dtype: DType::U8, seconds, work })
}

/// [M,K] by [K,N], as a convolution of one tap.
fn matrix_product(device: &Device, dtype: DType) -> Result<Ceiling> {
    let [m, n, k] = if device.is_cuda() { [8192; 3] } else { [1024; 3] };
    let spec = Conv2dSpec { stride: [1; 2], padding: [0; 2], dilation: [1; 2] };
    // Numbers and not zeros: a card's clock depends on how many bits change.
    let x = random(&[1, m / 64, 64, k], dtype, 1, device)?;
    let w = random(&[n, 1, 1, k], dtype, 2, device)?;
    let product = |x: &Tensor, w: &Tensor| {
        let tape = Tape::new(x.device());
        ops::conv2d(&tape.constant(x.clone()), &tape.constant(w.clone()), None, &spec).map(|y| y.value().clone())
    };

    // The first and the last row against the CPU: the whole would take it longer than all the rest.
    let (all, values) = (wide(&product(&x, &w)?)?, wide(&x)?);
    let ends = [&values[..k], &values[(m - 1) * k..]].concat();
    let ends = Tensor::from_vec(ends.iter().map(|&value| value as f32).collect(), &[1, 1, 2, k], &Device::cpu())?;
    let want = wide(&product(&ends, &w.to_device(&Device::cpu())?.to_dtype(DType::F32)?)?)?;
    let got = [&all[..n], &all[(m - 1) * n..]].concat();
    let scale = want.iter().fold(1e-30f64, |scale, value| scale.max(value.abs()));
    let bound = if dtype == DType::Bf16 { 1e-2 } else { 1e-4 };
    // So that NaN is no agreement.
    if !got.iter().zip(&want).all(|(got, want)| (got - want).abs() <= bound * scale) {
        return Err(Error::Internal(format!("matrix_product {dtype}: differs from the CPU")));
    }

    let seconds = measure(device, || product(&x, &w).map(|y| drop(black_box(y))))?;
    let work = 2.0 * m as f64 * n as f64 * k as f64;
    Ok(Ceiling { op: "matrix_product", shape: by(&[m, n, k]), dtype, seconds, work })
}
