//! Prototypes: masked average pooling of features by class (docs/method.md, "Prototypes").
//!
//! ```text
//! rho(c) = sum_p M(p,c) f(p) / n(c),   n(c) = sum_p M(p,c);   df(p) = drho(y(p)) / n(y(p)), 0 where y(p) is no class
//! ```

mod cpu;
pub(crate) mod cuda;

use serde::{Deserialize, Serialize};

use crate::{DType, Error, Result, Tensor, autograd::Var};

const OP: &str = "masked_average_pool";

/// The class prototypes of each pair.
#[derive(Clone)]
pub struct Prototypes {
    /// rho `[N,C,d]`, in f32 for features in bf16, else in their dtype; zero for an absent class.
    pub vectors: Var,
    /// Pixels of each class, u32 `[N,C]`; a class with none is *absent*.
    pub counts: Tensor,
}

impl Prototypes {
    /// u8 `[N,C]`: 1 where the class has a prototype.
    pub fn present(&self) -> Result<Tensor> {
        class_overlap(&self.counts, &self.counts)
    }
}

/// Whose pixels a prototype averages. docs/method.md, "Prototypes".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrototypeScope {
    /// Every image has its own prototypes.
    #[default]
    Pair,
    /// The whole batch is pooled; every pair sees the same prototypes.
    Batch,
}

/// How features [N,h,w,d] fall into pools, and to how many pairs each pool's prototypes go.
#[derive(Clone, Copy)]
pub(crate) struct Pools {
    pools: usize,
    /// Feature pixels of a pool.
    cells: usize,
    depth: usize,
    classes: usize,
    /// Equal copies of a pool's prototypes: pools * copies = N.
    pub copies: usize,
}

impl Pools {
    /// Of features [N,h,w,d].
    pub fn new([pairs, height, width, depth]: [usize; 4], classes: usize, scope: PrototypeScope) -> Self {
        let cells = height * width;
        match scope {
            PrototypeScope::Pair => Self { pools: pairs, cells, depth, classes, copies: 1 },
            PrototypeScope::Batch => Self { pools: pairs.min(1), cells: pairs * cells, depth, classes, copies: pairs },
        }
    }
}

/// Reference: the CPU composes [`super::bidirectional_contrast`] of it.
/// Prototypes of `classes` classes from features `[N,h,w,d]` (f32, f64, bf16) and labels u8 `[N,h,w]` at the features'
/// size; each image has its own. Labels that are no class, 255 among them, belong to no prototype.
///
/// Errors: shapes that do not fit, `classes` outside 1..=255.
///
/// ```
/// use bicl::{Device, Tensor, autograd::Tape, ops};
/// let device = Device::cpu();
/// let tape = Tape::new(&device);
/// let features = tape.variable(Tensor::from_vec(vec![1.0f32, 3.0, 8.0], &[1, 1, 3, 1], &device)?);
/// let labels = Tensor::from_vec(vec![0u8, 0, 255], &[1, 1, 3], &device)?;
/// let prototypes = ops::masked_average_pool(&features, &labels, 2)?;
/// assert_eq!(prototypes.vectors.value().to_vec::<f32>()?, [2.0, 0.0]);
/// assert_eq!(prototypes.counts.to_vec::<u32>()?, [2, 0]);
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn masked_average_pool(features: &Var, labels: &Tensor, classes: usize) -> Result<Prototypes> {
    masked_average_pool_scoped(features, labels, classes, PrototypeScope::Pair)
}

/// As [`masked_average_pool`]; with [`PrototypeScope::Batch`] the whole batch is pooled, and the N rows of the result
/// are equal.
pub fn masked_average_pool_scoped(
    features: &Var,
    labels: &Tensor,
    classes: usize,
    scope: PrototypeScope,
) -> Result<Prototypes> {
    let x = features.value();
    let [pairs, height, width, depth] = x.dims(OP)?;
    labels.expect_shape(&[pairs, height, width], OP, "the labels")?;
    x.expect_same_device(labels, OP)?;
    if labels.dtype() != DType::U8 {
        return Err(Error::DType { op: OP, got: labels.dtype(), want: "u8 for the labels" });
    }
    if x.is_empty() {
        return Err(Error::shape(OP, format!("features {:?} are empty", x.shape())));
    }
    if classes == 0 || classes > 255 {
        return Err(Error::shape(OP, format!("{classes} classes; there must be 1 to 255")));
    }
    if x.len() > i32::MAX as usize {
        return Err(Error::shape(OP, format!("features {:?} exceed 2^31 - 1 elements", x.shape())));
    }
    let pools = Pools::new([pairs, height, width, depth], classes, scope);
    let (vectors, counts) = forward(x, labels, pools)?;
    let (kept_labels, kept_counts) = (labels.clone(), counts.clone());
    let (dtype, shape) = (x.dtype(), x.shape().to_vec());
    let vectors = Var::record(OP, vectors, [features], move |drho, _| {
        Ok([Some(backward(&drho, &kept_labels, &kept_counts, pools, dtype)?.reshape(&shape)?)])
    })?;
    Ok(Prototypes { vectors, counts })
}

fn forward(x: &Tensor, labels: &Tensor, pools: Pools) -> Result<(Tensor, Tensor)> {
    dispatch!(x, OP, T => {
        kernels => cuda::forward::<T>(x, labels, pools),
        bf16 => forward(&x.to_dtype(DType::F32)?, labels, pools),
        cpu => cpu::forward::<T>(x, labels, pools),
    })
}

fn backward(drho: &Tensor, labels: &Tensor, counts: &Tensor, pools: Pools, dtype: DType) -> Result<Tensor> {
    dispatch!(drho, dtype, OP, T => {
        kernels => cuda::backward::<T>(drho, labels, counts, pools),
        bf16 => backward(drho, labels, counts, pools, DType::F32)?.to_dtype(DType::Bf16),
        cpu => cpu::backward::<T>(drho, labels, counts, pools),
    })
}

/// Reference: the CPU composes [`super::bidirectional_contrast`] of it.
/// u8 `[N,C]`: 1 where a class occurs in both, from the pixel counts u32 `[N,C]` of two domains. It is the weight w(c) of
/// docs/method.md, "The two contrastive terms".
///
/// Errors: shapes, dtypes or devices that differ.
pub fn class_overlap(counts_s: &Tensor, counts_t: &Tensor) -> Result<Tensor> {
    const OP: &str = "class_overlap";
    counts_t.expect_shape(counts_s.shape(), OP, "the second counts")?;
    counts_s.expect_same_device(counts_t, OP)?;
    let mut overlap = Tensor::empty(counts_s.shape(), DType::U8, counts_s.device())?;
    if !counts_s.device().is_cpu() {
        cuda::overlap(counts_s, counts_t, &mut overlap)?;
        return Ok(overlap);
    }
    let both = counts_s.as_slice::<u32>()?.iter().zip(counts_t.as_slice::<u32>()?);
    for (overlap, (&s, &t)) in overlap.as_mut_slice::<u8>()?.iter_mut().zip(both) {
        *overlap = u8::from(s > 0 && t > 0);
    }
    Ok(overlap)
}
