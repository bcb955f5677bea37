//! Scoring a network on a labelled data set, at the images' full size.

use std::{ops::ControlFlow, sync::Arc};

use super::metrics::{Confusion, Scores};
use crate::{
    Error, Result, Tensor,
    data::{Dataset, EvalLoader, EvalTransform},
    ops::{self, PredictSpec, Prediction},
    train::Network,
};

/// One prediction for a normalised image `[1,H,W,3]`, at `full` rows and columns.
pub fn predict_image(network: &Network, image: &Tensor, full: (usize, usize)) -> Result<Prediction> {
    ops::predict(&network.logits(image)?, full.0, full.1, PredictSpec::default())
}

/// The scores over a whole data set; `seen` is called with the number of images done. `None` where it breaks off.
pub fn evaluate(
    network: &Network,
    dataset: &Arc<Dataset>,
    transform: EvalTransform,
    threads: usize,
    classes: usize,
    mut seen: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Scores>> {
    let mut confusion = Confusion::new(classes);
    let mut images = 0;
    for example in EvalLoader::new(dataset.clone(), transform, threads)? {
        let example = example?;
        let truth = example.labels.as_ref().ok_or_else(|| {
            Error::data(dataset.root(), format!("image {} has no label; evaluation needs labels", example.name))
        })?;
        let image = network.image(example.image, example.height, example.width)?;
        let predicted = predict_image(network, &image, example.full_size)?.labels.to_vec::<u8>()?;
        confusion.add(truth.ids(), &predicted)?;
        images += 1;
        if seen(images).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(confusion.scores(images)))
}
