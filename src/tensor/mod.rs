//! Dense tensors: a shape, an element type and a buffer on a device. Images are NHWC. There are no lazy views.

mod dtype;
mod elementwise;
mod launch;
mod replay;
mod rng;

use std::{fmt, sync::Arc};

pub use dtype::{DType, Element, Real};
pub(crate) use elementwise::declarations as tensor_declarations;
pub use launch::{Declaration, In, Inout, OptIn, OptOut, Out, Param, Table, Val};
pub(crate) use launch::{MapIn, MapOut, OptMapIn, Semaphores, Variant, address_of, kernels, symbol};
pub use replay::Pending;
pub use rng::Rng;
pub(crate) use rng::scatter;

use crate::{
    Device, Error, Result,
    device::{Buffer, Fill},
};

/// A dense array on a device. Cloning shares the memory; writing copies it first if it is shared.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
}

impl Tensor {
    /// A tensor of `shape` with the elements of `data` in row-major order.
    ///
    /// ```
    /// use bicl::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], &[3], &Device::cpu())?;
    /// assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
    /// # Ok::<(), bicl::Error>(())
    /// ```
    pub fn from_vec<T: Element>(data: Vec<T>, shape: &[usize], device: &Device) -> Result<Self> {
        Self::from_slice(&data, shape, device)
    }

    /// As [`Tensor::from_vec`], from borrowed data.
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize], device: &Device) -> Result<Self> {
        if Some(data.len()) != elements(shape) {
            return Err(Error::shape("tensor", format!("{} elements do not fill the shape {shape:?}", data.len())));
        }
        let mut tensor = Self::empty(shape, T::DTYPE, device)?;
        device.upload("tensor", tensor.unique()?, bytemuck::cast_slice(data))?;
        Ok(tensor)
    }

    /// Zeros.
    pub fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let mut tensor = Self::empty(shape, dtype, device)?;
        device.fill(tensor.unique()?, Fill::U8(0))?;
        Ok(tensor)
    }

    /// Every element `value`, of a float dtype.
    pub fn full(shape: &[usize], value: f64, dtype: DType, device: &Device) -> Result<Self> {
        let fill = match dtype {
            DType::F64 => Fill::U64(value.to_bits()),
            DType::F32 => Fill::U32((value as f32).to_bits()),
            DType::Bf16 => Fill::U16(half::bf16::from_f64(value).to_bits()),
            got => return Err(Error::DType { op: "full", got, want: "a float" }),
        };
        let mut tensor = Self::empty(shape, dtype, device)?;
        device.fill(tensor.unique()?, fill)?;
        Ok(tensor)
    }

    /// Memory to be written whole: its content is arbitrary, and NaN where kernels are under test.
    pub fn empty(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let bytes = Self::bytes(shape, dtype)?;
        let buffer = Arc::new(device.allocate(bytes)?);
        Ok(Self { buffer, shape: shape.to_vec(), dtype, device: device.clone() })
    }

    fn bytes(shape: &[usize], dtype: DType) -> Result<usize> {
        let bytes = elements(shape).and_then(|count| count.checked_mul(dtype.size()));
        let bytes = bytes.filter(|&bytes| bytes <= isize::MAX as usize / 2);
        bytes.ok_or_else(|| Error::shape("tensor", format!("shape {shape:?} does not fit memory")))
    }

    /// An uninitialised tensor like this one.
    pub fn empty_like(&self) -> Result<Self> {
        Self::empty(&self.shape, self.dtype, &self.device)
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its `N` extents, or an error that names `op`.
    pub fn dims<const N: usize>(&self, op: &'static str) -> Result<[usize; N]> {
        let wrong = |_| Error::shape(op, format!("expected {N} dimensions, got shape {:?}", self.shape));
        <[usize; N]>::try_from(self.shape.as_slice()).map_err(wrong)
    }

    /// The same elements under another shape of the same size; shares the memory.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if elements(shape) != Some(self.len()) {
            return Err(Error::shape("reshape", format!("{:?} cannot become {shape:?}", self.shape)));
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// The elements, copied to the host after all launched work.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype::<T>("to_vec")?;
        let mut data = vec![T::zeroed(); self.len()];
        self.device.download("to_vec", &self.buffer, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    /// The one element of a tensor of size 1, as f64.
    pub fn item(&self) -> Result<f64> {
        if self.len() != 1 {
            return Err(Error::shape("item", format!("shape {:?} holds more or less than one element", self.shape)));
        }
        match self.dtype {
            DType::F32 => Ok(f64::from(self.to_vec::<f32>()?[0])),
            DType::F64 => Ok(self.to_vec::<f64>()?[0]),
            DType::Bf16 => Ok(self.to_vec::<half::bf16>()?[0].to_f64()),
            DType::U8 => Ok(f64::from(self.to_vec::<u8>()?[0])),
            DType::U32 => Ok(f64::from(self.to_vec::<u32>()?[0])),
        }
    }

    /// A copy on `device`; on the same device the memory is shared, and used with the options of this handle.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if *device == self.device {
            return Ok(Self { device: device.clone(), ..self.clone() });
        }
        let mut bytes = vec![0u8; self.buffer.len()];
        self.device.download("to_device", &self.buffer, &mut bytes)?;
        let mut moved = Self::empty(&self.shape, self.dtype, device)?;
        device.upload("to_device", moved.unique()?, &bytes)?;
        Ok(moved)
    }

    /// A copy with its own memory.
    pub fn duplicate(&self) -> Result<Self> {
        let mut copy = self.empty_like()?;
        self.device.copy(copy.unique()?, &self.buffer)?;
        Ok(copy)
    }

    /// The elements, of a tensor in host memory (devices `cpu` and `emulated`) that no graph uses.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype::<T>("as_slice")?;
        self.expect_host("as_slice")?;
        Ok(bytemuck::cast_slice(self.buffer.as_host()))
    }

    /// The elements to be written, of a tensor in host memory; copies them first if the memory is shared.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype::<T>("as_mut_slice")?;
        self.expect_host("as_mut_slice")?;
        Ok(bytemuck::cast_slice_mut(self.unique()?.as_host_mut()))
    }

    /// Errors unless both are on one device.
    pub fn expect_same_device(&self, other: &Self, op: &'static str) -> Result<()> {
        if self.device == other.device {
            return Ok(());
        }
        Err(Error::DeviceMismatch { op, left: self.device.to_string(), right: other.device.to_string() })
    }

    /// Errors unless the shape is `shape`.
    pub fn expect_shape(&self, shape: &[usize], op: &'static str, name: &str) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        Err(Error::shape(op, format!("{name} must have shape {shape:?}, got {:?}", self.shape)))
    }

    fn expect_dtype<T: Element>(&self, op: &'static str) -> Result<()> {
        if self.dtype == T::DTYPE {
            return Ok(());
        }
        Err(Error::DType { op, got: self.dtype, want: std::any::type_name::<T>() })
    }

    fn expect_host(&self, op: &'static str) -> Result<()> {
        if self.device.is_cuda() {
            return Err(Error::shape(op, "the tensor is in GPU memory; copy it with to_vec or to_device"));
        }
        if self.buffer.is_in_graph() {
            return Err(Error::shape(op, "a captured graph writes to this memory; use to_vec and write_from"));
        }
        Ok(())
    }

    /// The buffer for writing, copied first if another tensor shares it.
    fn unique(&mut self) -> Result<&mut Buffer> {
        if Arc::get_mut(&mut self.buffer).is_none() {
            self.device.expect_may_copy(&self.buffer)?;
            let mut copy = self.device.allocate(self.buffer.len())?;
            self.device.copy(&mut copy, &self.buffer)?;
            self.buffer = Arc::new(copy);
        }
        Arc::get_mut(&mut self.buffer).ok_or_else(|| Error::Internal("a fresh buffer is shared".into()))
    }
}

/// How many elements a shape has; `None` where the number does not fit.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?}, {}, {})", self.shape, self.dtype, self.device)
    }
}
