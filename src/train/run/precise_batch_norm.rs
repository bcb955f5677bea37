//! Batch norm's statistics of the target, measured anew: "precise" batch norm.
//!
//! The running statistics of training are those of the last ten or so batches of jittered crops. Predictions want those of
//! whole target images: the mean over the training images, each normalised by its own, of the mean and of the variance of
//! every channel. Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021.

use std::sync::Arc;

use super::Interrupt;
use crate::{
    Result,
    data::{Dataset, EvalLoader},
    nn::{Domain, Forward},
    train::{Config, Network, report::Log},
};

/// Replaces the running statistics by the mean over `dataset`. False where the user interrupted, which leaves a mean over
/// some of the images: measure again.
pub(super) fn measure_statistics(
    network: &mut Network,
    dataset: &Arc<Dataset>,
    config: &Config,
    log: &Log,
    interrupt: &Interrupt,
) -> Result<bool> {
    let mut progress = log.progress("statistics", dataset.len() as u64, 0);
    for (index, example) in
        EvalLoader::new(dataset.clone(), config.data.eval_transform(), config.data.threads)?.enumerate()
    {
        let example = example?;
        if interrupt.is_set() {
            return Ok(false);
        }
        let image = network.image(example.image, example.height, example.width)?;
        let pass = Forward::measure(&network.parameters, network.precision);
        network.model.forward(&pass, &image, &[Domain::Target])?;
        // The first image has weight 1, so nothing of the former statistics remains.
        pass.statistics().apply_with(&mut network.parameters, 1.0 / (index + 1) as f64)?;
        progress.set(index as u64 + 1, str::to_owned);
    }
    progress.finish();
    Ok(true)
}
