//! Predictions on target images as pictures: the image, the truth where there is one, and the prediction in a row.

use std::{fs, path::Path, sync::Arc};

use super::evaluate::predict_image;
use crate::{
    Error, Result,
    data::{ClassList, Dataset, EvalTransform, LabelMap, RgbImage, write},
    train::Network,
};

/// The colours of a map of train ids; ignored pixels are black.
pub fn colorize(labels: &LabelMap, classes: &ClassList) -> Result<RgbImage> {
    let palette = classes.palette();
    let color = |&id: &u8| palette[usize::from(id)];
    RgbImage::new(labels.width(), labels.height(), labels.ids().iter().flat_map(color).collect())
}

/// Images of one size side by side.
fn in_a_row(images: &[&RgbImage]) -> Result<RgbImage> {
    let (width, height) = images.first().map_or((0, 0), |image| (image.width(), image.height()));
    let mut pixels = Vec::with_capacity(images.len() * width * height * 3);
    for y in 0..height {
        for image in images {
            pixels.extend_from_slice(image.row(y));
        }
    }
    RgbImage::new(width * images.len(), height, pixels)
}

/// Writes `count` pictures, spread evenly over the data set, into `folder`.
pub(in crate::train) fn write(
    network: &Network,
    dataset: &Arc<Dataset>,
    transform: EvalTransform,
    classes: &ClassList,
    count: usize,
    folder: &Path,
) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    for index in (0..dataset.len()).step_by(dataset.len().div_ceil(count)) {
        let example = dataset.read(index)?;
        let (width, height, values) = transform.apply(&example.image)?;
        let input = network.image(values, height, width)?;
        let (full_width, full_height) = (example.image.width(), example.image.height());
        let predicted = predict_image(network, &input, (full_height, full_width))?.labels.to_vec::<u8>()?;
        let predicted = colorize(&LabelMap::new(full_width, full_height, predicted)?, classes)?;
        let truth = example.labels.as_ref().map(|labels| colorize(labels, classes)).transpose()?;
        let images: Vec<&RgbImage> =
            [Some(&example.image), truth.as_ref(), Some(&predicted)].into_iter().flatten().collect();
        write::image_png(&folder.join(format!("{}.png", example.name)), &in_a_row(&images)?)?;
    }
    Ok(())
}
