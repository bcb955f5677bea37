//! Training, the program's main job.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{TrainArgs, output};
use crate::{
    Device, Error,
    train::{self, Config, Interrupt, Outcome, Preset, RunOptions, Scores},
};

/// The first of `runs/NAME`, `runs/NAME-2`, ... that does not exist.
pub(super) fn new_folder(name: &str) -> PathBuf {
    let numbered = |i: usize| PathBuf::from("runs").join(if i == 1 { name.to_owned() } else { format!("{name}-{i}") });
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(1))
}

/// The configuration of the run in `folder`.
fn resumed(args: &TrainArgs, folder: &Path) -> crate::Result<Config> {
    let file = folder.join("config.toml");
    if !file.exists() {
        return Err(Error::data(folder, "no run to resume: config.toml is missing; name the folder of a run"));
    }
    let mut config = Config::read(&file)?;
    args.place(&mut config)?;
    Ok(config)
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    // A missing GPU must show before anything is read.
    let device = args.device()?;
    let (config, out, resume) = match &args.resume {
        Some(folder) => (resumed(args, folder)?, folder.clone(), true),
        None => {
            let config = args.resolve(Preset::Paper)?;
            let name = format!("{}-{}", config.data.source, config.data.target);
            (config, args.out.clone().unwrap_or_else(|| new_folder(&name)), false)
        }
    };
    let evaluations = execute(args, &config, &device, &out, resume, Interrupt::install()?)?;
    let Some(evaluations) = evaluations else { return Ok(()) };
    report(args, &config, &out, &evaluations)
}

/// Trains and says where; `None` where the run was stopped before its end.
pub(super) fn execute(
    args: &TrainArgs,
    config: &Config,
    device: &Device,
    out: &Path,
    resume: bool,
    interrupt: Interrupt,
) -> anyhow::Result<Option<Vec<(String, Scores)>>> {
    let options = RunOptions {
        out: out.to_owned(),
        resume,
        init_weights: args.init_weights.clone(),
        partial: args.partial,
        max_steps: args.max_steps,
        quiet: args.json,
        interrupt,
    };
    if !args.json {
        output::line(format_args!(
            "{} -> {} on {device}, {} of width {}, seed {}, run folder {}",
            config.data.source,
            config.data.target,
            config.model.backbone,
            config.model.width,
            config.seed,
            out.display()
        ))?;
    }
    match train::train(config, device, &options)? {
        Outcome::Done(evaluations) => Ok(Some(evaluations)),
        Outcome::Stopped { steps } => {
            if args.json {
                output::line(json!({ "stopped": true, "steps": steps, "run": output::json_path(out) }))?;
            } else {
                let out = out.display();
                output::line(format_args!("stopped after {steps} steps; continue with: trainer --resume {out}"))?;
            }
            Ok(None)
        }
    }
}

/// The first and the last evaluation, with the gain.
pub(super) fn report(
    args: &TrainArgs,
    config: &Config,
    out: &Path,
    evaluations: &[(String, Scores)],
) -> anyhow::Result<()> {
    let (Some((first, before)), Some((last, after))) = (evaluations.first(), evaluations.last()) else {
        return match args.json {
            true => output::line(json!({ "run": output::json_path(out), "evaluations": {}, "gain_points": null })),
            false => output::line(format_args!("done; pictures in {}", out.join("samples").display())),
        };
    };
    let (gain, classes) = (train::gain(before, after), config.data.classes());
    if args.json {
        let by_name: serde_json::Map<String, serde_json::Value> =
            evaluations.iter().map(|(name, scores)| (name.clone(), json!(scores))).collect();
        return output::line(json!({
            "run": output::json_path(out), "evaluations": by_name, "gain_points": gain,
        }));
    }
    if evaluations.len() == 1 {
        return output::line(format_args!("\n{}", train::scores_table(before, classes).trim_end()));
    }
    output::line(format_args!(
        "\n{}\ngain of {} points of mIoU; pictures in {}",
        train::side_by_side([first, &format!("adapted ({last})")], before, after, classes),
        gain.map_or_else(|| "-".into(), |gain| format!("{gain:+.1}")),
        out.join("samples").display()
    ))
}
