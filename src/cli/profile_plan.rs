//! `--profile-plan`: launches, bytes and memory of one step of adaptation, counted without a GPU.

use serde_json::json;

use super::{TrainArgs, output};
use crate::{
    device::KernelCount,
    train::{Architecture, Preset, StepPlan, plan_step},
};

pub(super) fn run(args: &TrainArgs, architecture: Architecture) -> anyhow::Result<()> {
    let config = args.resolve(if args.demo { Preset::Miniature } else { Preset::Paper })?;
    let plan = plan_step(&config, architecture)?;
    if args.json {
        return output::line(as_json(&plan));
    }
    let mut kernels: Vec<(&str, KernelCount)> =
        plan.counts.kernels.iter().map(|(name, count)| (*name, *count)).collect();
    kernels.sort_by_key(|(_, count)| std::cmp::Reverse(count.bytes));
    let [height, width] = config.data.crop;
    output::line(format_args!(
        "one step: {} of width {}, {} + {} crops of {height} x {width}, {}",
        config.model.backbone, config.model.width, config.data.batch, config.data.batch, config.precision
    ))?;
    output::line(format_args!("\n{:<44}{:>9}{:>12}", "kernel", "launches", "MB"))?;
    for (name, count) in kernels {
        output::line(format_args!("{name:<44}{:>9}{:>12.1}", count.launches, megabytes(count.bytes)))?;
    }
    let (bytes, least) = (plan.bytes(), plan.least_bytes());
    output::line(format_args!("{:<44}{:>9}{:>12.1}", "all", plan.launches(), megabytes(bytes)))?;
    output::line(format_args!(
        "\nat least {:.1} MB ({:.2} of it) for the convolutions' factors and results, once a product, and the optimizer\n{} uploads ({:.1} MB), {} fills and copies ({:.1} MB), {} read-backs that wait for the GPU, {} that do not\npeak memory {:.2} GB, of which {:.2} GB are {} parameters and statistics in f32",
        megabytes(least),
        least as f64 / bytes as f64,
        plan.counts.uploads.launches,
        megabytes(plan.counts.uploads.bytes),
        plan.counts.fills.launches,
        megabytes(plan.counts.fills.bytes),
        plan.counts.downloads.launches,
        plan.counts.later_downloads.launches,
        plan.peak_bytes as f64 / 1e9,
        4e-9 * plan.parameters as f64,
        plan.parameters,
    ))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn as_json(plan: &StepPlan) -> serde_json::Value {
    let of = |count: &KernelCount| json!({ "launches": count.launches, "bytes": count.bytes });
    let kernels: serde_json::Map<String, serde_json::Value> =
        plan.counts.kernels.iter().map(|(name, count)| ((*name).to_owned(), of(count))).collect();
    json!({
        "kernels": kernels, "launches": plan.launches(), "bytes": plan.bytes(),
        "least_bytes": plan.least_bytes(), "uploads": of(&plan.counts.uploads),
        "fills": of(&plan.counts.fills), "read_backs": of(&plan.counts.downloads),
        "later_read_backs": of(&plan.counts.later_downloads),
        "peak_bytes": plan.peak_bytes, "parameters": plan.parameters,
    })
}
