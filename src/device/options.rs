//! How a device computes what several kernels can: options that belong to a handle, not to the place behind it.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write},
};

use super::{Device, Place};
use crate::Result;

/// Which of several kernels with the same result a device takes. They differ in their roundings.
///
/// Tensors keep the options of the device that they were made on; an operation takes those of its first operand.
///
/// ```
/// use bicl::{Device, device::DeviceOptions};
/// let device = Device::open("cpu", &DeviceOptions { autotune: false, ..DeviceOptions::default() })?;
/// assert!(device.is_cpu() && !device.options().autotune);
/// # Ok::<(), bicl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Whether a GPU may time several configurations of a convolution's kernels when it first meets its shape; it may by
    /// default. The fastest is kept for later processes, in `$BICL_CACHE` or the user's folder for caches. Without leave, the
    /// heuristic decides, which is the same on every card with the same kernels. Elsewhere this does nothing.
    pub autotune: bool,
    /// Whether convolutions run in the kernels for whole warpgroups (wgmma), where there are such. By default a GPU of compute
    /// capability 9.0 uses them, while the emulator and a plan stand for a GPU without them. On any other GPU, and on the CPU,
    /// this does nothing; nor does it where `$BICL_WARPGROUPS` is `off` when the GPU is opened.
    pub warpgroups: Option<bool>,
    /// Computes every convolution in configuration number `config` of those that a GPU would time, counted around; 0, the
    /// default, is the heuristic's, or on a GPU with leave the fastest. For self-tests. On the CPU this does nothing.
    pub config: usize,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self { autotune: true, warpgroups: None, config: 0 }
    }
}

impl Device {
    /// The device of this name (`cpu`, `cuda` or `cuda:N`), with options.
    ///
    /// Errors: another name; no driver, no such GPU, no kernels for it.
    pub fn open(name: &str, options: &DeviceOptions) -> Result<Self> {
        Ok(name.parse::<Self>()?.with(|own| *own = *options))
    }

    /// The same place with other options. What holds the device already keeps its own.
    ///
    /// ```
    /// let plan = bicl::Device::plan().with(|options| options.warpgroups = Some(true)); // counts what an H100 would do
    /// assert_eq!(plan.options().warpgroups, Some(true));
    /// ```
    pub fn with(&self, change: impl FnOnce(&mut DeviceOptions)) -> Self {
        let mut device = self.clone();
        change(&mut device.1);
        device
    }

    /// The options.
    pub fn options(&self) -> DeviceOptions {
        self.1
    }

    /// Whether shapes are timed here when they are first met.
    pub fn autotune(&self) -> bool {
        self.is_cuda() && self.1.autotune
    }

    /// Whether the kernels for whole warpgroups run here.
    pub(crate) fn has_warpgroup_products(&self) -> bool {
        match &self.0 {
            Place::Cpu => false,
            Place::Cuda(cuda) => cuda.has_warpgroups() && self.1.warpgroups.unwrap_or(true),
            Place::Emulated(_) | Place::Plan(_) => self.1.warpgroups.unwrap_or(false),
        }
    }
}

/// The environment variable that can forbid them.
const VARIABLE: &str = "BICL_WARPGROUPS";

/// Whether the kernels for warpgroups may run on a GPU with this compute capability, as far as `$BICL_WARPGROUPS` lets it. The
/// instructions are those of 9.0 alone: neither older nor newer GPUs have them.
pub(super) fn may_use_warpgroups(capability: (i32, i32)) -> bool {
    let allowed = allowed(env::var_os(VARIABLE).as_deref()).unwrap_or_else(|warning| {
        // A closed stderr is no reason to stop.
        let _ = writeln!(io::stderr().lock(), "warning: {warning}");
        true
    });
    allowed && capability == (9, 0)
}

/// Whether the variable's value allows them; a warning where it is none of its values.
fn allowed(value: Option<&OsStr>) -> Result<bool, String> {
    match value {
        None => Ok(true),
        Some(value) if value.is_empty() || value == "on" => Ok(true),
        Some(value) if value == "off" => Ok(false),
        Some(value) => Err(format!("{VARIABLE}={} is ignored; use on or off", value.to_string_lossy().escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_capability_9_0_has_warpgroups() {
        for capability in [(8, 0), (8, 9), (9, 1), (10, 0), (12, 0)] {
            assert!(!may_use_warpgroups(capability), "{capability:?}");
        }
    }

    #[test]
    fn the_environment_can_forbid_them() {
        let of = |value: &str| allowed(Some(OsStr::new(value)));
        assert_eq!([allowed(None), of(""), of("on"), of("off")], [Ok(true), Ok(true), Ok(true), Ok(false)]);
        for other in ["0", "OFF", "off ", "a\nb"] {
            let warning = of(other).unwrap_err();
            assert!(warning.contains("use on or off") && warning.lines().count() == 1, "{warning}");
        }
    }

    #[test]
    fn options_belong_to_a_handle() {
        let plan = Device::plan();
        let told = plan.with(|options| options.warpgroups = Some(true));
        assert!(told.has_warpgroup_products() && told.clone().has_warpgroup_products());
        assert!(!plan.has_warpgroup_products() && plan == told, "the same place, which nobody else told");
        assert!(!told.with(|options| options.warpgroups = Some(false)).has_warpgroup_products());
        assert!(!Device::cpu().with(|options| options.warpgroups = Some(true)).has_warpgroup_products());
    }
}
