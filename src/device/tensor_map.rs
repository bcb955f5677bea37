//! Tensor maps: what the copies of a Hopper GPU know about a tensor in memory, and the box of it that one copy moves.

use super::{Device, Place};
use crate::{Error, Result};

/// Bytes of the lines in which boxes are swizzled.
const LINE_BYTES: u64 = 128;

/// A tensor as copies see it: extents, strides, and what one copy moves. All lists are fastest dimension first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MapSpec {
    /// Bytes of an element: 2 for bf16, 4 for f32.
    pub element: u64,
    /// Elements along each of the two to five dimensions.
    pub extents: Vec<u64>,
    /// Bytes from one to the next along dimensions 1 and up: one fewer than extents, multiples of 16.
    pub strides: Vec<u64>,
    /// What a copy moves.
    pub access: MapAccess,
    /// Whether the box lies in shared memory in swizzled lines of 128 bytes, else densely.
    pub swizzled: bool,
}

/// What one copy moves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MapAccess {
    /// A box of so many elements along each dimension, 1..=256.
    Tiled {
        /// Elements along each dimension.
        extents: Vec<u32>,
    },
    /// Of a tensor [N,H,W,C] (extents C, W, H, N): `pixels` pixels, `channels` channels of each, along the rows of a bounding
    /// box and on into the next image. The box is what a tap of a convolution visits. Pairs are (x, y).
    Im2col {
        /// Where the box begins, from the image's first pixel: -128..=127; a convolution's negated padding.
        lower: [i32; 2],
        /// Where it ends, from the image's last pixel: -128..=127; padding less the last tap's distance from the first.
        upper: [i32; 2],
        /// 1..=256.
        channels: u32,
        /// 1..=1024.
        pixels: u32,
        /// From one pixel to the next, 1..=8: a convolution's stride.
        step: [u32; 2],
    },
}

/// A map as kernels take it, by value: the driver's on a GPU, the emulator's own on the emulator, zeros on a plan.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct TensorMap([u8; TensorMap::BYTES]);

impl MapSpec {
    /// Errors, as a shape error of `op`, on what the driver would refuse without a reason.
    pub fn check(&self, op: &'static str) -> Result<()> {
        self.refusal().map_or(Ok(()), |why| Err(Error::shape(op, format!("tensor map: {why}"))))
    }

    fn refusal(&self) -> Option<String> {
        let rank = self.extents.len();
        if !(2..=5).contains(&rank) {
            return Some(format!("{rank} dimensions, must be 2..=5"));
        }
        if ![2, 4].contains(&self.element) {
            return Some(format!("elements of {} bytes, must be 2 or 4", self.element));
        }
        if let Some(extent) = self.extents.iter().find(|extent| !(1..=1 << 32).contains(*extent)) {
            return Some(format!("extent {extent}, must be 1..=2^32"));
        }
        if self.strides.len() != rank - 1 {
            return Some(format!("{} strides, must be {} for {rank} dimensions", self.strides.len(), rank - 1));
        }
        if let Some(stride) = self.strides.iter().find(|&stride| !stride.is_multiple_of(16) || *stride >= 1 << 40) {
            return Some(format!("stride {stride}, must be a multiple of 16 below 2^40 bytes"));
        }
        let inner = match &self.access {
            MapAccess::Tiled { extents } => {
                if extents.len() != rank {
                    return Some(format!("a box of {} dimensions in {rank}", extents.len()));
                }
                if let Some(extent) = extents.iter().find(|extent| !(1..=256).contains(*extent)) {
                    return Some(format!("box extent {extent}, must be 1..=256"));
                }
                extents[0]
            }
            MapAccess::Im2col { lower, upper, channels, pixels, step } => {
                if rank != 4 {
                    return Some(format!("im2col over {rank} dimensions, must be 4"));
                }
                if let Some(corner) = lower.iter().chain(upper).find(|corner| !(-128..=127).contains(*corner)) {
                    return Some(format!("corner {corner}, must be -128..=127"));
                }
                let left = |i: usize| self.extents[i + 1] as i64 + i64::from(upper[i]) - i64::from(lower[i]);
                if left(0) < 1 || left(1) < 1 {
                    return Some(format!("nothing between the corners {lower:?} and {upper:?}"));
                }
                if !(1..=256).contains(channels) {
                    return Some(format!("{channels} channels, must be 1..=256"));
                }
                if !(1..=1024).contains(pixels) {
                    return Some(format!("{pixels} pixels, must be 1..=1024"));
                }
                if let Some(step) = step.iter().find(|step| !(1..=8).contains(*step)) {
                    return Some(format!("step {step}, must be 1..=8"));
                }
                *channels
            }
        };
        let bytes = u64::from(inner) * self.element;
        if !bytes.is_multiple_of(16) {
            return Some(format!("lines of {bytes} bytes, must be a multiple of 16"));
        }
        (self.swizzled && bytes > LINE_BYTES)
            .then(|| format!("lines of {bytes} bytes, must be at most {LINE_BYTES} where swizzled"))
    }

    /// How far the map reaches from its address, in bytes; saturating. Corners and boxes add nothing: what they reach beyond
    /// the extents is never touched.
    pub fn bytes(&self) -> u64 {
        let last = |extent: &u64| extent.saturating_sub(1);
        let (Some(inner), outer) = (self.extents.first(), self.extents.iter().skip(1)) else { return 0 };
        outer.zip(&self.strides).fold(inner.saturating_mul(self.element), |bytes, (extent, stride)| {
            bytes.saturating_add(last(extent).saturating_mul(*stride))
        })
    }
}

impl TensorMap {
    /// Its size, which the architecture fixes.
    pub const BYTES: usize = 128;
    /// Of no tensor.
    pub const NONE: Self = Self([0; Self::BYTES]);

    /// The driver's bytes, or others'.
    pub(super) fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// What the emulator reads as its `CUtensorMap` (kernels/include/hopper_emulated.cuh): a struct with the members
    ///
    /// ```text
    ///   0  uint64_t base
    ///   8  uint64_t stride[4]           bytes, of dimensions 1 and up
    ///  40  uint32_t extent[5]           elements
    ///  60  uint16_t box[5]              tiled: elements along each dimension; im2col: channels, pixels
    ///  70  int16_t  lower[2], upper[2]
    ///  78  uint8_t  step[5]             by dimension; 1 but for im2col's x and y
    ///  83  uint8_t  rank, im2col (0, 1), swizzle (0, 1), element (bytes)
    ///  87  uint8_t  unused[41]
    /// ```
    ///
    /// Errors: a spec that does not pass its check; an extent of 2^32, for which the emulator has no room.
    fn emulated(address: usize, spec: &MapSpec) -> Result<Self> {
        const OP: &str = "tensor map";
        spec.check(OP)?;
        let mut bytes = [0; Self::BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &(address as u64).to_ne_bytes());
        for (i, stride) in spec.strides.iter().enumerate() {
            put(8 + 8 * i, &stride.to_ne_bytes());
        }
        for (i, &extent) in spec.extents.iter().enumerate() {
            let extent = u32::try_from(extent).map_err(|_| Error::shape(OP, "extent 2^32 on the emulator"))?;
            put(40 + 4 * i, &extent.to_ne_bytes());
        }
        put(78, &[1; 5]);
        // The check has bounded everything that is narrowed here.
        match &spec.access {
            MapAccess::Tiled { extents } => {
                for (i, &extent) in extents.iter().enumerate() {
                    put(60 + 2 * i, &(extent as u16).to_ne_bytes());
                }
            }
            MapAccess::Im2col { lower, upper, channels, pixels, step } => {
                put(60, &(*channels as u16).to_ne_bytes());
                put(62, &(*pixels as u16).to_ne_bytes());
                for (i, &corner) in lower.iter().chain(upper).enumerate() {
                    put(70 + 2 * i, &(corner as i16).to_ne_bytes());
                }
                put(79, &step.map(|step| step as u8));
            }
        }
        let im2col = matches!(spec.access, MapAccess::Im2col { .. });
        put(83, &[spec.extents.len() as u8, u8::from(im2col), u8::from(spec.swizzled), spec.element as u8]);
        Ok(Self(bytes))
    }
}

impl Device {
    /// The map of the tensor at `address`, a multiple of 16.
    ///
    /// Errors: a spec that does not pass its check; the CPU; what the driver refuses.
    pub(crate) fn tensor_map(&self, address: usize, spec: &MapSpec) -> Result<TensorMap> {
        match &self.0 {
            Place::Cpu => Err(Error::Internal("a tensor map on the CPU device".into())),
            Place::Cuda(cuda) => cuda.tensor_map(address, spec),
            Place::Emulated(_) => TensorMap::emulated(address, spec),
            Place::Plan(_) => spec.check("tensor map").map(|()| bytemuck::Zeroable::zeroed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box of 16 x 64 of bf16 [40,100], lines 256 bytes apart.
    fn tiled() -> MapSpec {
        let access = MapAccess::Tiled { extents: vec![64, 16] };
        MapSpec { element: 2, extents: vec![100, 40], strides: vec![256], access, swizzled: true }
    }

    /// 32 pixels of 32 channels of f32 [3,9,11,96], for a 3 x 3 tap pattern with padding (2, 1) and stride (2, 3).
    fn im2col() -> MapSpec {
        let access = MapAccess::Im2col { lower: [-2, -1], upper: [0, -1], channels: 32, pixels: 48, step: [2, 3] };
        let strides = vec![384, 384 * 11, 384 * 11 * 9];
        MapSpec { element: 4, extents: vec![96, 11, 9, 3], strides, access, swizzled: false }
    }

    /// The check's refusal of `spec` after a change.
    fn refused(mut spec: MapSpec, change: impl FnOnce(&mut MapSpec)) -> String {
        change(&mut spec);
        spec.check("copy").map_or_else(|error| error.to_string(), |()| "accepted".into())
    }

    fn refused_box(change: impl FnOnce(&mut Vec<u32>)) -> String {
        refused(tiled(), |spec| match &mut spec.access {
            MapAccess::Tiled { extents } => change(extents),
            MapAccess::Im2col { .. } => unreachable!(),
        })
    }

    type Im2colFields<'a> = (&'a mut [i32; 2], &'a mut [i32; 2], &'a mut u32, &'a mut u32, &'a mut [u32; 2]);

    fn refused_im2col(change: impl FnOnce(Im2colFields)) -> String {
        refused(im2col(), |spec| match &mut spec.access {
            MapAccess::Im2col { lower, upper, channels, pixels, step } => {
                change((lower, upper, channels, pixels, step))
            }
            MapAccess::Tiled { .. } => unreachable!(),
        })
    }

    #[test]
    fn what_the_driver_takes_passes() {
        assert_eq!(refused(tiled(), |_| {}), "accepted");
        assert_eq!(refused(im2col(), |_| {}), "accepted");
        assert_eq!(refused(tiled(), |spec| spec.extents[1] = 1 << 32), "accepted");
        assert_eq!(refused(tiled(), |spec| spec.strides[0] = (1 << 40) - 16), "accepted");
        assert_eq!(refused_box(|extents| extents[1] = 256), "accepted");
        assert_eq!(refused_im2col(|(lower, upper, ..)| (*lower, *upper) = ([-128; 2], [127; 2])), "accepted");
        assert_eq!(refused_im2col(|(_, _, channels, pixels, _)| (*channels, *pixels) = (256, 1024)), "accepted");
        assert_eq!(refused_im2col(|(.., step)| *step = [1, 8]), "accepted");
        assert_eq!(refused_im2col(|(lower, upper, ..)| (*lower, *upper) = ([0; 2], [-10, -8])), "accepted");
    }

    #[test]
    fn what_the_driver_refuses_is_refused_with_the_reason() {
        let says = |got: String, want: &str| assert_eq!(got, format!("copy: tensor map: {want}"));
        let one = |spec: &mut MapSpec| (spec.extents, spec.strides) = (vec![64], vec![]);
        says(refused(tiled(), one), "1 dimensions, must be 2..=5");
        let six = |spec: &mut MapSpec| (spec.extents, spec.strides) = (vec![64; 6], vec![128; 5]);
        says(refused(tiled(), six), "6 dimensions, must be 2..=5");
        says(refused(tiled(), |spec| spec.element = 8), "elements of 8 bytes, must be 2 or 4");
        says(refused(tiled(), |spec| spec.extents[0] = 0), "extent 0, must be 1..=2^32");
        says(refused(tiled(), |spec| spec.extents[1] = (1 << 32) + 1), "extent 4294967297, must be 1..=2^32");
        says(refused(tiled(), |spec| spec.strides = vec![]), "0 strides, must be 1 for 2 dimensions");
        let stride = |stride| refused(tiled(), |spec| spec.strides[0] = stride);
        says(stride(200), "stride 200, must be a multiple of 16 below 2^40 bytes");
        says(stride(1 << 40), "stride 1099511627776, must be a multiple of 16 below 2^40 bytes");
        says(refused_box(|extents| extents.push(1)), "a box of 3 dimensions in 2");
        says(refused_box(|extents| extents[1] = 0), "box extent 0, must be 1..=256");
        says(refused_box(|extents| extents[1] = 257), "box extent 257, must be 1..=256");
        says(refused_box(|extents| extents[0] = 60), "lines of 120 bytes, must be a multiple of 16");
        says(refused_box(|extents| extents[0] = 72), "lines of 144 bytes, must be at most 128 where swizzled");
        let flat = |spec: &mut MapSpec| (spec.extents, spec.strides) = (vec![96, 11, 9], vec![384, 384 * 11]);
        says(refused(im2col(), flat), "im2col over 3 dimensions, must be 4");
        says(refused_im2col(|(lower, ..)| lower[1] = -129), "corner -129, must be -128..=127");
        says(refused_im2col(|(_, upper, ..)| upper[0] = 128), "corner 128, must be -128..=127");
        let empty = refused_im2col(|(lower, upper, ..)| (*lower, *upper) = ([0; 2], [0, -9]));
        says(empty, "nothing between the corners [0, 0] and [0, -9]");
        says(refused_im2col(|(_, _, channels, ..)| *channels = 0), "0 channels, must be 1..=256");
        says(refused_im2col(|(_, _, channels, ..)| *channels = 257), "257 channels, must be 1..=256");
        says(refused_im2col(|(_, _, channels, ..)| *channels = 6), "lines of 24 bytes, must be a multiple of 16");
        says(refused_im2col(|(_, _, _, pixels, _)| *pixels = 0), "0 pixels, must be 1..=1024");
        says(refused_im2col(|(_, _, _, pixels, _)| *pixels = 1025), "1025 pixels, must be 1..=1024");
        says(refused_im2col(|(.., step)| step[0] = 0), "step 0, must be 1..=8");
        says(refused_im2col(|(.., step)| step[1] = 9), "step 9, must be 1..=8");
    }

    #[test]
    fn a_map_reaches_to_its_last_element() {
        assert_eq!(tiled().bytes(), 39 * 256 + 200);
        assert_eq!(im2col().bytes(), 3 * 9 * 11 * 96 * 4, "dense: the whole tensor");
        let huge = MapSpec { strides: vec![u64::MAX - 15], ..tiled() };
        assert_eq!(huge.bytes(), u64::MAX, "no wrapping around");
    }

    /// The members of a struct of C, one after the other.
    fn joined(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn wide<const N: usize>(values: [u64; N]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    fn middle<const N: usize>(values: [u32; N]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    fn narrow<const N: usize>(values: [i16; N]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    #[test]
    fn the_emulator_gets_its_struct() {
        let got = TensorMap::emulated(0x1234_5678_9abc_def0, &tiled()).unwrap();
        let want = joined(&[
            &wide([0x1234_5678_9abc_def0]),
            &wide([256, 0, 0, 0]),
            &middle([100, 40, 0, 0, 0]),
            &narrow([64, 16, 0, 0, 0]),
            &narrow([0, 0, 0, 0]),
            &[1, 1, 1, 1, 1],
            &[2, 0, 1, 2],
            &[0; 41],
        ]);
        assert_eq!(bytemuck::bytes_of(&got), want);
        let got = TensorMap::emulated(64, &im2col()).unwrap();
        let want = joined(&[
            &wide([64]),
            &wide([384, 4224, 38016, 0]),
            &middle([96, 11, 9, 3, 0]),
            &narrow([32, 48, 0, 0, 0]),
            &narrow([-2, -1, 0, -1]),
            &[1, 2, 3, 1, 1],
            &[4, 1, 0, 4],
            &[0; 41],
        ]);
        assert_eq!(bytemuck::bytes_of(&got), want);
        assert_eq!((size_of::<TensorMap>(), align_of::<TensorMap>()), (128, 64));
    }

    #[test]
    fn no_device_makes_a_map_that_the_check_refuses() {
        let broken = MapSpec { element: 8, ..tiled() };
        assert!(TensorMap::emulated(64, &broken).is_err());
        let plan = Device::plan();
        assert!(plan.tensor_map(64, &broken).is_err());
        assert_eq!(plan.tensor_map(64, &tiled()).unwrap(), TensorMap::new([0; TensorMap::BYTES]));
        assert!(Device::cpu().tensor_map(64, &tiled()).is_err());
        assert!(TensorMap::emulated(64, &MapSpec { extents: vec![100, 1 << 32], ..tiled() }).is_err());
    }
}
