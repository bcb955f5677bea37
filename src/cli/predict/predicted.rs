//! What the network says of an image.

use crate::{
    Result,
    data::{LabelMap, RgbImage},
    ops::{PredictSpec, predict},
    train::Network,
};

/// A prediction at the image's size.
pub(super) struct Predicted {
    pub image: RgbImage,
    pub labels: LabelMap,
    /// The largest probability of each pixel, where it is asked for.
    pub confidence: Option<Vec<f32>>,
}

/// The network's answer for one image.
pub(super) fn infer(
    network: &Network,
    image: RgbImage,
    input: (usize, usize, Vec<f32>),
    confidence: bool,
) -> Result<Predicted> {
    let (width, height, values) = input;
    let logits = network.logits(&network.image(values, height, width)?)?;
    let spec = PredictSpec { confidence, thresholds: None };
    let prediction = predict(&logits, image.height(), image.width(), spec)?;
    let labels = LabelMap::new(image.width(), image.height(), prediction.labels.to_vec::<u8>()?)?;
    let confidence = prediction.confidence.map(|values| values.to_vec::<f32>()).transpose()?;
    Ok(Predicted { image, labels, confidence })
}
