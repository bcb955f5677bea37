//! `predict`: colour maps and overlays of any images.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::json;

use crate::{
    Error, Tensor,
    data::{LabelMap, RgbImage, decode, write},
    train::{self, Network},
};

/// Weight of the colours in an overlay.
const OPACITY: f32 = 0.5;

#[derive(clap::Args, Debug)]
pub(super) struct PredictArgs {
    /// An image, or a folder of .png and .jpg files.
    input: PathBuf,
    /// A checkpoint, or a run folder.
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// Folder for the pictures.
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    out: PathBuf,
    /// cpu, cuda or cuda:N.
    #[arg(long)]
    device: Option<String>,
    /// Print the written files as JSON.
    #[arg(long)]
    json: bool,
}

fn images(input: &Path) -> crate::Result<Vec<PathBuf>> {
    if !input.is_dir() {
        return Ok(vec![input.to_owned()]);
    }
    let entries = fs::read_dir(input).map_err(|error| Error::io(input, error))?;
    let is_image =
        |path: &PathBuf| path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["png", "jpg", "jpeg"].contains(&e));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_image).collect();
    paths.sort();
    if paths.is_empty() {
        return Err(Error::data(input, "holds no .png or .jpg image"));
    }
    Ok(paths)
}

fn blend(image: &RgbImage, colors: &RgbImage) -> crate::Result<RgbImage> {
    let mix = |(&a, &b): (&u8, &u8)| ((1.0 - OPACITY) * f32::from(a) + OPACITY * f32::from(b)).round() as u8;
    RgbImage::new(image.width(), image.height(), image.pixels().iter().zip(colors.pixels()).map(mix).collect())
}

pub(super) fn run(args: &PredictArgs) -> anyhow::Result<()> {
    let inputs = images(&args.input)?;
    let device = super::device(args.device.as_deref())?;
    let (network, config) = Network::open(&super::checkpoint(&args.checkpoint)?, &device)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut written = Vec::new();
    for path in &inputs {
        let image = decode::read_image(path)?;
        let (width, height, values) = config.data.eval_transform().apply(&image)?;
        let input = Tensor::from_vec(values, &[1, height, width, 3], &device)?;
        let prediction = train::predict_image(&network, &input, (image.height(), image.width()))?;
        let labels = LabelMap::new(image.width(), image.height(), prediction.labels.to_vec::<u8>()?)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let files = [args.out.join(format!("{stem}_labels.png")), args.out.join(format!("{stem}_overlay.png"))];
        write::color_map_png(&files[0], &labels)?;
        write::image_png(&files[1], &blend(&image, &train::colorize(&labels)?)?)?;
        if !args.json {
            println!("{} -> {}, {}", path.display(), files[0].display(), files[1].display());
        }
        written.push(json!({ "image": path, "labels": files[0], "overlay": files[1] }));
    }
    if args.json {
        println!("{}", json!({ "predictions": written }));
    }
    Ok(())
}
