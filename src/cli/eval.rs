//! `eval`: the scores of a checkpoint on labelled images.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use serde_json::json;

use super::{Domain, WeightsArgs, confusion_file, output};
use crate::{
    Error,
    data::{ClassList, Dataset, LabelSource, Split, write},
    train::{self, Confusion, Looks, Scored, weights},
};

#[derive(clap::Args, Debug)]
pub(super) struct EvalArgs {
    /// A checkpoint, a run folder, or a file of weights (.pth, .safetensors).
    checkpoint: PathBuf,
    /// Folder with cityscapes/ and so on; by default the folders of the run.
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// The data set (`trainer datasets` lists them) or a description's file.toml: by default the run's target.
    #[arg(long, value_name = "NAME")]
    dataset: Option<Domain>,
    /// train or val.
    #[arg(long, value_name = "SPLIT", default_value = "val", value_parser = ["train", "val"])]
    split: String,
    /// Write the confusion matrix: FILE.csv with pixels by true class (row) and predicted class (column), or FILE.png with the
    /// shares of each row.
    #[arg(long, value_name = "FILE", value_parser = confusion_file::path)]
    confusion: Option<PathBuf>,
    /// Write the scores of each image as CSV.
    #[arg(long, value_name = "FILE")]
    per_image: Option<PathBuf>,
    /// Factors on the size that the network sees, with commas between: the mean of the probabilities at full size is scored.
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', default_value = "1", value_parser = factor)]
    scales: Vec<f64>,
    /// Look at each image mirrored too.
    #[arg(long)]
    flip: bool,
    /// Look at large images through windows of this size, 512x1024, that overlap by half.
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = window)]
    sliding_window: Option<Window>,
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

/// Height and width.
type Window = [usize; 2];

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (0.1..=8.0).contains(factor));
    factor.ok_or_else(|| "use factors from 0.1 to 8, as in 0.5,1,1.5".into())
}

fn window(text: &str) -> Result<Window, String> {
    let sides = text.split_once('x').and_then(|(height, width)| Some([height.parse().ok()?, width.parse().ok()?]));
    sides
        .filter(|sides: &Window| sides.iter().all(|side| (32..=16384).contains(side)))
        .ok_or_else(|| "use height x width in pixels, 32 to 16384 each, as in 512x1024".into())
}

/// One line of the table of images: its name, mean IoU, pixel accuracy, and the IoU of each class, empty where there is none.
fn image_line(name: &str, confusion: &Confusion, classes: &ClassList) -> String {
    let scores = confusion.scores(classes);
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!(",{value:.6}"));
    let cell = |value: Option<f64>| if value.is_some() { number(value) } else { ",".into() };
    let values = [scores.miou, scores.pixel_accuracy].into_iter().chain(scores.iou.iter().copied());
    confusion_file::quoted(name) + &values.map(cell).collect::<String>() + "\n"
}

pub(super) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let split = match args.split.as_str() {
        "train" => Split::Train,
        _ => Split::Val,
    };
    let path = super::checkpoint(&args.checkpoint)?;
    let device = super::device(args.device.as_deref(), args.no_autotune)?;
    let (network, config, report) = train::open_network(&path, args.given.given(), &device)?;
    let set = args.dataset.as_ref().map_or(&config.data.target, |domain| &domain.description);
    let named = args.dataset.as_ref().and_then(|domain| domain.root.clone());
    let root = match (named, &args.data_root) {
        (Some(root), _) => root,
        (None, Some(root)) => set.root_in(root),
        (None, None) if *set == config.data.source => config.data.source_root.clone(),
        (None, None) => config.data.target_root.clone(),
    };
    let dataset = Arc::new(Dataset::open(set, &root, split, &LabelSource::Truth)?);
    dataset.expect_ids()?;
    let classes = config.data.classes();
    let names: Vec<String> =
        (0..config.model.classes).map(|class| confusion_file::quoted(&classes.name(class))).collect();
    let mut lines = format!("image,miou,pixel_accuracy,{}\n", names.join(","));
    let (transform, threads) = (config.data.eval_transform(), config.data.threads);
    let seen = |image: Scored<'_>| {
        if args.per_image.is_some() {
            lines.push_str(&image_line(image.name, image.confusion, classes));
        }
        ControlFlow::Continue(())
    };
    let outputs = config.model.classes;
    let looks = Looks { scales: args.scales.clone(), flip: args.flip, window: args.sliding_window };
    let confusion = match looks.is_plain() {
        true => train::evaluate(&network, &dataset, transform, threads, outputs, seen)?,
        false => train::evaluate_looks(&network, &dataset, transform, &looks, outputs, seen)?,
    };
    let confusion = confusion.ok_or_else(|| Error::Internal("the evaluation broke off".into()))?;
    let scores = confusion.scores(classes);
    if let Some(file) = &args.confusion {
        confusion_file::write(file, &confusion, classes)?;
    }
    if let Some(file) = &args.per_image {
        write::atomically(file, lines.as_bytes())?;
    }
    if args.json {
        let checkpoint = output::json_path(&path);
        output::line(json!({
            "checkpoint": checkpoint, "dataset": set.name(), "split": args.split, "scores": scores, "weights": report,
        }))
    } else {
        report.iter().flat_map(weights::Report::lines).try_for_each(output::line)?;
        output::line(format_args!(
            "{} on {} images of {}\n\n{}",
            path.display(),
            scores.images,
            root.display(),
            train::scores_table(&scores, classes).trim_end()
        ))
    }
}
