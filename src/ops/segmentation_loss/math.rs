//! exp and ln that a compiler can vectorise, and code compiled for the widest vectors of the machine it runs on.
//!
//! No fused multiply-add: every vector width then gives the same bits.

use crate::tensor::Real;

/// Pixels handled together: one AVX-512 register of f32.
pub(crate) const LANES: usize = 16;

/// A float with elementary functions for the inner loops of the softmax.
pub(crate) trait Elementary: Real {
    /// exp(x) for x <= 0.
    fn exp_negative(self) -> Self;
    /// ln(x) for finite x >= 1.
    fn ln_above_one(self) -> Self;
}

impl Elementary for f64 {
    #[inline(always)]
    fn exp_negative(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn ln_above_one(self) -> Self {
        self.ln()
    }
}

/// Adding it to |x| < 2^22 rounds x to an integer, which then sits in the low bits. 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;
// ln 2 in two parts; the first has few enough bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

impl Elementary for f32 {
    /// 2^n exp(r) with |r| <= ln 2 / 2 and the Taylor polynomial of degree 7 (remainder 5e-9). Error below 2 ulp
    /// (tested); 0 below -87, where exp leaves the normal numbers; NaN stays NaN.
    #[inline(always)]
    fn exp_negative(self) -> Self {
        let x = if self < -87.0 { -87.0 } else { self };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN2_HIGH - n * LN2_LOW;
        let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
        let p = 1.0 + (r + r * r * (0.5 + r * (1.0 / 6.0 + r * tail)));
        let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
        if self < -87.0 { 0.0 } else { p * scale }
    }

    /// n ln 2 + 2 artanh(z) with z = (m - 1) / (m + 1) and m in [sqrt(1/2), sqrt 2), whose series ends after z^9
    /// (remainder 1e-9). Error below 2 ulp or 1e-7 (tested).
    #[inline(always)]
    fn ln_above_one(self) -> Self {
        // Bits of sqrt(1/2): what lies above them, in units of the exponent, is n.
        let n = (self.to_bits() as i32).wrapping_sub(0x3F35_04F3) >> 23;
        let m = f32::from_bits(self.to_bits().wrapping_sub((n as u32) << 23));
        let z = (m - 1.0) / (m + 1.0);
        let zz = z * z;
        let series = zz * (1.0 / 3.0 + zz * (1.0 / 5.0 + zz * (1.0 / 7.0 + zz * (1.0 / 9.0))));
        let n = n as f32;
        let result = n * LN2_HIGH + (2.0 * (z + z * series) + n * LN2_LOW);
        if self.is_nan() { self } else { result }
    }
}

/// Work to be compiled for several vector widths: `run` and all it calls must be `#[inline(always)]`.
pub(crate) trait Vectorized {
    type Output;
    fn run(self) -> Self::Output;
}

/// Runs `work` with the widest vectors of this machine; the result does not depend on them.
pub(crate) fn vectorized<W: Vectorized>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<W: Vectorized>(work: W) -> W::Output {
            work.run()
        }
        #[target_feature(enable = "avx2")]
        fn avx2<W: Vectorized>(work: W) -> W::Output {
            work.run()
        }
        let has_bytes_and_words = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") && has_bytes_and_words {
            // SAFETY: the machine has these features.
            return unsafe { avx512(work) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has this feature.
            return unsafe { avx2(work) };
        }
    }
    work.run()
}

#[cfg(test)]
mod tests {
    use super::Elementary;

    /// Distance in units of the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let worst =
            (0..2_000_000).map(|i| -87.0 * (i as f32 / 2e6)).map(|x| ulps(x.exp_negative(), f64::from(x).exp()));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst < 2.0, "{worst}");
        assert_eq!(0f32.exp_negative(), 1.0);
        assert_eq!((-87.1f32).exp_negative(), 0.0);
        assert_eq!(f32::NEG_INFINITY.exp_negative(), 0.0);
        assert!(f32::NAN.exp_negative().is_nan());
    }

    #[test]
    fn ln_is_within_two_ulp() {
        for i in 0..2_000_000 {
            let x = 1.0 + i as f32 * i as f32 * 1e-10;
            let want = f64::from(x).ln();
            let got = x.ln_above_one();
            assert!((f64::from(got) - want).abs() < 1e-7 || ulps(got, want) < 2.0, "{x}: {got}, {want}");
        }
        assert_eq!(1f32.ln_above_one(), 0.0);
        assert!(f32::NAN.ln_above_one().is_nan());
    }
}
