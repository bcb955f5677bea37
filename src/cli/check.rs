//! `check`: read a run's data before training on it.

use std::path::PathBuf;

use serde_json::json;

use super::{Preset, TrainArgs, output};
use crate::data::{Dataset, DatasetKind, IGNORE, LabelSource, Split, classes};

#[derive(clap::Args, Debug)]
pub(super) struct CheckArgs {
    /// Labelled data set: gta5 or synthia.
    #[arg(long, value_name = "NAME", default_value = "gta5")]
    source: DatasetKind,
    /// Unlabelled data set: cityscapes.
    #[arg(long, value_name = "NAME", default_value = "cityscapes")]
    target: DatasetKind,
    /// Folder with gta5/, synthia/, cityscapes/ as their downloads unpack.
    #[arg(long, value_name = "DIR", required_unless_present_all = ["source_root", "target_root"])]
    data_root: Option<PathBuf>,
    /// Folder of the source, where it is not in the data root.
    #[arg(long, value_name = "DIR")]
    source_root: Option<PathBuf>,
    /// Folder of the target, where it is not in the data root.
    #[arg(long, value_name = "DIR")]
    target_root: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

struct Part {
    name: &'static str,
    images: usize,
    /// Pixels of each class; empty for unlabelled images.
    pixels: Vec<u64>,
    problems: Vec<String>,
}

fn read(name: &'static str, dataset: crate::Result<Dataset>, labelled: bool) -> Part {
    let mut part = Part { name, images: 0, pixels: Vec::new(), problems: Vec::new() };
    let dataset = match dataset {
        Ok(dataset) => dataset,
        Err(error) => {
            part.problems.push(error.to_string());
            return part;
        }
    };
    part.pixels = vec![0; if labelled { classes::CLASSES } else { 0 }];
    for index in 0..dataset.len() {
        match dataset.read(index) {
            Ok(example) => {
                part.images += 1;
                let ids = example.labels.iter().flat_map(|labels| labels.ids()).filter(|&&id| id != IGNORE);
                for &id in ids {
                    if let Some(count) = part.pixels.get_mut(usize::from(id)) {
                        *count += 1;
                    }
                }
            }
            Err(error) => part.problems.push(error.to_string()),
        }
    }
    part
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let train = TrainArgs {
        source: Some(args.source),
        target: Some(args.target),
        data_root: args.data_root.clone(),
        source_root: args.source_root.clone(),
        target_root: args.target_root.clone(),
        ..TrainArgs::default()
    };
    let data = train.resolve(Preset::Paper)?.data;
    let open = |kind, root: &PathBuf, split, labels| Dataset::open(kind, root, split, &labels);
    let source = open(data.source, &data.source_root, Split::Train, LabelSource::Truth);
    let target = open(data.target, &data.target_root, Split::Train, LabelSource::None);
    let validation = open(data.target, &data.target_root, Split::Val, LabelSource::Truth);
    let parts =
        [read("source train", source, true), read("target train", target, false), read("target val", validation, true)];
    let problems: usize = parts.iter().map(|part| part.problems.len()).sum();
    if args.json {
        let part = |part: &Part| json!({ "part": part.name, "images": part.images, "pixels": part.pixels, "problems": part.problems });
        output::line(json!({ "parts": parts.iter().map(part).collect::<Vec<_>>() }))?;
    } else {
        for part in &parts {
            output::line(format_args!("{}: {} images", part.name, part.images))?;
            let total: u64 = part.pixels.iter().sum::<u64>().max(1);
            for (class, &count) in part.pixels.iter().enumerate().filter(|(_, count)| **count > 0) {
                let share = 100.0 * count as f64 / total as f64;
                output::line(format_args!("  {:<14} {share:>5.1} % of labelled pixels", classes::NAMES[class]))?;
            }
            for problem in &part.problems {
                output::line(format_args!("  problem: {problem}"))?;
            }
        }
    }
    match problems {
        0 => Ok(()),
        _ => anyhow::bail!("{problems} problems in {} and {}", data.source_root.display(), data.target_root.display()),
    }
}
