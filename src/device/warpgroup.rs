//! Which devices compute products with whole warpgroups (wgmma) and copy by tensor maps: kernels/*_sm90.cu.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Device, Place};

/// Whether the kernels for warpgroups may run on a device, and whether they shall.
pub(super) struct Warpgroups {
    possible: bool,
    on: AtomicBool,
}

impl Warpgroups {
    /// Of a GPU with this compute capability, as far as `$BICL_WARPGROUPS` lets it.
    pub fn of_capability(capability: (i32, i32)) -> Self {
        let allowed = allowed(env::var_os(VARIABLE).as_deref()).unwrap_or_else(|warning| {
            // A closed stderr is no reason to stop.
            let _ = writeln!(io::stderr().lock(), "warning: {warning}");
            true
        });
        Self::new(capability, allowed)
    }

    /// The instructions are those of 9.0 alone: neither older nor newer GPUs have them.
    fn new(capability: (i32, i32), allowed: bool) -> Self {
        let possible = allowed && capability == (9, 0);
        Self { possible, on: AtomicBool::new(possible) }
    }

    fn set(&self, on: bool) {
        self.on.store(on && self.possible, Ordering::Relaxed);
    }

    fn on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }
}

/// The environment variable that can forbid them.
const VARIABLE: &str = "BICL_WARPGROUPS";

/// Whether the variable's value allows them; a warning where it is none of its values.
fn allowed(value: Option<&OsStr>) -> Result<bool, String> {
    match value {
        None => Ok(true),
        Some(value) if value.is_empty() || value == "on" => Ok(true),
        Some(value) if value == "off" => Ok(false),
        Some(value) => Err(format!("{VARIABLE}={} is ignored; use on or off", value.to_string_lossy().escape_debug())),
    }
}

/// Where nothing is a GPU: possible, but not unless somebody asks.
impl Default for Warpgroups {
    fn default() -> Self {
        Self { possible: true, on: AtomicBool::new(false) }
    }
}

impl Device {
    /// Whether products run from now on in the kernels for whole warpgroups, where there are such. A GPU of compute capability
    /// 9.0 has them and uses them unless told not to, which serves comparisons; on any other GPU, and on the CPU, this does
    /// nothing. The emulator and a plan stand for a GPU without them unless told otherwise.
    ///
    /// With the environment variable `BICL_WARPGROUPS=off` when a GPU is opened, it has none, whatever it is told; `on` and an
    /// empty value mean nothing, and any other value is ignored with a warning.
    ///
    /// ```
    /// let device = bicl::Device::plan();
    /// device.set_warpgroup_products(true); // counts what an H100 would do
    /// ```
    pub fn set_warpgroup_products(&self, on: bool) {
        if let Some(warpgroups) = self.warpgroups() {
            warpgroups.set(on);
        }
    }

    /// Whether the kernels for whole warpgroups run here.
    pub(crate) fn has_warpgroup_products(&self) -> bool {
        self.warpgroups().is_some_and(Warpgroups::on)
    }

    fn warpgroups(&self) -> Option<&Warpgroups> {
        match &self.0 {
            Place::Cpu => None,
            Place::Cuda(cuda) => Some(cuda.warpgroups()),
            Place::Emulated(emulated) => Some(&emulated.warpgroups),
            Place::Plan(plan) => Some(&plan.warpgroups),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capability_9_0_has_them() {
        for capability in [(8, 0), (8, 9), (9, 1), (10, 0), (12, 0)] {
            let warpgroups = Warpgroups::new(capability, true);
            assert!(!warpgroups.on(), "{capability:?}");
            warpgroups.set(true);
            assert!(!warpgroups.on(), "{capability:?} was told to do what it cannot");
        }
        let warpgroups = Warpgroups::new((9, 0), true);
        assert!(warpgroups.on());
        warpgroups.set(false);
        assert!(!warpgroups.on());
        warpgroups.set(true);
        assert!(warpgroups.on());
    }

    #[test]
    fn the_environment_can_forbid_them() {
        let of = |value: &str| allowed(Some(OsStr::new(value)));
        assert_eq!([allowed(None), of(""), of("on"), of("off")], [Ok(true), Ok(true), Ok(true), Ok(false)]);
        for other in ["0", "OFF", "off ", "a\nb"] {
            let warning = of(other).unwrap_err();
            assert!(warning.contains("use on or off") && warning.lines().count() == 1, "{warning}");
        }
        let warpgroups = Warpgroups::new((9, 0), false);
        assert!(!warpgroups.on());
        warpgroups.set(true);
        assert!(!warpgroups.on(), "nothing turns them on again");
    }

    #[test]
    fn a_plan_has_them_when_told_and_the_cpu_never() {
        let plan = Device::plan();
        assert!(!plan.has_warpgroup_products());
        plan.set_warpgroup_products(true);
        assert!(plan.has_warpgroup_products() && plan.clone().has_warpgroup_products());
        plan.set_warpgroup_products(false);
        assert!(!plan.has_warpgroup_products());
        let cpu = Device::cpu();
        cpu.set_warpgroup_products(true);
        assert!(!cpu.has_warpgroup_products());
    }
}
