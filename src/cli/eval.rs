//! `eval`: the scores of a checkpoint on labelled images.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use serde_json::json;

use super::{WeightsArgs, output};
use crate::{
    Error,
    data::{Dataset, DatasetKind, LabelSource, Split},
    train::{self, weights},
};

#[derive(clap::Args, Debug)]
pub(super) struct EvalArgs {
    /// A checkpoint, a run folder, or a file of weights (.pth, .safetensors).
    checkpoint: PathBuf,
    /// Folder with cityscapes/ and so on; by default the folders of the run.
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// The data set: by default the run's target.
    #[arg(long, value_name = "NAME")]
    dataset: Option<DatasetKind>,
    /// train or val.
    #[arg(long, value_name = "SPLIT", default_value = "val", value_parser = ["train", "val"])]
    split: String,
    #[command(flatten)]
    given: WeightsArgs,
    /// cpu, cuda or cuda:N.
    #[arg(long, value_parser = super::device_name)]
    device: Option<String>,
    /// Time no kernels: take those of the heuristic, as `trainer --no-autotune` does.
    #[arg(long)]
    no_autotune: bool,
    /// Print the scores as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let split = match args.split.as_str() {
        "train" => Split::Train,
        _ => Split::Val,
    };
    let path = super::checkpoint(&args.checkpoint)?;
    let device = super::device(args.device.as_deref(), args.no_autotune)?;
    let (network, config, report) = train::open_network(&path, args.given.given(), &device)?;
    let kind = args.dataset.unwrap_or(config.data.target);
    let root = match &args.data_root {
        Some(root) => kind.root_in(root),
        None if kind == config.data.source => config.data.source_root.clone(),
        None => config.data.target_root.clone(),
    };
    let dataset = Arc::new(Dataset::open(kind, &root, split, &LabelSource::Truth)?);
    let (transform, threads) = (config.data.eval_transform(), config.data.threads);
    let scores =
        train::evaluate(&network, &dataset, transform, threads, config.model.classes, |_| ControlFlow::Continue(()))?;
    let scores = scores.ok_or_else(|| Error::Internal("the evaluation broke off".into()))?;
    if args.json {
        let checkpoint = output::json_path(&path);
        output::line(json!({
            "checkpoint": checkpoint, "dataset": kind, "split": args.split, "scores": scores, "weights": report,
        }))
    } else {
        report.iter().flat_map(weights::Report::lines).try_for_each(output::line)?;
        output::line(format_args!(
            "{} on {} images of {}\n\n{}",
            path.display(),
            scores.images,
            root.display(),
            train::scores_table(&scores).trim_end()
        ))
    }
}
