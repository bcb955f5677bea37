//! Random numbers of the data path: SplitMix64 streams, each keyed by a seed, a purpose and a counter.
//!
//! A stream is a function of its key alone, so that an item's crop depends on its place in the order and on nothing
//! else: not on the thread that prepares it, nor on what was drawn before. The whole state of a loader is then one counter.
//! SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

/// A random stream.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of `(seed, purpose, counter)`.
    pub fn new(seed: u64, purpose: u64, counter: u64) -> Self {
        // Each part goes through the full mixer, so that neighbouring keys start far apart.
        let state = mix(mix(mix(seed ^ 0x6a09_e667_f3bc_c909) ^ purpose) ^ counter);
        Self { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix_output(self.state)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
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
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

fn mix(x: u64) -> u64 {
    mix_output(x.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

fn mix_output(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_reference_values() {
        // First outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) from state 1234567.
        let mut rng = Rng { state: 1_234_567 };
        let got: Vec<u64> = (0..5).map(|_| rng.next_u64()).collect();
        let want = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(got, want);
    }

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
