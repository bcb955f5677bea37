//! What the device reaches at most, measured before any row: the rate of a copy, and of one large matrix product a dtype.
//!
//! Both are rows of their own, with the names that tools/bench_pytorch.py gives to its copy and its cuBLAS product, so that
//! tools/join_bench.py can hold every rate against the faster of the two.

use bicl::{
    DType, Device, Error, Result, Tensor,
    autograd::Tape,
    ops::{self, Conv2dSpec},
};
use serde_json::{Value, json};

use super::{
    case::{bound, difference, random},
    clock::{Call, Timing, Work, measure},
    harness::by,
    rows::Filters,
};

#[derive(Clone, Copy)]
pub enum Ceiling {
    Copy,
    MatrixProduct(DType),
}

/// The rates that could be measured.
#[derive(Default)]
pub struct Ceilings {
    copy: Option<f64>,
    matrix: Vec<(DType, f64)>,
}

impl Ceilings {
    /// Bytes per second of a copy, read and written.
    pub fn copy(&self) -> Option<f64> {
        self.copy
    }

    /// Floating-point operations per second of a large product.
    pub fn matrix(&self, dtype: DType) -> Option<f64> {
        self.matrix.iter().find(|(known, _)| *known == dtype).map(|(_, rate)| *rate)
    }

    pub fn set(&mut self, ceiling: Ceiling, rate: f64) {
        match ceiling {
            Ceiling::Copy => self.copy = Some(rate),
            Ceiling::MatrixProduct(dtype) => self.matrix.push((dtype, rate)),
        }
    }
}

impl Ceiling {
    /// Those of a device, for the dtypes that rows can have.
    pub fn all(device: &Device, filters: &Filters) -> Vec<Self> {
        let dtypes: &[DType] = if device.is_cpu() { &[DType::F32] } else { &[DType::F32, DType::Bf16] };
        let products = dtypes.iter().filter(|&&dtype| filters.has(dtype)).map(|&dtype| Self::MatrixProduct(dtype));
        std::iter::once(Self::Copy).chain(products).collect()
    }

    /// What distinguishes its row.
    pub fn key(self, device: &Device) -> Value {
        let (op, shape, dtype) = match self {
            Self::Copy => ("copy", format!("{} MiB", mib(device)), DType::U8),
            Self::MatrixProduct(dtype) => ("matrix_product", by(&extents(device)), dtype),
        };
        json!({
            "op": op, "shape": shape, "direction": "forward", "dtype": dtype.to_string(),
            "device": if device.is_cuda() { "cuda" } else { "cpu" },
        })
    }

    /// The rate, and its row.
    pub fn measure(self, device: &Device, seconds: f64) -> Result<(f64, Value)> {
        let (timing, work, name) = match self {
            Self::Copy => (copy(device, seconds)?, (2 * (mib(device) << 20)) as f64, "bytes_per_second"),
            Self::MatrixProduct(dtype) => {
                let work = 2.0 * extents(device).iter().product::<usize>() as f64;
                (matrix_product(device, dtype, seconds)?, work, "operations_per_second")
            }
        };
        let (rate, mut row) = (work / timing.median, self.key(device));
        row["ms"] = json!(timing.median * 1e3);
        row["least_ms"] = json!(timing.least * 1e3);
        row["timed"] = timing.by.name().into();
        row[name] = json!(rate);
        Ok((rate, row))
    }
}

/// Of the copy.
fn mib(device: &Device) -> usize {
    if device.is_cuda() { 1024 } else { 256 }
}

/// M, N and K of the product.
fn extents(device: &Device) -> [usize; 3] {
    if device.is_cuda() { [8192; 3] } else { [1024; 3] }
}

fn copy(device: &Device, seconds: f64) -> Result<Timing> {
    let source = Tensor::zeros(&[mib(device) << 20], DType::U8, device)?;
    let prepare = |_| Ok(Box::new(|| Ok(vec![source.duplicate()?])) as Call);
    measure(device, &Work { sets: 1, bytes: source.len(), seconds, prepare: &prepare })
}

/// [M,K] by [K,N], as a convolution of one tap.
fn matrix_product(device: &Device, dtype: DType, seconds: f64) -> Result<Timing> {
    let ([m, n, k], cpu) = (extents(device), Device::cpu());
    let spec = Conv2dSpec { stride: [1; 2], padding: [0; 2], dilation: [1; 2] };
    // Numbers and not zeros: a card's clock depends on how many bits change.
    let (x, w) = (random(&[1, m / 64, 64, k], dtype, 1, &cpu)?, random(&[n, 1, 1, k], dtype, 2, &cpu)?);
    let product = |x: &Tensor, w: &Tensor| {
        let tape = Tape::new(x.device());
        ops::conv2d(&tape.constant(x.clone()), &tape.constant(w.clone()), None, &spec).map(|y| y.value().clone())
    };

    // The first and the last row against the CPU: the whole would take it longer than all the rest.
    let ends = |tensor: &Tensor, width: usize| -> Result<Tensor> {
        let all = tensor.to_device(&cpu)?.to_dtype(DType::F32)?;
        let all = all.as_slice::<f32>()?;
        let ends = [&all[..width], &all[(m - 1) * width..]].concat();
        Tensor::from_vec(ends, &[1, 1, 2, width], &cpu)
    };
    let want = product(&ends(&x, k)?, &w.to_dtype(DType::F32)?)?;
    let (x, w) = (x.to_device(device)?, w.to_device(device)?);
    let error = difference(&ends(&product(&x, &w)?, n)?, &want)?;
    if error > bound(dtype == DType::Bf16) {
        return Err(Error::Internal(format!("differs from the CPU by {error:.1e} of the largest value")));
    }

    let prepare = |_| Ok(Box::new(|| Ok(vec![product(&x, &w)?])) as Call);
    measure(device, &Work { sets: 1, bytes: (m * k + k * n) * dtype.size(), seconds, prepare: &prepare })
}
