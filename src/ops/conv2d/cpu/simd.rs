//! The vector types of the microkernel: AVX-512, AVX2 with FMA, and plain arrays for every other processor.

use crate::tensor::Real;

/// A short vector. Every function is inlined into a caller compiled for the vector's instruction set.
pub(super) trait Vector: Copy {
    /// Its elements.
    type Scalar: Real;
    /// How many.
    const LANES: usize;
    /// Zeros.
    unsafe fn zero() -> Self;
    /// `LANES` elements from `from`, of any alignment.
    unsafe fn load(from: *const Self::Scalar) -> Self;
    /// The one element at `from` in every lane.
    unsafe fn splat(from: *const Self::Scalar) -> Self;
    /// self + a * b.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// Writes `LANES` elements to `to`, of any alignment.
    unsafe fn store(self, to: *mut Self::Scalar);
}

/// For processors without a faster implementation: the compiler vectorises what it can.
#[derive(Clone, Copy)]
pub(super) struct Plain<T>([T; 4]);

impl<T: Real> Vector for Plain<T> {
    type Scalar = T;
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([T::zero(); 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller's contract.
        Self(unsafe { from.cast::<[T; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn splat(from: *const T) -> Self {
        // SAFETY: the caller's contract.
        Self([unsafe { *from }; 4])
    }
    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for i in 0..4 {
            self.0[i] += a.0[i] * b.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller's contract.
        unsafe { to.cast::<[T; 4]>().write_unaligned(self.0) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    macro_rules! vector {
        ($name:ident, $scalar:ty, $register:ty, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $fma:ident, $store:ident) => {
            #[derive(Clone, Copy)]
            pub struct $name($register);
            impl Vector for $name {
                type Scalar = $scalar;
                const LANES: usize = $lanes;
                // SAFETY (all five): the trait's contract covers the pointers, and the microkernel is called only
                // where the processor has the instruction set.
                #[inline(always)]
                unsafe fn zero() -> Self {
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn load(from: *const $scalar) -> Self {
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn splat(from: *const $scalar) -> Self {
                    Self(unsafe { $splat(*from) })
                }
                #[inline(always)]
                unsafe fn add_product(self, a: Self, b: Self) -> Self {
                    Self(unsafe { $fma(a.0, b.0, self.0) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $scalar) {
                    // SAFETY: as above.
                    unsafe { $store(to, self.0) }
                }
            }
        };
    }
    vector!(
        F32x16,
        f32,
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
    vector!(
        F64x8,
        f64,
        __m512d,
        8,
        _mm512_setzero_pd,
        _mm512_loadu_pd,
        _mm512_set1_pd,
        _mm512_fmadd_pd,
        _mm512_storeu_pd
    );
    vector!(
        F32x8,
        f32,
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
    vector!(
        F64x4,
        f64,
        __m256d,
        4,
        _mm256_setzero_pd,
        _mm256_loadu_pd,
        _mm256_set1_pd,
        _mm256_fmadd_pd,
        _mm256_storeu_pd
    );
}
