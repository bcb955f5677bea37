//! Scoring a network on a labelled data set, at the images' full size.

use std::{ops::ControlFlow, sync::Arc};

use super::{
    confusion::Confusion,
    ensemble::{Looks, predict_looks},
};
use crate::{
    Error, Result, Tensor,
    data::{Dataset, EvalLoader, EvalTransform, LabelMap},
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

/// A confusion matrix that grows by images.
struct Tally<'a> {
    dataset: &'a Dataset,
    confusion: Confusion,
}

impl<'a> Tally<'a> {
    /// Errors where the labels have more classes than the network has outputs.
    fn new(dataset: &'a Dataset, classes: usize) -> Result<Self> {
        let described = dataset.description();
        if described.classes().len() > classes {
            return Err(Error::Config(format!(
                "the network tells {classes} classes apart, the labels of {} have {}; use labels of the network's own classes",
                described.title(),
                described.classes().len()
            )));
        }
        Ok(Self { dataset, confusion: Confusion::new(classes) })
    }

    fn add(
        &mut self,
        name: &str,
        truth: Option<&LabelMap>,
        predicted: &[u8],
        seen: &mut impl FnMut(Scored<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let root = self.dataset.root();
        let truth =
            truth.ok_or_else(|| Error::data(root, format!("image {name} has no label; evaluation needs labels")))?;
        let mut own = Confusion::new(self.confusion.classes());
        own.add(truth.ids(), predicted)?;
        self.confusion.merge(&own)?;
        Ok(seen(Scored { done: self.confusion.images(), name, confusion: &own }))
    }
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
    let mut tally = Tally::new(dataset, classes)?;
    for example in EvalLoader::new(dataset.clone(), transform, threads)? {
        let example = example?;
        let image = network.image(example.image, example.height, example.width)?;
        let predicted = predict_image(network, &image, example.full_size)?.labels.to_vec::<u8>()?;
        if tally.add(&example.name, example.labels.as_ref(), &predicted, &mut seen)?.is_break() {
            return Ok(None);
        }
    }
    Ok(Some(tally.confusion))
}

/// The same by several looks at each image.
pub fn evaluate_looks(
    network: &Network,
    dataset: &Dataset,
    transform: EvalTransform,
    looks: &Looks,
    classes: usize,
    mut seen: impl FnMut(Scored<'_>) -> ControlFlow<()>,
) -> Result<Option<Confusion>> {
    let mut tally = Tally::new(dataset, classes)?;
    for index in 0..dataset.len() {
        let example = dataset.read(index)?;
        let predicted = predict_looks(network, &example.image, transform, looks, classes)?;
        if tally.add(&example.name, example.labels.as_ref(), predicted.ids(), &mut seen)?.is_break() {
            return Ok(None);
        }
    }
    Ok(Some(tally.confusion))
}
