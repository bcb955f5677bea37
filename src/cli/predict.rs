//! `predict`: colour maps and overlays of any images.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{WeightsArgs, output};
use crate::{
    Error,
    data::{LabelMap, RgbImage, decode, write},
    train::{self, weights},
};

/// Weight of the colours in an overlay.
const OPACITY: f32 = 0.5;

#[derive(clap::Args, Debug)]
pub(super) struct PredictArgs {
    /// An image, or a folder of .png and .jpg files, with its subfolders.
    input: PathBuf,
    /// A checkpoint, a run folder, or a file of weights (.pth, .safetensors).
    #[arg(long, value_name = "PATH")]
    checkpoint: PathBuf,
    /// Folder for the pictures.
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    out: PathBuf,
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

/// An image to predict, and the files that come of it.
struct Job {
    image: PathBuf,
    labels: PathBuf,
    overlay: PathBuf,
}

/// The images in `folder` and below, in order of their names. `seen` holds the folders that were entered, by their real
/// paths: a symbolic link that leads back is not followed twice.
fn images(folder: &Path, seen: &mut HashSet<PathBuf>) -> crate::Result<Vec<PathBuf>> {
    let failed = |error| Error::io(folder, error);
    if !seen.insert(fs::canonicalize(folder).map_err(failed)?) {
        return Ok(Vec::new());
    }
    let entries: Vec<_> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(|path| !hidden(path)).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        if path.is_dir() {
            found.extend(images(&path, seen)?);
        } else if extension.is_some_and(|extension| ["png", "jpg", "jpeg"].iter().any(|known| extension == *known)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// What to predict; below `out` lies the same tree of folders as below the input.
fn jobs(input: &Path, out: &Path) -> crate::Result<Vec<Job>> {
    let (base, images) = if input.is_dir() {
        // Pictures of an earlier call are not input.
        let mut seen: HashSet<PathBuf> = fs::canonicalize(out).into_iter().collect();
        let real = fs::canonicalize(input).map_err(|error| Error::io(input, error))?;
        if seen.contains(&real) {
            return Err(Error::data(out, "the pictures would lie among the images; choose another --out"));
        }
        // A link to a folder above would bring in everything beside the input.
        seen.extend(real.ancestors().skip(1).map(Path::to_owned));
        (input, images(input, &mut seen)?)
    } else {
        (input.parent().unwrap_or(input), vec![input.to_owned()])
    };
    if images.is_empty() {
        return Err(Error::data(input, "holds no .png or .jpg image; name an image or a folder of images"));
    }
    let mut stems: HashMap<PathBuf, usize> = HashMap::new();
    for image in &images {
        *stems.entry(image.with_extension("")).or_default() += 1;
    }
    let job = |image: PathBuf| {
        // a.png and a.jpg keep their extensions, so that neither overwrites the other's pictures.
        let alone = stems.get(&image.with_extension("")) == Some(&1);
        let stem = if alone { image.file_stem() } else { image.file_name() }.unwrap_or_default();
        let folder = out.join(image.strip_prefix(base).ok().and_then(Path::parent).unwrap_or(Path::new("")));
        let file = |suffix: &str| {
            let mut name = stem.to_owned();
            name.push(suffix);
            folder.join(name)
        };
        Job { labels: file("_labels.png"), overlay: file("_overlay.png"), image }
    };
    Ok(images.into_iter().map(job).collect())
}

fn blend(image: &RgbImage, colors: &RgbImage) -> crate::Result<RgbImage> {
    let mix = |(&a, &b): (&u8, &u8)| ((1.0 - OPACITY) * f32::from(a) + OPACITY * f32::from(b)).round() as u8;
    RgbImage::new(image.width(), image.height(), image.pixels().iter().zip(colors.pixels()).map(mix).collect())
}

pub(super) fn run(args: &PredictArgs) -> anyhow::Result<()> {
    let device = super::device(args.device.as_deref(), args.no_autotune)?;
    let jobs = jobs(&args.input, &args.out)?;
    let checkpoint = super::checkpoint(&args.checkpoint)?;
    let (network, config, report) = train::open_network(&checkpoint, args.given.given(), &device)?;
    if !args.json {
        report.iter().flat_map(weights::Report::lines).try_for_each(output::line)?;
    }
    let mut written = Vec::new();
    for Job { image: path, labels: labels_path, overlay } in &jobs {
        let image = decode::read_image(path)?;
        let (width, height, values) = config.data.eval_transform().apply(&image)?;
        let input = network.image(values, height, width)?;
        let prediction = train::predict_image(&network, &input, (image.height(), image.width()))?;
        let labels = LabelMap::new(image.width(), image.height(), prediction.labels.to_vec::<u8>()?)?;
        write::color_map_png(labels_path, &labels)?;
        write::image_png(overlay, &blend(&image, &train::colorize(&labels)?)?)?;
        if !args.json {
            let (path, labels, overlay) = (path.display(), labels_path.display(), overlay.display());
            output::line(format_args!("{path} -> {labels}, {overlay}"))?;
        }
        let [image, labels, overlay] = [path, labels_path, overlay].map(|path| output::json_path(path));
        written.push(json!({ "image": image, "labels": labels, "overlay": overlay }));
    }
    if args.json {
        output::line(json!({ "predictions": written, "weights": report }))?;
    }
    Ok(())
}
