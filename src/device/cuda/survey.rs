//! What the machine has, found out before anything is launched.

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::{CudaDevice, failed};
use crate::{Error, Result};

/// A GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// As the driver gives it.
    pub name: String,
    /// (9, 0) for Hopper.
    pub capability: (i32, i32),
    /// Memory that nobody has allocated, in bytes.
    pub free: usize,
    /// All memory, in bytes.
    pub total: usize,
}

impl Card {
    /// GPU number `index`, whether or not there are kernels for it.
    ///
    /// Errors: no driver, no such GPU, a driver that does not start.
    pub fn find(index: usize) -> Result<Self> {
        expect_card(index)?;
        let context = CudaContext::new(index).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let name = context.name().map_err(failed("cuDeviceGetName"))?;
        let capability = context.compute_capability().map_err(failed("cuDeviceGetAttribute"))?;
        context.bind_to_thread().map_err(failed("cuCtxSetCurrent"))?;
        let (free, total) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok(Self { name, capability, free, total })
    }
}

/// The newest CUDA that the driver knows, 13000 for 13.0.
///
/// Errors: no driver.
pub fn driver_version() -> Result<i32> {
    expect_driver()?;
    let mut version = 0;
    // SAFETY: writes one int.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("cuDriverGetVersion"))?;
    Ok(version)
}

/// Every other call panics without libcuda.
fn expect_driver() -> Result<()> {
    // SAFETY: only looks for the library.
    match unsafe { sys::is_culib_present() } {
        true => Ok(()),
        false => Err(Error::NoDriver),
    }
}

/// Errors unless there is a driver and a GPU of this number.
pub(super) fn expect_card(index: usize) -> Result<()> {
    expect_driver()?;
    let count = match CudaContext::device_count() {
        Ok(count) => count as usize,
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => return Err(failed("cuInit")(error)),
    };
    if index < count { Ok(()) } else { Err(Error::NoDevice { index, count }) }
}

impl CudaDevice {
    /// Errors unless the kernel of this kernel file loads.
    pub fn expect_kernel(&self, image: &'static str, kernel: &'static str) -> Result<()> {
        self.bind()?;
        self.function(image, kernel, 0).map(|_| ())
    }
}
