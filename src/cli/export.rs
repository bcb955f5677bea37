//! `export`: a network for other programs.

use std::path::PathBuf;

use serde_json::json;

use super::{WeightsArgs, output};
use crate::{
    Device, Error,
    train::{
        open_network,
        weights::{self, ExportFormat, ExportOptions, Whose},
    },
};

#[derive(clap::Args, Debug)]
pub(super) struct ExportArgs {
    /// A checkpoint, a run folder, or a file of weights.
    checkpoint: PathBuf,
    /// The file to write: .safetensors (tools/load_in_torch.py loads it) or .onnx.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Whose statistics and stem, where the domains have their own: target, as predict uses them, or source.
    #[arg(long, value_name = "NAME", default_value = "target", value_parser = ["target", "source"])]
    domain: String,
    /// ONNX: the input is an image's levels 0..255, red, green, blue, and the graph normalises them.
    #[arg(long)]
    normalize_inside: bool,
    /// ONNX: the output is each pixel's class instead of the logits.
    #[arg(long)]
    argmax: bool,
    #[command(flatten)]
    given: WeightsArgs,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let format = ExportFormat::of(&args.out)?;
    if format != ExportFormat::Onnx && (args.normalize_inside || args.argmax) {
        let message = "--normalize-inside and --argmax are for .onnx; drop them or write .onnx";
        return Err(Error::data(&args.out, message).into());
    }
    let path = super::checkpoint(&args.checkpoint)?;
    let (network, config, report) = open_network(&path, args.given.given(), &Device::cpu())?;
    let whose = if args.domain == "source" { Whose::Source } else { Whose::Target };
    let options = ExportOptions { whose, normalize_inside: args.normalize_inside, argmax: args.argmax };
    let tensors = weights::export(&network, &config, &args.out, options)?;
    if args.json {
        return output::line(json!({ "out": output::json_path(&args.out), "tensors": tensors, "weights": report }));
    }
    report.iter().flat_map(weights::Report::lines).try_for_each(output::line)?;
    output::line(format_args!("{}: {tensors} tensors", args.out.display()))
}
