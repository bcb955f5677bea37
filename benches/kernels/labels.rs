//! Labels and what is done with them: nothing here has a gradient.

use bicl::{
    DType, Device, Result, Tensor,
    autograd::Var,
    ops::{self, PredictSpec},
};

use super::{
    harness::{Bench, Held, Pass, Problem, by},
    losses::{Extent, dtypes},
};

const CLASSES: usize = 19;
const PASSES: [(&str, Pass); 1] = [("forward", Pass::Forward)];

pub fn rows(bench: &mut Bench) -> Result<()> {
    let extent = Extent::of(bench);
    let (pairs, [height, width], [h, w]) = (extent.images, extent.full, extent.low);
    let full = Held::new(extent.labels(extent.full)?, bench)?;
    let low = Held::new(extent.labels(extent.low)?, bench)?;
    let present = Tensor::from_vec(vec![1u8; pairs * CLASSES], &[pairs, CLASSES], &Device::cpu())?;
    let present = Held::new(present, bench)?;
    let counts = Tensor::from_vec(vec![3u32; pairs * CLASSES], &[pairs, CLASSES], &Device::cpu())?;
    let counts = Held::new(counts, bench)?;

    let constant = |v: &[Var], result: Tensor| Ok(v[0].tape().constant(result));
    let spec = PredictSpec { confidence: false, thresholds: None };
    let predict = |v: &[Var]| constant(v, ops::predict(v[0].value(), height, width, spec)?.labels);
    let transfer = |v: &[Var]| {
        let labels = ops::transfer_labels(v[0].value(), v[1].value(), present.beside(&v[0]), 0.1, 0.0)?;
        constant(v, labels)
    };
    let calibrate = |v: &[Var]| constant(v, ops::calibrate(v[0].value(), v[1].value())?);
    let update = |v: &[Var]| {
        let mut xi = v[0].value().duplicate()?;
        let counts = counts.beside(&v[0]);
        ops::update_calibration(&mut xi, v[1].value(), counts, v[2].value(), counts, 0.99)?;
        constant(v, xi)
    };
    // These read no float; the operand only says where they run.
    let resize = |v: &[Var]| constant(v, ops::resize_labels_nearest(full.beside(&v[0]), h, w)?);
    let align = |v: &[Var]| constant(v, ops::align_labels(full.beside(&v[0]), h, w, 8)?);
    let hybrid = |v: &[Var]| constant(v, ops::hybrid_labels(full.beside(&v[0]), low.beside(&v[0]))?);
    let overlap = |v: &[Var]| constant(v, ops::class_overlap(counts.beside(&v[0]), counts.beside(&v[0]))?);

    type Run<'a> = &'a dyn Fn(&[Var]) -> Result<Var>;
    let (all, single) = (dtypes(bench), &[DType::F32][..]);
    let mut row = |op, shape: String, inputs: Vec<Vec<usize>>, dtypes: &[DType], more_bytes, run: Run| {
        for &dtype in dtypes {
            let (shape, inputs) = (shape.clone(), inputs.clone());
            // Prototypes [N,C,d], beside features.
            let sums_from = if inputs.get(1).is_some_and(|shape| shape.len() == 3) { 1 } else { usize::MAX };
            bench.problem(&Problem {
                op,
                shape,
                inputs,
                dtype,
                sums_from,
                passes: &PASSES,
                operations: 0.0,
                more_bytes,
                run,
            })?;
        }
        Ok::<(), bicl::Error>(())
    };
    let logits = extent.image(extent.low, CLASSES);
    row("argmax", by(&logits), vec![logits.clone()], all, 0, &|v| constant(v, ops::argmax(v[0].value())?))?;
    row("predict", format!("{} {height}x{width}", by(&logits)), vec![logits.clone()], all, 0, &predict)?;
    let split = |v: &[Var]| Ok(ops::split_images(&v[0], &[pairs])?.swap_remove(0));
    row("split_images", by(&logits), vec![logits], all, 0, &split)?;
    for &depth in extent.depths {
        let (features, vectors) = (extent.image(extent.low, depth), vec![pairs, CLASSES, depth]);
        let shape = format!("{} C{CLASSES}", by(&features));
        row("transfer_labels", shape, vec![features, vectors], all, present.bytes(), &transfer)?;
    }
    let (mean, vectors) = (vec![CLASSES, extent.depths[0]], vec![pairs, CLASSES, extent.depths[0]]);
    row("calibrate", by(&vectors), vec![mean.clone(), vectors.clone()], single, 0, &calibrate)?;
    let moved = vec![mean, vectors.clone(), vectors.clone()];
    row("update_calibration", by(&vectors), moved, single, 2 * counts.bytes(), &update)?;
    let (from, to) = (format!("{pairs}x{height}x{width}"), format!("{pairs}x{h}x{w}"));
    // The nearest label alone is read.
    row("resize_labels", format!("{from} {to}"), vec![vec![1]], single, low.bytes(), &resize)?;
    row("align_labels", format!("{from} {to}x8x8"), vec![vec![1]], single, full.bytes(), &align)?;
    row("hybrid_labels", format!("{from} {to}"), vec![vec![1]], single, full.bytes() + low.bytes(), &hybrid)?;
    row("class_overlap", format!("{pairs}x{CLASSES}"), vec![vec![1]], single, 2 * counts.bytes(), &overlap)
}
