//! A network from any file that holds one: a checkpoint, or weights of another program.

use std::path::Path;

use crate::{
    Device, Error, Result,
    models::DeepLab,
    train::{
        Config, Network,
        weights::{CHECKPOINT_KEY, Given, Report, WeightsFile, import, open_weights},
    },
};

/// What a run's network starts from: the file's weights where one is given; else the initial ones, which the target shares.
pub(super) fn initial_weights(
    network: &mut Network,
    config: &Config,
    file: Option<&Path>,
    partial: bool,
) -> Result<Option<Report>> {
    match file {
        Some(file) => import(network, config, file, partial).map(Some),
        None => DeepLab::copy_source_to_target(&mut network.parameters).map(|()| None),
    }
}

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
