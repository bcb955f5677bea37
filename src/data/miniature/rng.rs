//! Random numbers and lattice noise from integer arithmetic and exactly rounded float operations only, so that a
//! scene has the same bits on every platform.

use crate::tensor::{self, scatter};

/// SplitMix64 in integers and f32.
pub(super) struct Rng(tensor::Rng);

impl Rng {
    /// A stream of its own for each pair (seed, index).
    pub fn new(seed: u64, index: u64) -> Self {
        let mut states = tensor::Rng::new(scatter(seed ^ 0x6d69_6e69_6174_7572)).after(index.wrapping_sub(1));
        Self(tensor::Rng::new(states.next_u64()))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A seed for the noise of one surface.
    pub fn seed(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Uniform in [0, 1) with 24 bits, each value exact in f32.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Uniform between the two ends.
    pub fn span(&mut self, [lo, hi]: [f32; 2]) -> f32 {
        lo + (hi - lo) * self.unit()
    }

    pub fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// -1 or 1.
    pub fn sign(&mut self) -> f32 {
        if self.chance(0.5) { -1.0 } else { 1.0 }
    }

    /// Mean 0, variance 1: the sum of four uniforms, near enough to a normal for sensor noise.
    pub fn bell(&mut self) -> f32 {
        // Four 16-bit fields of one draw; the variance of a uniform is 1/12, of four 1/3.
        let z = self.next();
        let sum: u32 = (0..4).map(|k| ((z >> (16 * k)) & 0xffff) as u32).sum();
        (sum as f32 / 65536.0 - 2.0) * 1.732_050_8
    }
}

/// Uniform in [0, 1) for a lattice point.
pub(super) fn hash(seed: u32, x: i32, y: i32) -> f32 {
    let mut h = seed ^ (x as u32).wrapping_mul(0x85eb_ca6b) ^ (y as u32).wrapping_mul(0xc2b2_ae35);
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    ((h ^ (h >> 16)) >> 8) as f32 / (1 << 24) as f32
}

/// The floor, without the library call that baseline x86-64 makes of `f32::floor`.
pub(super) fn floor(v: f32) -> i32 {
    let whole = v as i32;
    whole.saturating_sub(i32::from(whole as f32 > v))
}

/// Smooth value noise in [-1, 1] with features of size 1.
pub(super) fn noise(seed: u32, x: f32, y: f32) -> f32 {
    let (ix, iy) = (floor(x), floor(y));
    let (fx, fy) = (ix as f32, iy as f32);
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (ease(x - fx), ease(y - fy));
    let row = |iy: i32| {
        let (a, b) = (hash(seed, ix, iy), hash(seed, ix.wrapping_add(1), iy));
        a + (b - a) * tx
    };
    let (a, b) = (row(iy), row(iy.wrapping_add(1)));
    2.0 * (a + (b - a) * ty) - 1.0
}

/// Octaves of [`noise`] from wavelength `coarse` (metres) downwards, each half as long and weaker. Those that two
/// samples of `foot` metres cannot show are left out: they would alias, or vanish in the mean of a pixel's samples.
pub(super) fn octaves(seed: u32, u: f32, v: f32, foot: f32, coarse: f32, count: u32) -> f32 {
    let (mut wave, mut weight, mut sum) = (coarse, 0.6, 0.0);
    for k in 0..count {
        if wave < 4.0 * foot {
            break;
        }
        sum += weight * noise(seed.wrapping_add(k.wrapping_mul(0x9e37_79b9)), u / wave, v / wave);
        wave *= 0.5;
        weight *= 0.75;
    }
    sum
}
