//! `export`: a checkpoint's network for other programs.

use std::path::PathBuf;

use serde_json::json;

use super::output;
use crate::{
    Device,
    train::{Network, weights},
};

#[derive(clap::Args, Debug)]
pub(super) struct ExportArgs {
    /// A checkpoint, or a run folder.
    checkpoint: PathBuf,
    /// The safetensors file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let (network, _) = Network::open(&super::checkpoint(&args.checkpoint)?, &Device::cpu())?;
    weights::export(&network.parameters, &args.out)?;
    let (tensors, numbers) = (network.parameters.ids().count(), network.parameters.count());
    if args.json {
        output::line(json!({ "out": output::json_path(&args.out), "tensors": tensors, "numbers": numbers }))
    } else {
        output::line(format_args!("{}: {tensors} tensors, {numbers} numbers", args.out.display()))
    }
}
