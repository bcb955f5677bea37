//! Every operation, by shape: forward and each gradient, verified before it is timed.
//!
//!     cargo bench --bench kernels -- [--device cpu|cuda[:N]|plan] [--filter TEXT] [--json FILE] [--no-autotune]
//!                                    [--warpgroups on|off]
//!
//! On `plan` nothing is computed: the launches of every row are counted, with their blocks and bytes. `--warpgroups off` keeps
//! a Hopper GPU, and a plan, to the kernels of older ones.
//!
//! An operation adds its rows with one line in `main` and a file in benches/kernels/. On a GPU times come from events,
//! on the CPU from the clock; inputs rotate through more memory than the last-level cache holds; the median is
//! printed, with the rate and its share of the ceiling: the rate of a copy or of one large matrix product of the same dtype,
//! whichever share is larger; both are measured at the start, and are rows of the JSON file.

#[path = "kernels/aspp.rs"]
mod aspp;
#[path = "kernels/ceilings.rs"]
mod ceilings;
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
#[path = "kernels/update.rs"]
mod update;

fn main() -> std::process::ExitCode {
    let run = || {
        let mut bench = harness::Bench::from_arguments()?;
        conv2d::rows(&mut bench)?;
        aspp::rows(&mut bench)?;
        norm::rows(&mut bench)?;
        losses::rows(&mut bench)?;
        labels::rows(&mut bench)?;
        update::rows(&mut bench)?;
        Ok::<(), bicl::Error>(())
    };
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
