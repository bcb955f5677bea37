//! Scoring a network on a labelled data set, at the images' full size.

use std::{ops::ControlFlow, sync::Arc};

use super::confusion::Confusion;
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

/// An image that was scored.
pub struct Scored<'a> {
    /// Images done, this one included.
    pub done: usize,
    /// The item's name.
    pub name: &'a str,
    /// The image's own counts.
    pub confusion: &'a Confusion,
}

/// The confusion matrix over a whole data set; `seen` is called after each image. `None` where it breaks off.
///
/// Errors: labels with more classes than the network has outputs (before anything is read), broken files.
pub fn evaluate(
    network: &Network,
    dataset: &Arc<Dataset>,
    transform: EvalTransform,
    threads: usize,
    classes: usize,
    mut seen: impl FnMut(Scored<'_>) -> ControlFlow<()>,
) -> Result<Option<Confusion>> {
    let described = dataset.description();
    if described.classes().len() > classes {
        return Err(Error::Config(format!(
            "the network tells {classes} classes apart, the labels of {} have {}; use labels of the network's own classes",
            described.title(),
            described.classes().len()
        )));
    }
    let mut confusion = Confusion::new(classes);
    for example in EvalLoader::new(dataset.clone(), transform, threads)? {
        let example = example?;
        let truth = example.labels.as_ref().ok_or_else(|| {
            Error::data(dataset.root(), format!("image {} has no label; evaluation needs labels", example.name))
        })?;
        let image = network.image(example.image, example.height, example.width)?;
        let predicted = predict_image(network, &image, example.full_size)?.labels.to_vec::<u8>()?;
        let mut own = Confusion::new(classes);
        own.add(truth.ids(), &predicted)?;
        confusion.merge(&own)?;
        if seen(Scored { done: confusion.images(), name: &example.name, confusion: &own }).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(confusion))
}
