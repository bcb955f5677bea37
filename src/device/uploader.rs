//! Feeding a captured step: the next batch travels to the GPU while the present step computes.

use super::{Buffer, Device, Place, cuda::Staging};
use crate::Result;

/// Copies host data into existing tensors, ahead of their use. See [`crate::Tensor::write_through`].
///
/// On a GPU the data goes through page-locked memory and a second stream into memory beside the tensor, while the compute
/// stream is still busy with what was launched before; a short copy on the compute stream then puts it in place. So
/// launched work finds the old content and later work the new, and one tensor is enough for both. For each tensor it keeps
/// two such ways, page-locked host memory and GPU memory of the tensor's size both: [`Tensor::write_through`] waits only
/// where it is called a third time before the first copy has left the host. Elsewhere it is a plain copy.
///
/// [`Tensor::write_through`]: crate::Tensor::write_through
///
/// ```
/// use bicl::{DType, Device, Tensor, device::Uploader};
/// let device = Device::best();
/// let mut images = Tensor::zeros(&[2, 2], DType::F32, &device)?;
/// let mut uploader = Uploader::new(&device)?;
/// for batch in [[1.0f32; 4], [2.0; 4]] {
///     images.write_through(&mut uploader, &batch)?;
///     // graph.replay()?;
///     assert_eq!(images.to_vec::<f32>()?, batch);
/// }
/// # Ok::<(), bicl::Error>(())
/// ```
pub struct Uploader {
    device: Device,
    staging: Option<Staging>,
}

impl Uploader {
    /// With no memory yet.
    ///
    /// Errors: when the driver gives no second stream.
    pub fn new(device: &Device) -> Result<Self> {
        let staging = device.as_cuda().map(Staging::new).transpose()?;
        Ok(Self { device: device.clone(), staging })
    }

    /// Where it copies to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Begins to copy the parts of `source`, one after the other, into the buffer, of the same size and on this device.
    pub(crate) fn start(&mut self, op: &str, target: &mut Buffer, source: &[&[u8]]) -> Result<()> {
        match (&mut self.staging, &self.device.0) {
            (Some(staging), Place::Cuda(_)) => {
                let advice = "host memory may be gone at a replay; write to the tensor between replays";
                self.device.expect_no_capture(op, advice)?;
                staging.start(target, source)
            }
            _ => self.device.upload(op, target, &source.concat()),
        }
    }
}
