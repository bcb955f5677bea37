//! A network from any file that holds one: a checkpoint, or weights of another program.

use std::path::Path;

use crate::{
    Device, Error, Result,
    train::{
        Config, Network,
        weights::{CHECKPOINT_KEY, Given, Report, WeightsFile, open_weights},
    },
};

/// The network of a checkpoint or a file of weights, to evaluate, predict or export; of the latter the report too.
///
/// Errors: those of [`Network::open`] and [`open_weights`]; a `given` that a checkpoint contradicts.
pub fn open_network(path: &Path, given: Given, device: &Device) -> Result<(Network, Config, Option<Report>)> {
    if WeightsFile::open(path)?.text(CHECKPOINT_KEY).is_none() {
        let (network, config, report) = open_weights(path, given, device)?;
        return Ok((network, config, Some(report)));
    }
    let (network, mut config) = Network::open(path, device)?;
    if let Some(convention) = given.convention
        && (convention.layout(), convention.normalize()) != (config.model.layout, config.data.normalize)
    {
        let (layout, normalize) = (config.model.layout, config.data.normalize);
        return Err(Error::data(path, format!("is of layout {layout} for input {normalize}; drop --weights")));
    }
    config.data.eval_short_side = given.short_side.unwrap_or(config.data.eval_short_side);
    config.validate()?;
    Ok((network, config, None))
}
