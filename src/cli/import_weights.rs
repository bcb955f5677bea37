//! `import-weights`: a checkpoint from weights that another program trained.

use std::path::PathBuf;

use serde_json::json;

use super::output;
use crate::{
    Device,
    train::{
        Checkpoint, Config, Preset,
        weights::{Convention, Import},
    },
};

#[derive(clap::Args, Debug)]
pub(super) struct ImportArgs {
    /// Safetensors or PyTorch file (.pth, .pt) with torchvision's names (conv1.weight, layer1.0.bn1.running_mean, ...), as a
    /// state dict, in one, or with prefixes like module. and backbone.; filters as [K,C,R,S].
    file: PathBuf,
    /// The checkpoint to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The network's preset.
    #[arg(long, value_name = "NAME", default_value = "paper")]
    preset: Preset,
    /// Whose weights: caffe or torchvision. Sets model.layout and data.normalize.
    #[arg(long, value_name = "NAME")]
    weights: Option<Convention>,
    /// One setting: --set model.backbone=resnet50 (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Take what fits of a file that fills less than the backbone.
    #[arg(long)]
    partial: bool,
    /// Print what was taken as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let config = Config::resolve(args.preset, None, &super::assignments(args.weights, &args.set))?;
    let import = Import::open(&args.file)?;
    let mut network = import.network(&config, &Device::cpu())?;
    let report = import.fill(&mut network, &config, args.partial)?;
    Checkpoint::of_weights(&config)?.write(&args.out, &network.parameters)?;
    if args.json {
        return output::line(json!({ "checkpoint": output::json_path(&args.out), "report": report }));
    }
    report.lines().iter().try_for_each(output::line)?;
    output::line(format_args!("{}: the checkpoint", args.out.display()))
}
