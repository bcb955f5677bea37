//! A network straight from a file of weights, to evaluate or predict with.

use std::path::Path;

use super::{about, convention::Convention, import::Import, report::Report};
use crate::{
    Device, Error, Result,
    train::{Config, Network, Preset},
};

/// What is said about a file beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given {
    /// Whose weights they are; a file of our own says that itself.
    pub convention: Option<Convention>,
    /// Length of the shorter side of the network's input; by default the file's word, else the images' own size.
    pub short_side: Option<usize>,
}

/// The network whose depth, widths and classes the file's tensors have, filled.
///
/// Errors: a file that says nothing of its convention where `given` does not either, one without a head or with less than
/// a whole backbone; all of [`Import::open`] and [`Import::fill`].
pub fn open_weights(path: &Path, given: Given, device: &Device) -> Result<(Network, Config, Report)> {
    let import = Import::open(path)?;
    let said = about::said(import.file())?;
    let given_convention = given.convention.map(|convention| (convention.layout(), convention.normalize()));
    let (layout, normalize) = match (given_convention, said) {
        (Some(given), Some(said)) if given != (said.layout, said.normalize) => {
            let message =
                format!("says that it is of layout {} for input {}; drop --weights", said.layout, said.normalize);
            return Err(Error::data(path, message));
        }
        (Some(given), _) => given,
        (None, Some(said)) => (said.layout, said.normalize),
        (None, None) => {
            let message = "does not say whose weights it holds; add --weights caffe or --weights torchvision";
            return Err(Error::data(path, message));
        }
    };
    let looks = import.looks();
    let model = looks.model(layout).ok_or_else(|| {
        let what = match looks.backbone {
            Some(_) => format!("holds {looks} without a head of DeepLab's; train it with --init-weights"),
            None => format!("holds {looks}; name a file with a whole network"),
        };
        Error::data(path, what)
    })?;
    let mut config = Preset::Paper.config();
    config.data.class_list = Some(about::classes_of(import.file(), model.classes)?);
    config.model = model;
    config.data.normalize = normalize;
    config.data.eval_short_side = given.short_side.or(said.map(|said| said.short_side)).unwrap_or(0);
    config.validate()?;
    let mut network = import.network(&config, device)?;
    let report = import.fill(&mut network, &config, false)?;
    Ok((network, config, report))
}
