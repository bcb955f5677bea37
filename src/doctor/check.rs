//! A check, how it ends, and the row that tells of it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Device, Error, Result, device::DeviceOptions};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should.
    Ok,
    /// Otherwise.
    Failed,
    /// It did not apply here, or something that it needs is missing.
    Skipped,
}

/// What the report says of one check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The group that the check belongs to.
    pub group: String,
    /// The check's name, which no other has.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// How long it took; a process's first check includes the start of the driver.
    pub seconds: f64,
    /// What was found, in one line.
    pub detail: String,
    /// Where it failed: what that means, and what to do.
    pub advice: Option<String>,
}

/// Why a check did not pass.
#[derive(Debug)]
pub enum Trouble {
    /// A result is not what it must be.
    Wrong(String),
    /// The same, with advice that suits it better than the check's own.
    Advised(String, String),
    /// The check could not be carried out.
    Error(Error),
    /// It does not apply here.
    Skipped(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What a check found, in a few words.
pub type Outcome = Result<String, Trouble>;

/// One thing to find out.
pub struct Check {
    /// The group's name.
    pub group: &'static str,
    /// A name of its own among all checks.
    pub name: String,
    /// What a failure means, and what to do.
    pub advice: &'static str,
    /// After so long it has failed.
    pub limit: Duration,
    run: Box<dyn Fn(&Device) -> Outcome>,
}

/// For a check that is a matter of milliseconds once the driver is there.
const LIMIT: Duration = Duration::from_secs(5);

impl Check {
    /// A check that `run` carries out.
    pub fn new(
        group: &'static str,
        name: impl Into<String>,
        advice: &'static str,
        run: impl Fn(&Device) -> Outcome + 'static,
    ) -> Self {
        Self { group, name: name.into(), advice, limit: LIMIT, run: Box::new(run) }
    }

    /// The same with another limit.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Carries it out on `device`, which computes as the heuristic says meanwhile, without warpgroups unless the check asks for
    /// them, and times nothing.
    pub fn run(&self, device: &Device) -> Row {
        self.run_on(|| Ok(device.clone())).0
    }

    /// The same on a device that opens first, which counts; and the device.
    pub(super) fn run_on(&self, open: impl FnOnce() -> Result<Device>) -> (Row, Option<Device>) {
        let start = Instant::now();
        let device = open();
        let outcome = match &device {
            Ok(device) => {
                let options = DeviceOptions { autotune: false, warpgroups: Some(false), config: 0 };
                let outcome = (self.run)(&device.with(|own| *own = options));
                // A kernel's failure belongs to the check that launched it.
                outcome.and_then(|detail| Ok(device.synchronize().map(|()| detail)?))
            }
            Err(error) => Err(Trouble::Wrong(error.to_string())),
        };
        let seconds = start.elapsed().as_secs_f64();
        let row = |status, detail: String, advice: Option<String>| Row { seconds, advice, ..self.row(status, detail) };
        let row = match outcome {
            Ok(detail) => row(Status::Ok, detail, None),
            Err(Trouble::Skipped(reason)) => row(Status::Skipped, reason, None),
            Err(Trouble::Advised(detail, advice)) => row(Status::Failed, detail, Some(advice)),
            Err(Trouble::Wrong(detail)) => row(Status::Failed, detail, Some(self.advice.to_owned())),
            Err(Trouble::Error(error)) => row(Status::Failed, error.to_string(), Some(self.advice.to_owned())),
        };
        (row, device.ok())
    }

    /// The row of a check that was not carried out, or not to its end.
    pub(super) fn row(&self, status: Status, detail: impl Into<String>) -> Row {
        let advice = (status == Status::Failed).then(|| self.advice.to_owned());
        let (group, name) = (self.group.to_owned(), self.name.clone());
        Row { group, name, status, seconds: 0.0, detail: detail.into().replace('\n', " | "), advice }
    }
}

/// The device with products by warpgroups; skips the check where there are none.
pub(super) fn need_warpgroups(device: &Device) -> Result<Device, Trouble> {
    let device = device.with(|options| options.warpgroups = Some(true));
    match device.has_warpgroup_products() {
        true => Ok(device),
        false => Err(Trouble::Skipped("only for compute capability 9.0 (H100, H200)".into())),
    }
}
