//! `doctor`: is everything there for training on a GPU, and does it compute what it must?

use std::{io, process::Command, time::Instant};

use anyhow::Context;
use serde_json::json;

use super::output;
use crate::doctor::{self, Row, Status};

#[derive(clap::Args, Debug)]
pub(super) struct DoctorArgs {
    /// cuda or cuda:N.
    #[arg(long, value_name = "NAME", default_value = "cuda:0", value_parser = gpu)]
    device: Gpu,
    /// Print one JSON document: device, ok, seconds, rows; each row has group, name, status (ok, failed or skipped), seconds,
    /// detail, and advice where it failed.
    #[arg(long)]
    json: bool,
    /// Run these checks in this process, and write JSON lines: what the program starts itself.
    #[arg(long, value_name = "NAME", hide = true)]
    probe: Vec<String>,
}

/// A GPU's number.
#[derive(Clone, Copy, Debug)]
struct Gpu(usize);

fn gpu(text: &str) -> Result<Gpu, String> {
    let index = if text == "cuda" { Some("0") } else { text.strip_prefix("cuda:") };
    let index = index.and_then(|index| index.parse().ok());
    index.map(Gpu).ok_or_else(|| "use cuda or cuda:N".into())
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let Gpu(index) = args.device;
    if !args.probe.is_empty() {
        return Ok(doctor::answer(index, &args.probe, &mut io::stdout().lock())?);
    }
    let start = Instant::now();
    let program = std::env::current_exe().context("the path of this program is unknown; start it by its full path")?;
    let command = |names: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["doctor", "--device", &format!("cuda:{index}")]);
        command.args(names.iter().flat_map(|name| ["--probe", name]));
        command
    };
    let (mut rows, mut printed): (Vec<Row>, anyhow::Result<()>) = (Vec::new(), Ok(()));
    doctor::examine(index, &command, &mut |row| {
        if !args.json && printed.is_ok() {
            let heading = rows.last().is_none_or(|last| last.group != row.group);
            printed = output::line(text(&row, heading));
        }
        rows.push(row);
    });
    printed?;
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    let [ok, failed, skipped] = [Status::Ok, Status::Failed, Status::Skipped].map(count);
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        let device = format!("cuda:{index}");
        output::line(json!({ "device": device, "ok": failed == 0, "seconds": seconds, "rows": rows }))?;
    } else {
        output::line(format_args!("\n{ok} ok, {failed} failed, {skipped} skipped in {seconds:.1} s"))?;
    }
    match failed {
        0 => Ok(()),
        _ => anyhow::bail!("{failed} of {} checks failed", rows.len()),
    }
}

/// The row's line, after its group's name where that is new, and what to do below it.
fn text(row: &Row, heading: bool) -> String {
    let status = match row.status {
        Status::Ok => "ok",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
    };
    let heading = if heading { format!("{}\n", row.group) } else { String::new() };
    let line = format!("  {status:<8}{:<40}{:>6.2} s  {}", row.name, row.seconds, row.detail);
    let advice = row.advice.iter().filter(|advice| !advice.is_empty()).map(|advice| format!("\n          -> {advice}"));
    heading + line.trim_end() + &advice.collect::<String>()
}
