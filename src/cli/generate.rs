//! `generate`: the miniature pair of domains as a data set of its own.

use std::path::PathBuf;

use serde_json::json;

use super::output;
use crate::data::miniature::{self, Options};

#[derive(clap::Args, Debug)]
pub(super) struct GenerateArgs {
    /// Folder to write gta5/ and cityscapes/ into; a folder that holds the same data set already stays as it is.
    folder: PathBuf,
    /// Seed of the scenes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Labelled source images.
    #[arg(long, value_name = "N", default_value_t = Options::default().source_images)]
    source_images: usize,
    /// Unlabelled target images to train on.
    #[arg(long, value_name = "N", default_value_t = Options::default().target_train)]
    target_train: usize,
    /// Labelled target images to score on.
    #[arg(long, value_name = "N", default_value_t = Options::default().target_val)]
    target_val: usize,
    /// Width in pixels.
    #[arg(long, default_value_t = Options::default().width)]
    width: usize,
    /// Height in pixels.
    #[arg(long, default_value_t = Options::default().height)]
    height: usize,
    /// How far the target's style is from the source's: 0 the same, 1 as in the demo, up to 1.5.
    #[arg(long, default_value_t = Options::default().gap)]
    gap: f32,
    /// Write labels of the target's training images too: to train an oracle on them, or to score pseudo labels.
    #[arg(long)]
    oracle_labels: bool,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let options = Options {
        seed: args.seed,
        source_images: args.source_images,
        target_train: args.target_train,
        target_val: args.target_val,
        width: args.width,
        height: args.height,
        oracle_labels: args.oracle_labels,
        gap: args.gap,
    };
    let report = miniature::generate(&args.folder, &options)?;
    let folder = args.folder.display();
    if args.json {
        let folder = output::json_path(&args.folder);
        output::line(json!({ "folder": folder, "images": report.images, "reused": report.reused }))
    } else if report.reused {
        output::line(format_args!("{folder} holds these {} images already", report.images))
    } else {
        output::line(format_args!(
            "{} images in {folder}; train on them with: trainer --preset miniature --data-root {folder}",
            report.images
        ))
    }
}
