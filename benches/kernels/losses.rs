//! What stands between the network and its loss: pooling, upsampling, segmentation losses, prototypes, contrast.

use bicl::{
    DType, Device, Result, Tensor,
    autograd::Var,
    ops::{self, MaxPool2dSpec, Prototypes, SegmentationWeights},
};

use super::harness::{Bench, Held, Pass, Problem, by};

const CLASSES: usize = 19;
const PASSES: [(&str, Pass); 2] = [("forward", Pass::Forward), ("backward", Pass::Backward)];

/// Feature cells and labels of a batch.
#[derive(Clone, Copy)]
pub struct Extent {
    pub images: usize,
    /// Of features and logits.
    pub low: [usize; 2],
    /// Of labels.
    pub full: [usize; 2],
    /// The image that the stem pools.
    stem: [usize; 3],
    /// Depths of features: the head's four class maps, and on a GPU the backbone's.
    pub depths: &'static [usize],
}

const LARGE: Extent =
    Extent { images: 2, low: [92, 92], full: [730, 730], stem: [365, 365, 64], depths: &[4 * CLASSES, 2048] };
const SMALL: Extent = Extent { images: 4, low: [13, 17], full: [96, 128], stem: [48, 64, 16], depths: &[4 * CLASSES] };

impl Extent {
    /// Two crops of the published size on a GPU, four of the miniature preset on the CPU.
    pub fn of(bench: &Bench) -> Self {
        if bench.device.is_cpu() { SMALL } else { LARGE }
    }

    pub fn image(&self, [height, width]: [usize; 2], channels: usize) -> Vec<usize> {
        vec![self.images, height, width, channels]
    }

    /// Regions of one class each, one in ten of them 255.
    pub fn labels(&self, [height, width]: [usize; 2]) -> Result<Tensor> {
        let label = |i: usize| {
            let (y, x) = (i / width % height * 9 / height, i % width * 9 / width);
            let region = (i / (height * width) * 9 + y) * 9 + x;
            if region % 10 == 3 { 255 } else { (region * 7 % CLASSES) as u8 }
        };
        let labels = (0..self.images * height * width).map(label).collect();
        Tensor::from_vec(labels, &[self.images, height, width], &Device::cpu())
    }
}

pub fn dtypes(bench: &Bench) -> &'static [DType] {
    if bench.device.is_cpu() { &[DType::F32] } else { &[DType::F32, DType::Bf16] }
}

pub fn rows(bench: &mut Bench) -> Result<()> {
    let extent = Extent::of(bench);
    let [height, width] = extent.full;
    let low = Held::new(extent.labels(extent.low)?, bench)?;
    let full = Held::new(extent.labels(extent.full)?, bench)?;
    let counts = Tensor::from_vec(vec![1u32; extent.images * CLASSES], &[extent.images, CLASSES], &Device::cpu())?;
    let counts = Held::new(counts, bench)?;
    let overlap = Tensor::from_vec(vec![1u8; extent.images * CLASSES], &[extent.images, CLASSES], &Device::cpu())?;
    let overlap = Held::new(overlap, bench)?;

    let pool = MaxPool2dSpec { kernel: [3, 3], stride: [2, 2], padding: [1, 1], ceil_mode: true };
    let weights = SegmentationWeights { cross_entropy: 1.0, entropy: 0.4 };
    let prototypes = |v: &[Var]| Prototypes { vectors: v[1].clone(), counts: counts.beside(&v[0]).clone() };
    let pooled = |v: &[Var]| Ok(ops::masked_average_pool(&v[0], low.beside(&v[0]), CLASSES)?.vectors);
    let similarity = |v: &[Var]| ops::pixel_prototype_similarity(&v[0], &prototypes(v));
    let contrast =
        |v: &[Var]| ops::contrastive_loss(&v[0], full.beside(&v[0]), &prototypes(v), overlap.beside(&v[0]), 0.1);
    let cpu = bench.device.is_cpu();
    type Run<'a> = &'a dyn Fn(&[Var]) -> Result<Var>;
    let mut row = |op, shape: String, inputs: Vec<Vec<usize>>, more_bytes, run: Run| {
        for &dtype in dtypes(bench) {
            let (shape, inputs) = (shape.clone(), inputs.clone());
            // Prototypes [N,C,d], beside features.
            let sums_from = if inputs.get(1).is_some_and(|shape| shape.len() == 3) { 1 } else { usize::MAX };
            // On the CPU the fused loss has its gradient from the forward pass; benches/step.rs times both together.
            let passes = if cpu && op == "segmentation_loss" { &PASSES[..1] } else { &PASSES[..] };
            bench.problem(&Problem {
                op,
                shape,
                inputs,
                dtype,
                sums_from,
                passes,
                operations: 0.0,
                more_bytes,
                run,
            })?;
        }
        Ok::<(), bicl::Error>(())
    };

    let [rows, columns, channels] = extent.stem;
    let stem = extent.image([rows, columns], channels);
    row("max_pool2d", by(&stem), vec![stem], 0, &|v| ops::max_pool2d(&v[0], &pool))?;
    let logits = extent.image(extent.low, CLASSES);
    let resized = format!("{} {height}x{width}", by(&logits));
    let one = || vec![logits.clone()];
    row("upsample_bilinear", resized.clone(), one(), 0, &|v| ops::upsample_bilinear(&v[0], height, width))?;
    row("cross_entropy", by(&logits), one(), low.bytes(), &|v| ops::cross_entropy(&v[0], low.beside(&v[0])))?;
    row("entropy", by(&logits), one(), 0, &|v| ops::entropy(&v[0]))?;
    let fused = |v: &[Var]| Ok(ops::segmentation_loss(&v[0], full.beside(&v[0]), weights)?.total);
    row("segmentation_loss", resized, one(), full.bytes(), &fused)?;
    for &depth in extent.depths {
        let features = extent.image(extent.low, depth);
        let vectors = vec![extent.images, CLASSES, depth];
        let shape = format!("{} C{CLASSES}", by(&features));
        row("prototypes", shape.clone(), vec![features.clone()], low.bytes(), &pooled)?;
        let both = vec![features.clone(), vectors];
        row("similarity", shape, both.clone(), counts.bytes(), &similarity)?;
        let shape = format!("{} {height}x{width} C{CLASSES}", by(&features));
        row("contrastive_loss", shape, both, full.bytes(), &contrast)?;
    }
    row("weighted_sum", "2 scalars".into(), vec![vec![]; 2], 0, &|v| ops::weighted_sum(&[(&v[0], 0.1), (&v[1], 0.1)]))
}
