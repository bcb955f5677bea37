//! Cosines and their gradients on the CPU: small matrix products over fixed chunks of pixels, so that the result does
//! not depend on the number of threads.

use rayon::prelude::*;

use super::{EPSILON, Extents};
use crate::{
    Result, Tensor,
    ops::partial_sums::{CELLS, add_partials},
    tensor::Real,
};

/// 1 / max(|x|, 1e-12), without overflow for huge elements.
pub(crate) fn inverse_norm<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::zero(); 16];
    let mut blocks = x.chunks_exact(16);
    for block in &mut blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane += v * v;
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(blocks.remainder()) {
        *lane += v * v;
    }
    let sum: T = lanes.iter().copied().sum();
    let clamp = T::of(1.0 / EPSILON);
    // Sums below the clamp may lose digits, which then do not matter; only an overflow needs another way.
    if sum < T::infinity() {
        return sum.sqrt().recip().min(clamp);
    }
    let largest = x.iter().fold(T::zero(), |largest, &v| largest.max(v.abs()));
    let scaled: T = x.iter().map(|&v| (v / largest) * (v / largest)).sum();
    scaled.sqrt().recip() / largest
}

/// Rows of `x` (each of `depth`) times their inverse norms; returns those.
pub(crate) fn unit_rows<T: Real>(x: &[T], depth: usize, unit: &mut [T]) -> Vec<T> {
    if depth == 0 {
        return Vec::new();
    }
    let rows = x.chunks_exact(depth).zip(unit.chunks_exact_mut(depth));
    rows.map(|(x, unit)| {
        let inverse = inverse_norm(x);
        for (unit, &x) in unit.iter_mut().zip(x) {
            *unit = x * inverse;
        }
        inverse
    })
    .collect()
}

/// The factor of a gradient through a norm: 0 where the norm was clamped.
fn through<T: Real>(inverse: T) -> T {
    if inverse >= T::of(1.0 / EPSILON) { T::zero() } else { inverse }
}

/// target [m,n] = a [m,k] times b [k,n], each given with its strides (row, column).
pub(crate) fn multiply<T: Real>(
    [m, n, k]: [usize; 3],
    target: &mut [T],
    (a, a_strides): (&[T], [usize; 2]),
    (b, b_strides): (&[T], [usize; 2]),
) {
    let extent = |rows: usize, columns: usize, strides: [usize; 2]| {
        if rows == 0 || columns == 0 { 0 } else { (rows - 1) * strides[0] + (columns - 1) * strides[1] + 1 }
    };
    assert!(target.len() >= m * n && a.len() >= extent(m, k, a_strides) && b.len() >= extent(k, n, b_strides));
    // SAFETY: the assertion holds every element that the product touches inside its slice; `target` is exclusive.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_strides[1] as isize,
            a_strides[0] as isize,
            b.as_ptr(),
            b_strides[1] as isize,
            b_strides[0] as isize,
            T::zero(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Similarities s [m,C] of `features` [m,d] with unit prototypes [C,d], and the features' inverse norms [m].
/// Absent classes get -1. `scratch` holds m*d elements.
pub(crate) fn similarities<T: Real>(
    features: &[T],
    unit: &[T],
    present: &[bool],
    inverse: &mut [T],
    scratch: &mut Vec<T>,
    s: &mut [T],
) {
    let (m, classes) = (inverse.len(), present.len());
    let depth = features.len() / m.max(1);
    scratch.clear();
    scratch.resize(features.len(), T::zero());
    if depth == 0 {
        inverse.fill(T::of(1.0 / EPSILON));
    } else {
        inverse.copy_from_slice(&unit_rows(features, depth, scratch));
    }
    multiply([m, classes, depth], s, (scratch, [depth, 1]), (unit, [1, depth]));
    if present.iter().any(|present| !present) {
        for s in s.chunks_exact_mut(classes) {
            for (s, _) in s.iter_mut().zip(present).filter(|(_, present)| !**present) {
                *s = -T::one();
            }
        }
    }
}

/// What the gradients of similarities are made of; see the module's equations.
pub(crate) struct Gradients<'a, T> {
    pub extents: Extents,
    pub features: &'a [T],
    pub vectors: &'a [T],
    /// u [N,h,w].
    pub inverse: &'a [T],
    /// g [N,h,w,C], up to `scale`; 0 for absent classes.
    pub g: &'a [T],
    /// a [N,h,w].
    pub a: &'a [T],
    /// b [N,C].
    pub b: &'a [T],
    /// The true g of a pair is g times its scale.
    pub scale: &'a [T],
}

/// The gradients of the features and of the prototypes, each where there is a tensor for it.
pub(crate) fn gradients<T: Real>(
    from: &Gradients<T>,
    features: Option<&mut Tensor>,
    vectors: Option<&mut Tensor>,
) -> Result<()> {
    let Extents { depth, classes, .. } = from.extents;
    let (cells, block) = (from.extents.cells(), classes * depth);
    if depth == 0 || cells == 0 {
        return Ok(());
    }
    let mut unit = vec![T::zero(); from.vectors.len()];
    let inverse = unit_rows(from.vectors, depth, &mut unit);
    if let Some(df) = features {
        let pairs = df.as_mut_slice::<T>()?.par_chunks_mut(cells * depth).enumerate();
        let chunks = pairs.flat_map(|(pair, df)| {
            df.par_chunks_mut(CELLS * depth)
                .enumerate()
                .map(move |(chunk, df)| (pair, pair * cells + chunk * CELLS, df))
        });
        chunks.for_each(|(pair, first, df)| {
            let m = df.len() / depth;
            let (g, unit) = (&from.g[first * classes..][..m * classes], &unit[pair * block..][..block]);
            multiply([m, depth, classes], df, (g, [classes, 1]), (unit, [depth, 1]));
            let features = from.features[first * depth..].chunks_exact(depth);
            for (i, (df, f)) in df.chunks_exact_mut(depth).zip(features).enumerate() {
                let inverse = from.inverse[first + i];
                let (outer, along) = (from.scale[pair] * through(inverse), from.a[first + i] * inverse);
                for (df, &f) in df.iter_mut().zip(f) {
                    *df = outer * (*df - along * f);
                }
            }
        });
    }
    if let Some(drho) = vectors {
        let drho = drho.as_mut_slice::<T>()?;
        let mut partials = vec![T::zero(); cells.div_ceil(CELLS) * block];
        for (pair, drho) in drho.chunks_exact_mut(block).enumerate() {
            partials.par_chunks_mut(block).enumerate().for_each(|(chunk, partial)| {
                let m = CELLS.min(cells - chunk * CELLS);
                let first = pair * cells + chunk * CELLS;
                let mut weights = from.g[first * classes..][..m * classes].to_vec();
                for (weights, &inverse) in weights.chunks_exact_mut(classes).zip(&from.inverse[first..]) {
                    weights.iter_mut().for_each(|weight| *weight *= inverse);
                }
                let features = &from.features[first * depth..][..m * depth];
                multiply([classes, depth, m], partial, (&weights, [1, classes]), (features, [depth, 1]));
            });
            add_partials(drho, &partials);
            for (class, drho) in drho.chunks_exact_mut(depth).enumerate() {
                let row = pair * classes + class;
                let outer = from.scale[pair] * through(inverse[row]);
                for (drho, &unit) in drho.iter_mut().zip(&unit[row * depth..]) {
                    *drho = outer * (*drho - from.b[row] * unit);
                }
            }
        }
    }
    Ok(())
}
