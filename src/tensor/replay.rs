//! What a captured step needs of tensors: new content in the same memory, and results that nobody waits for.

use std::{marker::PhantomData, sync::Arc};

use super::{Element, Tensor};
use crate::{
    Error, Result,
    device::{Buffer, Graph, Readback, Uploader},
};

/// A copy to the host under way. See [`Tensor::read_later`].
#[must_use = "the copy is for whoever waits for it"]
pub struct Pending<T> {
    readback: Readback,
    element: PhantomData<T>,
}

impl<T: Element> Pending<T> {
    /// The elements as they were when [`Tensor::read_later`] was called; waits for the work launched before that, and
    /// for no later work.
    ///
    /// Errors: when a kernel failed.
    pub fn wait(self) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); self.readback.len() / size_of::<T>()];
        self.readback.wait(bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }
}

impl Tensor {
    /// Begins to copy the elements to the host and returns at once, so that the next step can be launched before this
    /// one's losses are looked at. Off the GPU the copy is complete at once.
    ///
    /// ```
    /// use bicl::{Device, Tensor};
    /// let mut x = Tensor::from_vec(vec![1.0f32, 2.0], &[2], &Device::best())?;
    /// let before = x.read_later::<f32>()?;
    /// x.write_from(&[3.0f32, 4.0])?;
    /// assert_eq!(before.wait()?, [1.0, 2.0]);
    /// # Ok::<(), bicl::Error>(())
    /// ```
    ///
    /// Errors: another dtype; inside a capture.
    pub fn read_later<T: Element>(&self) -> Result<Pending<T>> {
        self.expect_dtype::<T>("read_later")?;
        Ok(Pending { readback: self.device.download_later("read_later", &self.buffer)?, element: PhantomData })
    }

    /// Overwrites all elements in place: the memory stays the one that captured graphs read.
    ///
    /// ```
    /// use bicl::{Device, Tensor};
    /// let mut x = Tensor::from_vec(vec![1.0f32, 2.0], &[2], &Device::cpu())?;
    /// x.write_from(&[3.0f32, 4.0])?;
    /// assert_eq!(x.to_vec::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), bicl::Error>(())
    /// ```
    ///
    /// Errors: another dtype or number of elements; memory that another tensor shares; inside a capture.
    pub fn write_from<T: Element>(&mut self, data: &[T]) -> Result<()> {
        const OP: &str = "write_from";
        let device = self.device.clone();
        let target = self.in_place::<T>(OP, data.len())?;
        device.upload(OP, target, bytemuck::cast_slice(data))
    }

    /// As [`Tensor::write_from`], through an [`Uploader`] of the same device: the copy from the host overlaps the work that
    /// was launched before, which still finds the old content.
    ///
    /// Errors: as [`Tensor::write_from`]; an uploader of another device.
    pub fn write_through<T: Element>(&mut self, uploader: &mut Uploader, data: &[T]) -> Result<()> {
        self.write_parts_through(uploader, &[data])
    }

    /// The same with data that lies in several places.
    pub(crate) fn write_parts_through<T: Element>(&mut self, uploader: &mut Uploader, parts: &[&[T]]) -> Result<()> {
        const OP: &str = "write_through";
        if uploader.device() != &self.device {
            let (left, right) = (self.device.to_string(), uploader.device().to_string());
            return Err(Error::DeviceMismatch { op: OP, left, right });
        }
        let elements = parts.iter().map(|part| part.len()).sum();
        let parts: Vec<&[u8]> = parts.iter().map(|part| bytemuck::cast_slice(part)).collect();
        uploader.start(OP, self.in_place::<T>(OP, elements)?, &parts)
    }

    /// Overwrites all elements in place with those of `source`, of the same shape, dtype and device. A captured step may
    /// do so, to carry a tensor to its next replay.
    ///
    /// Errors: shapes, dtypes or devices that differ; memory of this tensor that another shares.
    pub fn copy_from(&mut self, source: &Tensor) -> Result<()> {
        const OP: &str = "copy_from";
        source.expect_shape(&self.shape, OP, "the source")?;
        self.expect_same_device(source, OP)?;
        if source.dtype != self.dtype {
            return Err(Error::shape(OP, format!("dtypes {} and {} differ; convert one", self.dtype, source.dtype)));
        }
        let device = self.device.clone();
        device.copy(self.unshared(OP)?, &source.buffer)
    }

    /// Whether a replay of the graph can read or write this tensor's memory. A parameter or input for which this is
    /// false was replaced after the capture, and replays no longer see it.
    pub fn is_used_by(&self, graph: &Graph) -> bool {
        graph.uses(&self.buffer)
    }

    fn in_place<T: Element>(&mut self, op: &'static str, elements: usize) -> Result<&mut Buffer> {
        self.expect_dtype::<T>(op)?;
        if elements != self.len() {
            return Err(Error::shape(op, format!("{elements} elements do not fill the shape {:?}", self.shape)));
        }
        self.unshared(op)
    }

    /// The buffer for writing; a copy would leave the memory that others know.
    fn unshared(&mut self, op: &'static str) -> Result<&mut Buffer> {
        let shared = || Error::shape(op, "another tensor shares this memory; drop it first, or write to a duplicate()");
        Arc::get_mut(&mut self.buffer).ok_or_else(shared)
    }
}
