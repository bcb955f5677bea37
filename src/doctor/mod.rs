//! The self-test behind `trainer doctor`: is everything there that training on a GPU needs, and does every kind of kernel compute
//! what it must on this card?
//!
//! A [`Check`] gives a [`Row`]. [`device_checks`] are a list that runs on any device with kernels, so that tests run the same on the
//! emulator; the program runs them by [`examine`] in processes of their own ([`Children`]).
//!
//! ```
//! use bicl::{Device, doctor::{self, Status}};
//! for check in doctor::device_checks().iter().filter(|check| check.name == "memory") {
//!     assert_eq!(check.run(&Device::cpu()).status, Status::Ok);
//! }
//! ```

mod check;
mod children;
mod compare;
mod configs;
mod convolution;
mod host;
pub mod layouts;
mod losses;
mod operations;
mod runtime;
mod training;

use std::{
    io::Write,
    process::Command,
    time::{Duration, Instant},
};

pub use check::{Check, Outcome, Row, Status, Trouble};
pub use children::Children;

use crate::{Device, Error, Result, ops, tensor::Declaration};

const REPORT: &str =
    "results on this card would be wrong: train with --device cpu, and report this row with the card and its driver";
const NO_WARPGROUPS: &str = "convolutions in bf16 would be wrong: train with --precision tf32, and report this row with the card and its \
                             driver";

/// For all; ending the last process may take a moment more.
const TIME: Duration = Duration::from_secs(28);
/// For the program to start in a process.
const START: Duration = Duration::from_secs(3);

/// Every kernel that the library declares, with the sizes of its parameters: the operations' and those of the self-test.
pub fn kernel_declarations() -> Vec<Declaration> {
    let mut all = ops::kernel_declarations();
    all.extend(layouts::declarations());
    all
}

/// The checks of what must be there, for GPU number `index`; the device that they are given does not matter.
pub fn host_checks(index: usize) -> Vec<Check> {
    host::checks(index)
}

/// The checks of what a device computes. Those that compare results of different checks share them, so that a list is for one
/// device.
pub fn device_checks() -> Vec<Check> {
    let mut checks = runtime::checks();
    checks.extend(layouts::checks());
    checks.extend(convolution::checks());
    checks.extend(operations::checks());
    checks.extend(losses::checks());
    checks.extend(configs::checks());
    checks.extend(training::checks());
    checks
}

/// All checks for GPU number `index`, each group in a process of its own, and what they report as it comes. `command` makes the
/// command of a process that calls [`answer`] with these names. Where driver, card or kernels are missing, nothing runs on the card.
pub fn examine(index: usize, command: &dyn Fn(&[&str]) -> Command, report: &mut dyn FnMut(Row)) {
    let deadline = Instant::now() + TIME;
    let mut missing = Vec::new();
    let mut needed = |row: Row| {
        if row.status != Status::Ok && host::NEEDED.contains(&row.name.as_str()) {
            missing.push(row.name.clone());
        }
        report(row);
    };
    Children { command, start: START, deadline }.run(&host_checks(index), &mut needed);
    let checks = device_checks();
    if !missing.is_empty() {
        let detail = format!("{} checks need what is missing: {}", checks.len(), missing.join(", "));
        let (group, name) = ("card".to_owned(), "all that runs on it".to_owned());
        report(Row { group, name, status: Status::Skipped, seconds: 0.0, detail, advice: None });
        return;
    }
    let scratch = host::Scratch::new();
    let command = |names: &[&str]| {
        let mut command = command(names);
        command.env("BICL_CACHE", scratch.path());
        command
    };
    for group in checks.chunk_by(|a, b| a.group == b.group) {
        Children { command: &command, start: START, deadline }.run(group, report);
    }
}

/// What a process that [`examine`] starts does: runs the checks of these names for GPU number `index`, and reports to `out`.
///
/// Errors: unknown names; nobody reads `out`.
pub fn answer(index: usize, names: &[String], out: &mut dyn Write) -> Result<()> {
    let mut checks = host_checks(index);
    checks.extend(device_checks());
    let open = |check: &Check| if check.group == host::GROUP { Ok(Device::cpu()) } else { Device::cuda(index) };
    let work = children::work(&children::named(&checks, names)?, open, out);
    work.map_err(|error| Error::io("the standard output", error))
}
