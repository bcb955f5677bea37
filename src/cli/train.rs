//! Training, the program's main job.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::TrainArgs;
use crate::train::{self, Config, Interrupt, Outcome, Preset, RunOptions, Scores};

/// The first of `runs/NAME`, `runs/NAME-2`, ... that does not exist.
pub(super) fn new_folder(name: &str) -> PathBuf {
    let numbered = |i: usize| PathBuf::from("runs").join(if i == 1 { name.to_owned() } else { format!("{name}-{i}") });
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(1))
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let (config, out, resume) = match &args.resume {
        Some(folder) => (Config::read(&folder.join("config.toml")).context("cannot resume")?, folder.clone(), true),
        None => {
            let config = args.resolve(Preset::Paper)?;
            let name = format!("{}-{}", config.data.source, config.data.target);
            (config, args.out.clone().unwrap_or_else(|| new_folder(&name)), false)
        }
    };
    let evaluations = execute(args, &config, &out, resume)?;
    let Some(evaluations) = evaluations else { return Ok(()) };
    report(args, &out, &evaluations)
}

/// Trains and says where; `None` where the run was stopped before its end.
pub(super) fn execute(
    args: &TrainArgs,
    config: &Config,
    out: &Path,
    resume: bool,
) -> anyhow::Result<Option<Vec<(String, Scores)>>> {
    let device = args.device()?;
    let options = RunOptions {
        out: out.to_owned(),
        resume,
        init_weights: args.init_weights.clone(),
        max_steps: args.max_steps,
        quiet: args.json,
        interrupt: Interrupt::install()?,
    };
    if !args.json {
        println!(
            "{} -> {} on {device}, {} of width {}, seed {}, run folder {}",
            config.data.source,
            config.data.target,
            config.model.backbone,
            config.model.width,
            config.seed,
            out.display()
        );
    }
    match train::train(config, &device, &options)? {
        Outcome::Done(evaluations) => Ok(Some(evaluations)),
        Outcome::Stopped { steps } => {
            if args.json {
                println!("{}", json!({ "stopped": true, "steps": steps, "run": out }));
            } else {
                println!("stopped after {steps} steps; continue with: trainer --resume {}", out.display());
            }
            Ok(None)
        }
    }
}

/// The first and the last evaluation, with the gain.
pub(super) fn report(args: &TrainArgs, out: &Path, evaluations: &[(String, Scores)]) -> anyhow::Result<()> {
    let (Some((first, before)), Some((last, after))) = (evaluations.first(), evaluations.last()) else {
        return Ok(());
    };
    if args.json {
        let by_name: serde_json::Map<String, serde_json::Value> =
            evaluations.iter().map(|(name, scores)| (name.clone(), json!(scores))).collect();
        let gain = 100.0 * (after.miou - before.miou);
        println!("{}", json!({ "run": out, "evaluations": by_name, "gain_points": gain }));
        return Ok(());
    }
    println!();
    if evaluations.len() == 1 {
        print!("{}", train::scores_table(before));
        return Ok(());
    }
    print!("{}", train::side_by_side([first, &format!("adapted ({last})")], before, after));
    println!(
        "\ngain of {:+.1} points of mIoU; pictures in {}",
        100.0 * (after.miou - before.miou),
        out.join("samples").display()
    );
    Ok(())
}
