//! Every operation, by shape: forward and each gradient, verified before it is timed.
//!
//!     cargo bench --bench kernels -- [--device cpu|cuda[:N]|plan] [--filter TEXT]... [--dtype bf16|f32] [--seconds S]
//!                                    [--json FILE] [--no-autotune] [--warpgroups on|off]
//!
//! A row runs if its name contains any of the texts, and has the dtype. On `plan` nothing is computed: the launches of every row
//! are counted, with their blocks and bytes. `--warpgroups off` keeps a Hopper GPU, and a plan, to the kernels of older ones.
//!
//! A row that fails, because it differs from the CPU or for any other reason, becomes a JSON line with its key, `error` and no
//! times, and the bench goes on; it then ends with status 1. Only a GPU that no longer works ends it at once.
//!
//! An operation adds its rows with one line in `main` and a file in benches/kernels/. Inputs rotate through more memory than the
//! last-level cache holds. A row is measured for S seconds (0.3): on a GPU by events around replays of a graph of many calls, on
//! the CPU by the clock; `timed` in the JSON line tells (benches/kernels/clock.rs). The median is printed, with the rate and its
//! share of the ceiling: the rate of a copy or of one large matrix product of the same dtype, whichever share is larger; both are
//! measured at the start, and are rows of the JSON file.

#[path = "kernels/aspp.rs"]
mod aspp;
#[path = "kernels/case.rs"]
mod case;
#[path = "kernels/ceilings.rs"]
mod ceilings;
#[path = "kernels/clock.rs"]
mod clock;
#[path = "kernels/conv2d.rs"]
mod conv2d;
#[path = "kernels/harness.rs"]
mod harness;
#[path = "kernels/labels.rs"]
mod labels;
#[path = "kernels/losses.rs"]
mod losses;
#[path = "kernels/norm.rs"]
mod norm;
#[path = "kernels/rows.rs"]
mod rows;
#[path = "kernels/update.rs"]
mod update;

fn main() -> std::process::ExitCode {
    let run = || -> bicl::Result<()> {
        let mut bench = harness::Bench::from_arguments()?;
        conv2d::rows(&mut bench)?;
        aspp::rows(&mut bench)?;
        norm::rows(&mut bench)?;
        losses::rows(&mut bench)?;
        labels::rows(&mut bench)?;
        update::rows(&mut bench)?;
        bench.finish()
    };
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
