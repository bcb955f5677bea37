//! Tensor maps as the emulator reads them (tools/emulator/src/tensor_map.h), and launches that take them.

use std::ffi::c_void;

use bicl::device::{Launch, Schedule};

#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Map {
    pub base: u64,
    pub stride: [u64; 4],
    pub extent: [u32; 5],
    pub boxed: [u16; 5],
    pub lower: [i16; 2],
    pub upper: [i16; 2],
    pub step: [u8; 5],
    pub rank: u8,
    pub im2col: u8,
    pub swizzle: u8,
    pub element: u8,
    pub unused: [u8; 41],
}
const _: () = assert!(size_of::<Map>() == 128);

impl Map {
    /// A dense bf16 tensor of these extents, fastest first, in swizzled boxes of 64 elements by `rows`.
    pub fn tiled(data: &mut Memory, extent: &[usize], rows: u16) -> Self {
        let mut map = Self {
            base: data.0.as_mut_ptr() as u64,
            stride: [0; 4],
            extent: [1; 5],
            boxed: [1; 5],
            lower: [0; 2],
            upper: [0; 2],
            step: [1; 5],
            rank: extent.len() as u8,
            im2col: 0,
            swizzle: 1,
            element: 2,
            unused: [0; 41],
        };
        let mut bytes = 2;
        for (d, &extent) in extent.iter().enumerate() {
            if d > 0 {
                map.stride[d - 1] = bytes;
            }
            map.extent[d] = extent as u32;
            bytes *= extent as u64;
        }
        (map.boxed[0], map.boxed[1]) = (64, rows);
        map
    }

    /// Pixels of an NHWC tensor of extents C, W, H, N, 64 channels and 64 pixels at once.
    pub fn im2col(data: &mut Memory, extent: [usize; 4], lower: i16, upper: i16, step: u8) -> Self {
        let map = Self::tiled(data, &extent, 64);
        Self { im2col: 1, lower: [lower; 2], upper: [upper; 2], step: [1, step, step, 1, 1], ..map }
    }
}

#[repr(align(16))]
#[derive(Clone, Copy)]
struct Line([u16; 8]);

/// bf16 numbers at an address that tensor maps accept; the last line is padded.
pub struct Memory(Vec<Line>);

impl Memory {
    pub fn new(values: &[u16]) -> Self {
        let line = |values: &[u16]| Line(std::array::from_fn(|i| values.get(i).copied().unwrap_or(0)));
        Self(values.chunks(8).map(line).collect())
    }
    pub fn to_vec(&self) -> Vec<u16> {
        self.0.iter().flat_map(|line| line.0).collect()
    }
}

/// No buffer besides the maps.
pub const NO_OUT: Option<&mut [u16]> = None;

/// Launches a kernel of tensor maps, then a buffer if there is one, then numbers.
pub fn call<T>(
    schedule: Schedule,
    kernel: &str,
    launch: Launch,
    maps: &mut [Map],
    out: Option<&mut [T]>,
    numbers: &[i32],
) -> Result<(), String> {
    let mut numbers = numbers.to_vec();
    let mut out = out.map(|out| out.as_mut_ptr());
    let mut args: Vec<*mut c_void> = maps.iter_mut().map(|map| (map as *mut Map).cast()).collect();
    args.extend(out.as_mut().map(|out| (out as *mut *mut T).cast::<c_void>()));
    args.extend(numbers.iter_mut().map(|number| (number as *mut i32).cast::<c_void>()));
    // SAFETY: the tests pass what the fixture kernels declare, with buffers large enough for the launch.
    unsafe { bicl_emulator::launch(kernel, launch, &mut args, schedule) }
}

/// Blocks that are no clusters.
pub fn launch([grid, block]: [[u32; 3]; 2], shared_bytes: usize) -> Launch {
    Launch { grid, block, shared_bytes: shared_bytes as u32, cluster: 1 }
}
