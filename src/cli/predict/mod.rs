//! `predict`: label maps, overlays and the like of any images.

mod jobs;
mod pictures;
mod pipeline;
mod predicted;
mod video;

use std::path::PathBuf;

use pictures::{Ids, Kind, Pictures};
use serde_json::json;

use super::{WeightsArgs, output};
use crate::train::{self, weights};

#[derive(clap::Args, Debug)]
pub(super) struct PredictArgs {
    /// An image, a folder of images (png, jpg, webp, bmp, tif) with its subfolders, or a video, which the system's ffmpeg reads and
    /// writes.
    input: PathBuf,
    /// A checkpoint, a run folder, or a file of weights (.pth, .safetensors).
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// Folder for the pictures.
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    out: PathBuf,
    /// What is written of each image, with commas between.
    #[arg(long, value_name = "KINDS", value_enum, value_delimiter = ',', default_value = "labels,overlay")]
    write: Vec<Kind>,
    /// How label maps number the classes.
    #[arg(long, value_name = "IDS", value_enum, default_value = "train")]
    ids: Ids,
    #[command(flatten)]
    given: WeightsArgs,
    /// cpu, cuda or cuda:N.
    #[arg(long, value_parser = super::device_name)]
    device: Option<String>,
    /// Time no kernels: take those of the heuristic, as `trainer --no-autotune` does.
    #[arg(long)]
    no_autotune: bool,
    /// Print the written files as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PredictArgs) -> anyhow::Result<()> {
    let device = super::device(args.device.as_deref(), args.no_autotune)?;
    let video = video::is_video(&args.input);
    let jobs = if video { Vec::new() } else { jobs::jobs(&args.input, &args.out)? };
    let checkpoint = super::checkpoint(&args.checkpoint)?;
    let (network, config, report) = train::open_network(&checkpoint, args.given.given(), &device)?;
    let pictures = Pictures::new(&args.write, args.ids, config.data.classes(), config.model.classes)?;
    if !args.json {
        report.iter().flat_map(weights::Report::lines).try_for_each(output::line)?;
    }
    if video {
        let (file, frames) = video::predict(&args.input, &args.out, &network, config.data.eval_transform(), &pictures)?;
        return match args.json {
            true => output::line(json!({ "video": output::json_path(&file), "frames": frames, "weights": report })),
            false => output::line(format_args!("{} -> {} ({frames} frames)", args.input.display(), file.display())),
        };
    }
    let (mut written, mut failed) = (Vec::new(), Vec::new());
    pipeline::run(&network, config.data.eval_transform(), &jobs, &pictures, |job, files| {
        let image = output::json_path(&job.image);
        match files {
            Ok(files) => {
                if !args.json {
                    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                    output::line(format_args!("{} -> {}", job.image.display(), names.join(", ")))?;
                }
                let mut entry = json!({ "image": image });
                for (kind, file) in args.write.iter().zip(&files) {
                    entry[format!("{kind:?}").to_lowercase()] = json!(output::json_path(file));
                }
                written.push(entry);
            }
            Err(error) => {
                if !args.json {
                    output::line(format_args!("failed: {error}"))?;
                }
                failed.push(json!({ "image": image, "error": error.to_string() }));
            }
        }
        Ok(())
    })?;
    if args.json {
        output::line(json!({ "predictions": written, "failed": failed, "weights": report }))?;
    }
    match failed.first() {
        None => Ok(()),
        Some(first) if jobs.len() == 1 => anyhow::bail!("{}", first["error"].as_str().unwrap_or_default()),
        Some(first) => anyhow::bail!(
            "{} of {} images failed, the first: {}",
            failed.len(),
            jobs.len(),
            first["error"].as_str().unwrap_or_default()
        ),
    }
}
