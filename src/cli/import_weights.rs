//! `import-weights`: a checkpoint from weights that another program trained.

use std::path::PathBuf;

use serde_json::json;

use super::output;
use crate::{
    Device,
    train::{Checkpoint, Config, Network, Preset, weights},
};

#[derive(clap::Args, Debug)]
pub(super) struct ImportArgs {
    /// Safetensors file with torchvision's names (conv1.weight, layer1.0.bn1.running_mean, ...), filters as [K,C,R,S].
    weights: PathBuf,
    /// The checkpoint to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The network's preset.
    #[arg(long, value_name = "NAME", default_value = "paper")]
    preset: Preset,
    /// One setting: --set model.backbone=resnet50 (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print what was taken as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let config = Config::resolve(args.preset, None, &args.set)?;
    let mut network = Network::new(&config.model, config.precision, config.seed, &Device::cpu())?;
    let report = weights::import(&mut network.parameters, &args.weights)?;
    Checkpoint::of_weights(&config)?.write(&args.out, &network.parameters)?;
    if args.json {
        return output::line(json!({ "checkpoint": output::json_path(&args.out), "report": report }));
    }
    output::line(format_args!("{}: {} tensors taken", args.out.display(), report.loaded.len()))?;
    let list = |what: &str, names: &[String]| match names.first() {
        Some(first) => output::line(format_args!("{} {what}, the first is {first}", names.len())),
        None => Ok(()),
    };
    list("tensors of the network are not in the file and keep their initial values", &report.missing)?;
    list("tensors of the file have no place in the network", &report.unused)
}
