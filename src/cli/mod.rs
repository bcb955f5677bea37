//! The command line: one file per subcommand. Exit status 0 done, 1 failed, 2 wrong usage; an error is one line.

mod check;
mod confusion_file;
mod datasets;
mod demo;
mod doctor;
mod domain;
mod eval;
mod export;
mod generate;
mod import_weights;
mod output;
mod predict;
mod profile_plan;
mod train;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use domain::Domain;

use crate::{
    Device,
    nn::Precision,
    train::{
        Architecture, Config, Preset,
        weights::{Convention, Given},
    },
};

/// Train a segmentation network on labelled synthetic images and unlabelled real ones.
///
/// Without a subcommand, trains: `trainer --source gta5 --target cityscapes --data-root DIR`.
#[derive(Parser, Debug)]
#[command(name = "trainer", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Read every file of the data sets that a run would use, and say what is wrong or how the classes are spread.
    Check(check::CheckArgs),
    /// Check that all is there for training on a GPU, and that every kind of kernel computes what it must on it: a table that says
    /// what to do where something fails.
    ///
    /// Takes at most half a minute. Each group of checks runs in a process of its own, with a time limit for each check, so that one
    /// that hangs or crashes is one failed row. The exit status is 0 only where nothing failed.
    Doctor(doctor::DoctorArgs),
    /// Generate the miniature data set: street scenes in two styles, in GTA5's and Cityscapes' layouts.
    Generate(generate::GenerateArgs),
    /// List the data sets that can be named, or print one's description to copy.
    Datasets(datasets::DatasetsArgs),
    /// Score a checkpoint on labelled images: IoU, precision and recall of each class, means, accuracies.
    Eval(eval::EvalArgs),
    /// Predict images: a colour map and an overlay for each.
    Predict(predict::PredictArgs),
    /// Turn weights of PyTorch (.pth, .safetensors) into a checkpoint to start from, evaluate or predict with.
    ImportWeights(import_weights::ImportArgs),
    /// Write a network as safetensors with torchvision's names and layouts, or as ONNX.
    Export(export::ExportArgs),
}

/// What decides a training run.
#[derive(clap::Args, Debug, Default)]
struct TrainArgs {
    /// Labelled data set: gta5, synthia and so on (`trainer datasets` lists them), or a description's file.toml.
    #[arg(long, value_name = "NAME")]
    source: Option<Domain>,
    /// Unlabelled data set, of the same kinds, or folder:DIR for any folder of images.
    #[arg(long, value_name = "NAME")]
    target: Option<Domain>,
    /// Folder with gta5/, synthia/, cityscapes/ and so on as their downloads unpack.
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Folder of the source, where it is not in the data root.
    #[arg(long, value_name = "DIR")]
    source_root: Option<PathBuf>,
    /// Folder of the target, where it is not in the data root.
    #[arg(long, value_name = "DIR")]
    target_root: Option<PathBuf>,
    /// Leave out pairs of images and labels that cannot be used (broken, of different sizes), and say which: at most this share of
    /// them, 0.01 where none is given. Reads every file once before the first step.
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true, default_missing_value = "0.01")]
    skip_bad: Option<f64>,
    /// TOML file of settings, over the preset.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// paper, official-code, scratch or miniature.
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// One setting, over the file: --set adapt.rounds=2 (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// cpu, cuda or cuda:N; by default the first GPU, or the CPU where there is none.
    #[arg(long, value_parser = device_name)]
    device: Option<String>,
    /// Take the heuristic's tile and split of every convolution instead of timing what suits each shape when a GPU first meets it.
    ///
    /// Tiles and splits influence rounding. What was timed is kept in $BICL_CACHE, or bicl/ in the user's folder for caches,
    /// by card, driver and build: with that file, runs repeat to the bit. With this option, the same for --resume, they do
    /// without a file and choose alike on every card; Hopper's kernels for bf16 are others.
    #[arg(long)]
    no_autotune: bool,
    /// fp32, tf32 (f32 storage, products on a GPU's tensor cores) or bf16 (storage and products).
    #[arg(long)]
    precision: Option<Precision>,
    /// Safetensors or PyTorch file (.pth) of initial weights with torchvision's names: docs/weights.md.
    #[arg(long, value_name = "FILE")]
    init_weights: Option<PathBuf>,
    /// Whose initial weights: caffe or torchvision. Sets model.layout and data.normalize, over preset and file.
    #[arg(long, value_name = "NAME")]
    weights: Option<Convention>,
    /// Take what fits of initial weights that fill less than the backbone.
    #[arg(long, requires = "init_weights")]
    partial: bool,
    /// Continue the run in this folder, bit for bit (with --data-root and the like where the data has moved).
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "source", "target", "skip_bad", "config", "preset", "set", "precision", "seed", "out", "init_weights", "weights",
        "demo",
    ])]
    resume: Option<PathBuf>,
    /// Run folder; by default a new one under runs/.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of initial weights, data order and crops.
    #[arg(long, allow_negative_numbers = true, value_parser = whole_number)]
    seed: Option<u64>,
    /// Stop after so many steps in all; --resume goes on from there.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole_number)]
    max_steps: Option<u64>,
    /// Generate a miniature pair of domains, train on the source, adapt, and show the gain.
    #[arg(long, conflicts_with_all = ["source", "target", "source_root", "target_root"])]
    demo: bool,
    /// Print what one step of adaptation launches, moves and holds on a GPU, counted without one, and end: on hopper (an H100 or
    /// H200) or with the kernels for ampere and newer.
    #[arg(long, value_name = "GPU", num_args = 0..=1, require_equals = true, default_missing_value = "hopper",
        conflicts_with_all = ["resume", "device", "out", "max_steps", "init_weights"])]
    profile_plan: Option<Architecture>,
    /// Print the outcome as JSON and nothing else.
    #[arg(long)]
    json: bool,
}

impl TrainArgs {
    fn device(&self) -> crate::Result<Device> {
        device(self.device.as_deref(), self.no_autotune)
    }

    /// Preset, file, assignments, then the options of their own.
    fn resolve(&self, preset: Preset) -> crate::Result<Config> {
        let mut config = Config::resolve(self.preset.unwrap_or(preset), self.config.as_deref(), &self.assignments())?;
        self.place(&mut config)?;
        config.seed = self.seed.unwrap_or(config.seed);
        config.precision = self.precision.unwrap_or(config.precision);
        Ok(config)
    }

    /// Every option that is a setting, and then `--set`.
    fn assignments(&self) -> Vec<String> {
        let domain = |key: &str, domain: &Domain| format!("data.{key}={}", toml::Value::from(domain.name.as_str()));
        let source = self.source.iter().map(|source| domain("source", source));
        let target = self.target.iter().map(|target| domain("target", target));
        let skip_bad = self.skip_bad.iter().map(|share| format!("data.skip_bad={share:?}"));
        source.chain(target).chain(skip_bad).chain(assignments(self.weights, &self.set)).collect()
    }

    /// The folders of the data, where the command line names them.
    fn place(&self, config: &mut Config) -> crate::Result<()> {
        let named = |domain: &Option<Domain>| domain.as_ref().and_then(|domain| domain.root.clone());
        if let Some(root) = &self.data_root {
            config.data.source_root = config.data.source.root_in(root);
            config.data.target_root = config.data.target.root_in(root);
        }
        if let Some(root) = self.source_root.clone().or(named(&self.source)) {
            config.data.source_root = root;
        }
        if let Some(root) = self.target_root.clone().or(named(&self.target)) {
            config.data.target_root = root;
        }
        for root in [&config.data.source_root, &config.data.target_root] {
            if root.to_str().is_none() {
                return Err(crate::Error::data(
                    root,
                    "the path is not valid UTF-8, which config.toml needs; rename it",
                ));
            }
        }
        Ok(())
    }
}

/// What is said about a file of weights that says less about itself than a checkpoint.
#[derive(clap::Args, Debug)]
struct WeightsArgs {
    /// Whose weights a file of another program holds: caffe (Caffe's layout, BGR on 0..255) or torchvision.
    #[arg(long, value_name = "NAME")]
    weights: Option<Convention>,
    /// Length of the shorter side of the network's input; 0 keeps the images' size. By default the file's word.
    #[arg(long, value_name = "PIXELS")]
    short_side: Option<usize>,
}

impl WeightsArgs {
    fn given(&self) -> Given {
        Given { convention: self.weights, short_side: self.short_side }
    }
}

/// `--set`, after what `--weights` sets.
fn assignments(weights: Option<Convention>, set: &[String]) -> Vec<String> {
    weights.into_iter().flat_map(Convention::assignments).chain(set.iter().cloned()).collect()
}

/// Zero or more; TOML's integers end at i64::MAX.
fn whole_number(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| format!("use a whole number from 0 to {}", i64::MAX))
}

/// Whether `text` names a kind of device: a wrong name is wrong usage, a missing GPU a failure.
fn device_name(text: &str) -> Result<String, String> {
    let index = text.strip_prefix("cuda:").map(str::parse::<usize>);
    match (text, index) {
        ("cpu" | "cuda", _) | (_, Some(Ok(_))) => Ok(text.to_owned()),
        _ => Err("use cpu, cuda or cuda:N".into()),
    }
}

/// Where a subcommand computes.
fn device(name: Option<&str>, no_autotune: bool) -> crate::Result<Device> {
    let device = name.map_or_else(|| Ok(Device::best()), str::parse::<Device>)?;
    Ok(device.with(|options| options.autotune = !no_autotune))
}

/// The checkpoint that a path names: a file, or the best one in a run folder.
fn checkpoint(path: &Path) -> crate::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let candidates = ["adapted.safetensors", "checkpoint.safetensors"].map(|file| path.join(file));
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    found.ok_or_else(|| crate::Error::data(path, "holds no checkpoint; name a run folder or a .safetensors file"))
}

/// Runs the program on the process's arguments.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            output::error(output::usage(&error.render().to_string()));
            return ExitCode::from(2);
        }
        // --help and --version.
        Err(error) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
    };
    let outcome = match args.command {
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Datasets(args)) => datasets::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Generate(args)) => generate::run(&args),
        Some(Command::Eval(args)) => eval::run(&args),
        Some(Command::Predict(args)) => predict::run(&args),
        Some(Command::ImportWeights(args)) => import_weights::run(&args),
        Some(Command::Export(args)) => export::run(&args),
        None => match args.train.profile_plan {
            Some(architecture) => profile_plan::run(&args.train, architecture),
            None if args.train.demo => demo::run(&args.train),
            None => train::run(&args.train),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
