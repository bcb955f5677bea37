//! Random numbers of the data path: SplitMix64 streams, each keyed by a seed, a purpose and a counter.
//!
//! A stream is a function of its key alone, so that an item's crop depends on its place in the order and on nothing
//! else: not on the thread that prepares it, nor on what was drawn before. The whole state of a loader is then one counter.

use crate::tensor;

/// A random stream.
#[derive(Clone, Debug)]
pub struct Rng(tensor::Rng);

impl Rng {
    /// The stream of `(seed, purpose, counter)`.
    pub fn new(seed: u64, purpose: u64, counter: u64) -> Self {
        // Each part goes through the full mixer, so that neighbouring keys start far apart.
        let mix = |x: u64| tensor::Rng::new(x).next_u64();
        Self(tensor::Rng::new(mix(mix(mix(seed ^ 0x6a09_e667_f3bc_c909) ^ purpose) ^ counter)))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        self.0.uniform()
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n; 0 where n is 0. The bias is below n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Normal with mean 0 and standard deviation 1 (Box-Muller, one of the two values).
    pub fn normal(&mut self) -> f64 {
        self.0.normal()
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_moments_are_right() {
        let first: std::collections::HashSet<u64> = (0..1000)
            .flat_map(|c| [Rng::new(0, 0, c).next_u64(), Rng::new(0, 1, c).next_u64(), Rng::new(1, 0, c).next_u64()])
            .collect();
        assert_eq!(first.len(), 3000);
        let mut rng = Rng::new(7, 0, 0);
        let n = 100_000;
        let (mut sum, mut squares, mut normal) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let (u, z) = (rng.unit(), rng.normal());
            sum += u;
            squares += u * u;
            normal += z * z;
        }
        let n = f64::from(n);
        assert!((sum / n - 0.5).abs() < 0.005 && (squares / n - 1.0 / 3.0).abs() < 0.005);
        assert!((normal / n - 1.0).abs() < 0.02);
        let mut seen = [0; 6];
        (0..6000).for_each(|_| seen[rng.below(6)] += 1);
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }
}
