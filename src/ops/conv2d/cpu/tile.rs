//! The microkernel: one register tile of a matrix product, C[i][j] (+)= sum over t of A[i][t] B[t][j].
//!
//! B comes in rows of one or two vectors, A as scalars that are broadcast, so A may have any strides: rows of gathered
//! pixels in the forward pass and the data gradient, columns of dy in the weight gradient. The tile has up to 12 rows
//! of two AVX-512 vectors: 24 accumulators, two vectors of B and one broadcast, of 32 registers.

use super::simd::{Plain, Vector};
use crate::tensor::Real;

/// Operands of one tile. `rows` and the number of vectors are chosen with [`Kernels::get`].
pub(in crate::ops::conv2d) struct Tile<T> {
    /// A[0][0].
    pub a: *const T,
    /// Distance of A's rows, in elements.
    pub a_row: usize,
    /// Distance of A's columns.
    pub a_step: usize,
    /// B[0][0].
    pub b: *const T,
    /// Distance of B's rows.
    pub b_step: usize,
    /// Number of products in each sum.
    pub depth: usize,
    /// C[0][0].
    pub c: *mut T,
    /// Distance of C's rows.
    pub c_row: usize,
    /// What the sums start from.
    pub start: Start<T>,
}

/// What a tile's sums start from.
#[derive(Clone, Copy)]
pub(in crate::ops::conv2d) enum Start<T> {
    /// Zero: C is written (=).
    Zero,
    /// This row, the same for all rows of C, which is written (=).
    Row(*const T),
    /// C itself (+=).
    Old,
}

type TileFn<T> = unsafe fn(&Tile<T>);

/// Most rows of any tile.
const MAX_ROWS: usize = 12;

/// The microkernels of one instruction set.
pub(in crate::ops::conv2d) struct Kernels<T: 'static> {
    /// Elements of a vector.
    pub lanes: usize,
    /// Most rows of a tile.
    pub rows: usize,
    /// By number of vectors - 1 and rows - 1.
    table: [[TileFn<T>; MAX_ROWS]; 2],
}

impl<T> Kernels<T> {
    /// The microkernel for `vectors` (1 or 2) columns of vectors and `rows` rows (1 to `self.rows`).
    pub fn get(&self, vectors: usize, rows: usize) -> TileFn<T> {
        debug_assert!(rows <= self.rows);
        self.table[vectors - 1][rows - 1]
    }
}

/// Repeats a block for the rows and vectors of a tile with constant indices. A loop would do, but then the compiler keeps
/// the sums in memory: it decides on registers before it unrolls.
macro_rules! each_row {
    ($rows:expr, $i:ident => $body:block) => { each_row!(@ $rows, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11) };
    (@ $rows:expr, $i:ident, $body:block, $($n:literal)*) => {{ $( if $n < $rows { let $i: usize = $n; $body } )* }};
}
macro_rules! each_sum {
    ($rows:expr, $vectors:expr, $i:ident, $j:ident => $body:block) => {
        each_row!($rows, $i => {
            { let $j: usize = 0; $body }
            if $vectors > 1 { let $j: usize = 1; $body }
        })
    };
}

/// # Safety
/// The pointers of `tile` cover `ROWS` rows, `VECTORS` vectors and `depth` products at the given distances, C apart
/// from the rest; the processor has the vector's instructions.
#[inline(always)]
unsafe fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile<V::Scalar>) {
    // SAFETY: every access lies in the extents that the caller vouches for.
    unsafe {
        // Those beyond `ROWS` and `VECTORS` are never touched and vanish.
        let mut sums = [[V::zero(); 2]; MAX_ROWS];
        match tile.start {
            Start::Zero => {}
            Start::Row(row) => each_sum!(ROWS, VECTORS, i, j => { sums[i][j] = V::load(row.add(j * V::LANES)); }),
            Start::Old => each_sum!(ROWS, VECTORS, i, j => {
                sums[i][j] = V::load(tile.c.add(i * tile.c_row + j * V::LANES));
            }),
        }
        // Rows in groups of three, addressed as base, base + row, base + 2 row: few enough address registers.
        let (row, step) = (tile.a_row, tile.a_step);
        let mut bases =
            [tile.a, tile.a.wrapping_add(3 * row), tile.a.wrapping_add(6 * row), tile.a.wrapping_add(9 * row)];
        let mut b = tile.b;
        for _ in 0..tile.depth {
            let low = V::load(b);
            let high = if VECTORS > 1 { V::load(b.add(V::LANES)) } else { low };
            each_row!(ROWS, i => {
                let a = V::splat(bases[i / 3].wrapping_add((i % 3) * row));
                sums[i][0] = sums[i][0].add_product(a, low);
                if VECTORS > 1 {
                    sums[i][1] = sums[i][1].add_product(a, high);
                }
            });
            each_row!(4, group => { bases[group] = bases[group].wrapping_add(step); });
            b = b.wrapping_add(tile.b_step);
        }
        each_sum!(ROWS, VECTORS, i, j => { sums[i][j].store(tile.c.add(i * tile.c_row + j * V::LANES)); });
    }
}

macro_rules! row {
    ($f:ident, $v:ty, $vectors:literal, [$($rows:literal)*]) => { [$( $f::<$v, $rows, $vectors> ),*] };
}

macro_rules! kernels_of {
    ($f:ident, $v:ty, $max:literal, $rows:tt) => {
        Kernels { lanes: <$v as Vector>::LANES, rows: $max, table: [row!($f, $v, 1, $rows), row!($f, $v, 2, $rows)] }
    };
}

unsafe fn plain<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile<V::Scalar>) {
    // SAFETY: the caller's contract is the same; plain arrays need no instruction set.
    unsafe { run::<V, ROWS, VECTORS>(tile) }
}

/// The microkernels for this processor.
pub(in crate::ops::conv2d) trait Microkernels: Real {
    /// The fastest set that the processor runs.
    fn kernels() -> &'static Kernels<Self>;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{super::simd::x86::*, *};

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile<V::Scalar>) {
        // SAFETY: the caller's contract is the same.
        unsafe { run::<V, ROWS, VECTORS>(tile) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<V: Vector, const ROWS: usize, const VECTORS: usize>(tile: &Tile<V::Scalar>) {
        // SAFETY: the caller's contract is the same.
        unsafe { run::<V, ROWS, VECTORS>(tile) }
    }

    // AVX2 has 16 registers: 6 rows of two vectors fill 15. The table repeats the largest tile, which is never asked for.
    pub static F32_AVX512: Kernels<f32> = kernels_of!(avx512, F32x16, 12, [1 2 3 4 5 6 7 8 9 10 11 12]);
    pub static F64_AVX512: Kernels<f64> = kernels_of!(avx512, F64x8, 12, [1 2 3 4 5 6 7 8 9 10 11 12]);
    pub static F32_AVX2: Kernels<f32> = kernels_of!(avx2, F32x8, 6, [1 2 3 4 5 6 6 6 6 6 6 6]);
    pub static F64_AVX2: Kernels<f64> = kernels_of!(avx2, F64x4, 6, [1 2 3 4 5 6 6 6 6 6 6 6]);
}

static F32_PLAIN: Kernels<f32> = kernels_of!(plain, Plain<f32>, 4, [1 2 3 4 4 4 4 4 4 4 4 4]);
static F64_PLAIN: Kernels<f64> = kernels_of!(plain, Plain<f64>, 4, [1 2 3 4 4 4 4 4 4 4 4 4]);

macro_rules! microkernels {
    ($t:ty, $avx512:ident, $avx2:ident, $plain:ident) => {
        impl Microkernels for $t {
            fn kernels() -> &'static Kernels<Self> {
                #[cfg(target_arch = "x86_64")]
                {
                    if std::arch::is_x86_feature_detected!("avx512f") {
                        return &x86::$avx512;
                    }
                    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                        return &x86::$avx2;
                    }
                }
                &$plain
            }
        }
    };
}
microkernels!(f32, F32_AVX512, F32_AVX2, F32_PLAIN);
microkernels!(f64, F64_AVX512, F64_AVX2, F64_PLAIN);
