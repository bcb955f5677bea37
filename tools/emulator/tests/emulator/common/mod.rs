//! Launching fixture kernels, and reproducible numbers.

pub mod hopper;

use std::ffi::c_void;

use bicl::device::{Launch, Schedule};

/// Launches a kernel with buffers and scalars: `call!(schedule, "name", grid, block, shared, &mut buffer, ..)`.
/// A `&mut Vec` or slice passes its address, anything else its value.
pub trait Argument {
    fn word(&mut self) -> [u8; 8];
}
impl<T> Argument for &mut Vec<T> {
    fn word(&mut self) -> [u8; 8] {
        (self.as_mut_ptr() as usize).to_ne_bytes()
    }
}
impl<T> Argument for &Vec<T> {
    fn word(&mut self) -> [u8; 8] {
        (self.as_ptr() as usize).to_ne_bytes()
    }
}
impl Argument for i32 {
    fn word(&mut self) -> [u8; 8] {
        let [a, b, c, d] = self.to_ne_bytes();
        [a, b, c, d, 0, 0, 0, 0]
    }
}

#[repr(align(8))]
struct Word([u8; 8]);

pub fn call(
    schedule: Schedule,
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    args: &mut [&mut dyn Argument],
) -> Result<(), String> {
    let mut words: Vec<Word> = args.iter_mut().map(|arg| Word(arg.word())).collect();
    let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| word.0.as_mut_ptr().cast()).collect();
    let launch = Launch { grid, block, shared_bytes: shared_bytes as u32, cluster: 1 };
    // SAFETY: the tests pass what the fixture kernels declare, with buffers large enough for the launch.
    unsafe { bicl_emulator::launch(kernel, launch, &mut pointers, schedule) }
}

/// Reproducible numbers in [-1, 1), multiples of 1/128: exact in bf16, and their products and short sums in f32.
pub fn numbers(count: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        (seed >> 24) as f32 / 128.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// f32 to bf16, to nearest even, through the two neighbours: slow and plain.
pub fn to_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let below = (x.to_bits() >> 16) as u16;
    let above = below.wrapping_add(1);
    let value = |bits: u16| match f32::from_bits(u32::from(bits) << 16) as f64 {
        // The next step after the largest finite number stands for where infinity's interval begins.
        v if v.is_infinite() => 2f64.powi(128).copysign(v),
        v => v,
    };
    if x.is_infinite() || f64::from(x) == value(below) {
        return below;
    }
    let (down, up) = ((f64::from(x) - value(below)).abs(), (value(above) - f64::from(x)).abs());
    if down < up || (down == up && below.is_multiple_of(2)) { below } else { above }
}

pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
