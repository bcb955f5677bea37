//! Typed kernel launches. `kernels!` states a kernel's name and parameters once; what comes out checks dtypes and
//! devices, packs the arguments as `cuLaunchKernel` wants them, and serves GPUs and the emulator alike.

use std::{ffi::c_void, marker::PhantomData};

use super::{Element, Tensor};
use crate::{
    Device, Error, Result,
    device::{MapSpec, TensorMap},
};

/// A kernel's symbol and the sizes of its parameters, to be held against the compiled PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The kernel file's stem.
    pub image: &'static str,
    /// The exported symbol.
    pub symbol: &'static str,
    /// Size of each parameter in bytes.
    pub sizes: Vec<usize>,
}

/// A kernel parameter: what the caller hands over, and what the kernel receives.
pub trait Param {
    /// The argument of the Rust function.
    type Host<'a>;
    /// The parameter's bytes.
    type Packed;
    /// Its size in the kernel's parameter space.
    const SIZE: usize = size_of::<Self::Packed>();
    /// Bytes that the kernel reads and writes through it.
    fn traffic(_: &Self::Host<'_>) -> usize {
        0
    }
    /// Checks and converts.
    fn pack(kernel: &'static str, device: &Device, host: Self::Host<'_>) -> Result<Self::Packed>;
}

/// `const T*`: a tensor that the kernel reads.
pub struct In<T>(PhantomData<T>);
/// `T*`: a tensor that the kernel writes; its old content is not read.
pub struct Out<T>(PhantomData<T>);
/// `T*`: a tensor that the kernel reads and writes.
pub struct Inout<T>(PhantomData<T>);
/// `const T*`, null where the tensor is left out.
pub struct OptIn<T>(PhantomData<T>);
/// `T*`, null where the tensor is left out.
pub struct OptOut<T>(PhantomData<T>);
/// A parameter by value: a number or a `#[repr(C)]` struct.
pub struct Val<T>(PhantomData<T>);
/// A parameter by value that holds addresses of tensors: the struct, and the bytes that the kernel reads and writes there.
pub struct Table<T>(PhantomData<T>);
/// `const GRID_CONSTANT CUtensorMap`: a tensor, bf16 or f32, that the kernel reads by copies of this map.
pub(crate) struct MapIn<T>(PhantomData<T>);
/// The same, all zero where the tensor is left out. Its address is in an epilogue too, which counts its bytes.
pub(crate) struct OptMapIn<T>(PhantomData<T>);
/// The same for a tensor that the kernel writes by copies of this map; its old content is not read, and stays where none goes.
pub(crate) struct MapOut<T>(PhantomData<T>);

/// `unsigned*`: counters of the device, zero before the launch and after it; the host says how many.
pub(crate) struct Semaphores;

fn check<T: Element>(kernel: &'static str, device: &Device, tensor: &Tensor) -> Result<()> {
    tensor.expect_dtype::<T>(kernel)?;
    if tensor.device != *device {
        let (left, right) = (device.to_string(), tensor.device.to_string());
        return Err(Error::DeviceMismatch { op: kernel, left, right });
    }
    Ok(())
}

/// The address for a launch. A capture under way keeps the memory: every parameter with an address comes through here.
fn used(device: &Device, tensor: &Tensor) -> Result<usize> {
    device.note_use(&tensor.buffer)?;
    Ok(tensor.buffer.address())
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.len() * tensor.dtype().size()
}

impl<T: Element> Param for In<T> {
    type Host<'a> = &'a Tensor;
    type Packed = usize;
    fn traffic(host: &&Tensor) -> usize {
        bytes(host)
    }
    fn pack(kernel: &'static str, device: &Device, host: &Tensor) -> Result<usize> {
        check::<T>(kernel, device, host)?;
        used(device, host)
    }
}

impl<T: Element> Param for Out<T> {
    type Host<'a> = &'a mut Tensor;
    type Packed = usize;
    fn traffic(host: &&mut Tensor) -> usize {
        bytes(host)
    }
    fn pack(kernel: &'static str, device: &Device, host: &mut Tensor) -> Result<usize> {
        check::<T>(kernel, device, host)?;
        host.unique()?;
        used(device, host)
    }
}

impl<T: Element> Param for Inout<T> {
    type Host<'a> = &'a mut Tensor;
    type Packed = usize;
    fn traffic(host: &&mut Tensor) -> usize {
        2 * bytes(host)
    }
    fn pack(kernel: &'static str, device: &Device, host: &mut Tensor) -> Result<usize> {
        Out::<T>::pack(kernel, device, host)
    }
}

impl<T: Element> Param for OptIn<T> {
    type Host<'a> = Option<&'a Tensor>;
    type Packed = usize;
    fn traffic(host: &Option<&Tensor>) -> usize {
        host.map_or(0, bytes)
    }
    fn pack(kernel: &'static str, device: &Device, host: Option<&Tensor>) -> Result<usize> {
        host.map_or(Ok(0), |tensor| In::<T>::pack(kernel, device, tensor))
    }
}

impl<T: Element> Param for OptOut<T> {
    type Host<'a> = Option<&'a mut Tensor>;
    type Packed = usize;
    fn traffic(host: &Option<&mut Tensor>) -> usize {
        host.as_ref().map_or(0, |tensor| bytes(tensor))
    }
    fn pack(kernel: &'static str, device: &Device, host: Option<&mut Tensor>) -> Result<usize> {
        host.map_or(Ok(0), |tensor| Out::<T>::pack(kernel, device, tensor))
    }
}

impl Param for Semaphores {
    type Host<'a> = usize;
    type Packed = usize;
    fn pack(kernel: &'static str, device: &Device, count: usize) -> Result<usize> {
        device.semaphores(kernel, count)
    }
}

impl<T: bytemuck::NoUninit> Param for Val<T> {
    type Host<'a> = T;
    type Packed = T;
    fn pack(_: &'static str, _: &Device, host: T) -> Result<T> {
        Ok(host)
    }
}

impl<T: bytemuck::NoUninit> Param for Table<T> {
    type Host<'a> = (T, usize);
    type Packed = T;
    fn traffic(host: &(T, usize)) -> usize {
        host.1
    }
    fn pack(_: &'static str, _: &Device, host: (T, usize)) -> Result<T> {
        Ok(host.0)
    }
}

/// The map of a tensor, which must not reach beyond it.
fn map<T: Element>(kernel: &'static str, device: &Device, tensor: &Tensor, spec: &MapSpec) -> Result<TensorMap> {
    check::<T>(kernel, device, tensor)?;
    spec.check(kernel)?;
    if spec.element != size_of::<T>() as u64 || !T::DTYPE.is_float() {
        let want = "the float of the map's elements";
        return Err(Error::DType { op: kernel, got: T::DTYPE, want });
    }
    if spec.bytes() > bytes(tensor) as u64 {
        let (reach, own) = (spec.bytes(), bytes(tensor));
        return Err(Error::shape(kernel, format!("a tensor map reaches {reach} bytes into a tensor of {own}")));
    }
    device.tensor_map(used(device, tensor)?, spec)
}

impl<T: Element> Param for MapIn<T> {
    type Host<'a> = (&'a Tensor, &'a MapSpec);
    type Packed = TensorMap;
    fn traffic(host: &(&Tensor, &MapSpec)) -> usize {
        bytes(host.0)
    }
    fn pack(kernel: &'static str, device: &Device, (tensor, spec): (&Tensor, &MapSpec)) -> Result<TensorMap> {
        map::<T>(kernel, device, tensor, spec)
    }
}

impl<T: Element> Param for OptMapIn<T> {
    type Host<'a> = Option<(&'a Tensor, &'a MapSpec)>;
    type Packed = TensorMap;
    fn pack(kernel: &'static str, device: &Device, host: Option<(&Tensor, &MapSpec)>) -> Result<TensorMap> {
        host.map_or(Ok(TensorMap::NONE), |map| MapIn::<T>::pack(kernel, device, map))
    }
}

impl<T: Element> Param for MapOut<T> {
    type Host<'a> = (&'a mut Tensor, &'a MapSpec);
    type Packed = TensorMap;
    fn traffic(host: &(&mut Tensor, &MapSpec)) -> usize {
        bytes(host.0)
    }
    fn pack(kernel: &'static str, device: &Device, (tensor, spec): (&mut Tensor, &MapSpec)) -> Result<TensorMap> {
        check::<T>(kernel, device, tensor)?;
        tensor.unique()?;
        map::<T>(kernel, device, tensor, spec)
    }
}

/// The address of a packed argument, as `cuLaunchKernel`'s `kernelParams` wants it.
pub(crate) fn address_of<P>(packed: &mut P) -> *mut c_void {
    std::ptr::from_mut(packed).cast()
}

/// Declares the kernels of one kernel file.
///
/// ```ignore
/// kernels! { "relu";
///     /// y = max(x, 0)
///     fn relu_forward<T in f32 | f64 | bf16>(x: In<T>, y: Out<T>, count: Val<i32>);
///     /// C = A B
///     fn gemm<T in f32 | bf16; Tile in [large small]>(a: In<T>, b: In<T>, c: Out<T>);
///     fn relu_count(x: In<f32>, n: Out<u32>);
/// }
/// ```
///
/// Each line becomes a function and an entry of `declarations()`:
///
/// - `unsafe fn relu_forward<T: Element>(device, launch, x, y, count) -> Result<()>`, which runs the exported symbol
///   `relu_forward_f32`, `_f64` or `_bf16`;
/// - `unsafe fn gemm<T: Element>(device, launch, tile: Tile, a, b, c)`, which runs `gemm_large_f32` or one of the other three, by
///   [`Variant::name`] of the tile;
/// - `unsafe fn relu_count(device, launch, x, n)`, which runs the symbol of its name.
macro_rules! kernels {
    ($image:literal; $($items:tt)*) => {
        $crate::kernels!(@items $image [] $($items)*);
    };
    (@items $image:literal [$($done:ident)*]) => {
        /// What this file declares.
        pub(crate) fn declarations() -> Vec<$crate::tensor::Declaration> {
            let mut all = Vec::new();
            $( $done::declare(&mut all); )*
            all
        }
    };
    (@items $image:literal [$($done:ident)*]
        $(#[$meta:meta])* fn $name:ident < $t:ident in $($instance:ident)|+ > ( $($arg:ident : $p:ty),* $(,)? ); $($rest:tt)*
    ) => {
        $crate::kernels!(@generic $image [$(#[$meta])*] $name $t [$($instance)+] [] () "" ($($arg: $p),*));
        $crate::kernels!(@items $image [$($done)* $name] $($rest)*);
    };
    (@items $image:literal [$($done:ident)*]
        $(#[$meta:meta])* fn $name:ident < $t:ident in $($instance:ident)|+ ; $axis:ident in $variants:tt >
        ( $($arg:ident : $p:ty),* $(,)? ); $($rest:tt)*
    ) => {
        $crate::kernels!(@generic $image [$(#[$meta])*] $name $t [$($instance)+] $variants (variant: $axis)
            ($crate::tensor::Variant::name(variant)) ($($arg: $p),*));
        $crate::kernels!(@items $image [$($done)* $name] $($rest)*);
    };
    // `$variants` stays one token, so that it can stand inside the repetition over the instances.
    (@generic $image:literal [$(#[$meta:meta])*] $name:ident $t:ident [$($instance:ident)+] $variants:tt
        ($($variant:ident : $axis:ident)?) $wanted:tt ($($arg:ident : $p:ty),*)
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The tensors have the extents that the kernel's contract states for the arguments and the launch.
        #[allow(clippy::too_many_arguments)]
        pub(crate) unsafe fn $name<$t: $crate::tensor::Element>(
            device: &$crate::Device,
            launch: $crate::device::Launch,
            $($variant: $axis,)?
            $($arg: <$p as $crate::tensor::Param>::Host<'_>),*
        ) -> $crate::Result<()> {
            let symbols: &[(&str, &'static str)] = match $t::DTYPE {
                $( <$instance as $crate::tensor::Element>::DTYPE => $crate::kernels!(@symbols $name $instance $variants), )+
                got => return Err($crate::Error::DType { op: stringify!($name), got, want: stringify!($($instance)|+) }),
            };
            let symbol = $crate::tensor::symbol(stringify!($name), symbols, $wanted)?;
            $crate::kernels!(@launch $image symbol device launch $($arg: $p),*)
        }
        #[allow(non_snake_case)]
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            // A kernel may name its type in a table alone.
            #[allow(clippy::extra_unused_type_parameters)]
            fn sizes<$t: $crate::tensor::Element>() -> Vec<usize> {
                vec![$( <$p as $crate::tensor::Param>::SIZE ),*]
            }
            pub fn declare(all: &mut Vec<$crate::tensor::Declaration>) {
                $(
                    let symbols: &[(&str, &'static str)] = $crate::kernels!(@symbols $name $instance $variants);
                    all.extend(symbols.iter().map(|&(_, symbol)| $crate::tensor::Declaration {
                        image: $image, symbol, sizes: sizes::<$instance>(),
                    }));
                )+
            }
        }
    };
    (@items $image:literal [$($done:ident)*]
        $(#[$meta:meta])* fn $name:ident ( $($arg:ident : $p:ty),* $(,)? ); $($rest:tt)*
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The tensors have the extents that the kernel's contract states for the arguments and the launch.
        #[allow(clippy::too_many_arguments)]
        pub(crate) unsafe fn $name(
            device: &$crate::Device, launch: $crate::device::Launch, $($arg: <$p as $crate::tensor::Param>::Host<'_>),*
        ) -> $crate::Result<()> {
            let symbol = stringify!($name);
            $crate::kernels!(@launch $image symbol device launch $($arg: $p),*)
        }
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            pub fn declare(all: &mut Vec<$crate::tensor::Declaration>) {
                let sizes = vec![$( <$p as $crate::tensor::Param>::SIZE ),*];
                all.push($crate::tensor::Declaration { image: $image, symbol: stringify!($name), sizes });
            }
        }
        $crate::kernels!(@items $image [$($done)* $name] $($rest)*);
    };
    (@symbols $name:ident $instance:ident []) => {
        &[("", concat!(stringify!($name), "_", stringify!($instance)))]
    };
    (@symbols $name:ident $instance:ident [$($variant:ident)+]) => {
        &[$( (stringify!($variant), concat!(stringify!($name), "_", stringify!($variant), "_", stringify!($instance))) ),+]
    };
    (@launch $image:literal $symbol:ident $device:ident $launch:ident $($arg:ident : $p:ty),*) => {{
        let bytes = 0 $( + <$p as $crate::tensor::Param>::traffic(&$arg) )*;
        $( let mut $arg = <$p as $crate::tensor::Param>::pack($symbol, $device, $arg)?; )*
        let mut args = [$( $crate::tensor::address_of(&mut $arg) ),*];
        let sizes = [$( <$p as $crate::tensor::Param>::SIZE ),*];
        // SAFETY: the arguments match the declaration, which tests/it/abi.rs holds against the PTX.
        unsafe { $device.launch($image, $symbol, $launch, &mut args, &sizes, bytes) }
    }};
}
pub(crate) use kernels;

/// One of several kernels that differ in a template argument, such as the tile.
pub(crate) trait Variant: Copy {
    /// As it stands in the symbol.
    fn name(self) -> &'static str;
}

/// The symbol of the `wanted` variant of `kernel`.
pub(crate) fn symbol(kernel: &'static str, symbols: &[(&str, &'static str)], wanted: &str) -> Result<&'static str> {
    let found = symbols.iter().find(|(variant, _)| *variant == wanted).map(|&(_, symbol)| symbol);
    found.ok_or_else(|| Error::Internal(format!("{kernel} has no variant {wanted:?}")))
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::{DType, device::MapAccess};

    /// Boxes of 8 x 64 of a dense [lines,64].
    fn spec(lines: u64) -> MapSpec {
        let access = MapAccess::Tiled { extents: vec![64, 8] };
        MapSpec { element: 2, extents: vec![64, lines], strides: vec![128], access, swizzled: true }
    }

    fn refused(tensor: &Tensor, spec: &MapSpec) -> String {
        let device = Device::plan();
        let error = MapIn::<bf16>::pack("k", tensor.device(), (tensor, spec)).err();
        assert!(MapIn::<bf16>::pack("k", &device, (tensor, spec)).is_err(), "another device");
        error.expect("it is refused").to_string()
    }

    #[test]
    fn a_map_stays_within_its_tensor() {
        let device = Device::plan();
        let mut tensor = Tensor::empty(&[10, 64], DType::Bf16, &device).unwrap();
        assert!(MapIn::<bf16>::pack("k", &device, (&tensor, &spec(10))).is_ok());
        assert!(MapOut::<bf16>::pack("k", &device, (&mut tensor, &spec(10))).is_ok());
        assert_eq!(refused(&tensor, &spec(11)), "k: a tensor map reaches 1408 bytes into a tensor of 1280");
        assert!(MapOut::<bf16>::pack("k", &device, (&mut tensor, &spec(11))).is_err());
    }

    #[test]
    fn a_map_has_the_elements_of_its_tensor() {
        let device = Device::plan();
        let floats = Tensor::empty(&[10, 64], DType::F32, &device).unwrap();
        assert!(refused(&floats, &spec(10)).contains("dtype f32"));
        let error = MapIn::<f32>::pack("k", &device, (&floats, &spec(10))).unwrap_err();
        assert!(error.to_string().contains("the float of the map's elements"), "{error}");
        let counts = Tensor::empty(&[10, 32], DType::U32, &device).unwrap();
        let access = MapAccess::Tiled { extents: vec![32, 8] };
        let of_counts = MapSpec { element: 4, extents: vec![32, 10], access, ..spec(10) };
        assert!(MapIn::<u32>::pack("k", &device, (&counts, &of_counts)).is_err());
    }

    #[test]
    fn a_map_counts_its_tensor_and_is_128_bytes() {
        let mut tensor = Tensor::empty(&[10, 64], DType::Bf16, &Device::plan()).unwrap();
        assert_eq!(MapIn::<bf16>::traffic(&(&tensor, &spec(2))), 1280);
        assert_eq!(MapOut::<bf16>::traffic(&(&mut tensor, &spec(2))), 1280);
        assert_eq!((MapIn::<bf16>::SIZE, MapOut::<bf16>::SIZE), (128, 128));
    }

    #[test]
    fn a_graph_keeps_the_tensors_of_its_maps() {
        let device = Device::plan();
        let [x, mut y, z] = [(); 3].map(|()| Tensor::empty(&[10, 64], DType::Bf16, &device).unwrap());
        let (graph, ()) = device
            .capture(|| {
                MapIn::<bf16>::pack("k", &device, (&x, &spec(10)))?;
                MapOut::<bf16>::pack("k", &device, (&mut y, &spec(10)))?;
                Ok(())
            })
            .unwrap();
        assert!(x.is_used_by(&graph) && y.is_used_by(&graph));
        assert!(!z.is_used_by(&graph));
    }

    #[test]
    fn a_map_to_be_written_is_of_memory_that_nobody_shares() {
        let device = Device::plan();
        let mut tensor = Tensor::empty(&[10, 64], DType::Bf16, &device).unwrap();
        let (shared, address) = (tensor.clone(), tensor.buffer.address());
        MapOut::<bf16>::pack("k", &device, (&mut tensor, &spec(10))).unwrap();
        assert_eq!(shared.buffer.address(), address);
        assert_ne!(tensor.buffer.address(), address);
    }
}
