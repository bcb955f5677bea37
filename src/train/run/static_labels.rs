//! Static pseudo labels for all target training images, before each round. docs/method.md, "Static pseudo labels".

use std::{fs, path::Path, sync::Arc};

use super::Interrupt;
use crate::{
    Error, Result, Tensor,
    adapt::{ConfidenceSample, Selection},
    data::{Dataset, EvalLoader, LabelMap, write},
    ops::{self, PredictSpec},
    train::{Config, Network, report::Log},
};

/// Low-resolution logits are kept between the two passes up to this many bytes in all; beyond, images are run twice.
const KEEP_BYTES: usize = 1 << 30;

/// What one image's first pass leaves for the second.
struct First {
    name: String,
    full: (usize, usize),
    image_value: f32,
    logits: Option<Tensor>,
}

/// A part of a prediction that was asked for.
fn wanted(part: Option<Tensor>) -> Result<Tensor> {
    part.ok_or_else(|| Error::Internal("a prediction lacks a part that was asked for".into()))
}

/// Writes one PNG of train ids per target image into `folder`, which appears only when all are there. Gives the share of
/// pixels kept, or `None` when the user interrupted.
pub(super) fn make_static_labels(
    network: &Network,
    dataset: &Arc<Dataset>,
    config: &Config,
    folder: &Path,
    log: &Log,
    interrupt: &Interrupt,
) -> Result<Option<f64>> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|error| Error::io(&partial, error))?;
    }
    fs::create_dir_all(&partial).map_err(|error| Error::io(&partial, error))?;
    let (classes, proportion) = (config.model.classes, config.method.cb_prop);
    let images = || EvalLoader::new(dataset.clone(), config.data.eval_transform(), config.data.threads);

    let mut sample = ConfidenceSample::new(classes);
    let mut firsts: Vec<First> = Vec::with_capacity(dataset.len());
    let mut kept_bytes = 0;
    let mut progress = log.progress("pseudo labels", 2 * dataset.len() as u64, 0);
    for example in images()? {
        let example = example?;
        if interrupt.is_set() {
            return Ok(None);
        }
        let image = network.image(example.image, example.height, example.width)?;
        let logits = network.logits(&image)?;
        let spec = PredictSpec { confidence: true, thresholds: None };
        let prediction = ops::predict(&logits, example.full_size.0, example.full_size.1, spec)?;
        let confidence = wanted(prediction.confidence)?.to_vec::<f32>()?;
        let image_value = sample.add_image(&prediction.labels.to_vec::<u8>()?, &confidence, proportion)?;
        kept_bytes += logits.len() * logits.dtype().size();
        let logits = (kept_bytes <= KEEP_BYTES).then_some(logits);
        firsts.push(First { name: example.name, full: example.full_size, image_value, logits });
        progress.set(firsts.len() as u64, str::to_owned);
    }

    let thresholds = sample.thresholds(proportion, &config.method.excluded_classes);
    let all_kept = firsts.iter().all(|first| first.logits.is_some());
    // Images whose logits were not kept are run again, in the same order.
    let mut again = if all_kept { None } else { Some(images()?) };
    let (mut kept, mut total) = (0, 0);
    for (index, first) in firsts.iter().enumerate() {
        if interrupt.is_set() {
            return Ok(None);
        }
        let example = again.as_mut().and_then(Iterator::next).transpose()?;
        let logits = match (&first.logits, example) {
            (Some(logits), _) => logits.clone(),
            (None, Some(example)) => network.logits(&network.image(example.image, example.height, example.width)?)?,
            (None, None) => return Err(Error::Internal(format!("image {} was not read again", first.name))),
        };
        let (height, width) = first.full;
        let spec = PredictSpec { confidence: true, thresholds: Some(&thresholds) };
        let prediction = ops::predict(&logits, height, width, spec)?;
        let mut labels = prediction.labels.to_vec::<u8>()?;
        let confidence = wanted(prediction.confidence)?.to_vec::<f32>()?;
        let reaches = wanted(prediction.reaches)?.to_vec::<u8>()?;
        let selection = Selection { image_value: first.image_value };
        kept += selection.apply(&mut labels, &confidence, &reaches);
        total += labels.len();
        write::label_png(&dataset.pseudo_label_path(&partial, index)?, &LabelMap::new(width, height, labels)?)?;
        progress.set((firsts.len() + index + 1) as u64, str::to_owned);
    }
    progress.finish();
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    fs::rename(&partial, folder).map_err(|error| Error::io(folder, error))?;
    Ok(Some(kept as f64 / f64::max(total as f64, 1.0)))
}
