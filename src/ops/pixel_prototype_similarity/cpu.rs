//! Similarities on the CPU.

use rayon::prelude::*;

use crate::{
    Result, Tensor,
    ops::{
        cosine::{Extents, Gradients, gradients, inverse_norm, similarities, unit_rows},
        partial_sums::CELLS,
    },
    tensor::Real,
};

pub(super) fn forward<T: Real>(features: &Tensor, vectors: &Tensor, counts: &Tensor, e: Extents) -> Result<Tensor> {
    let mut s = Tensor::empty(&[e.pairs, e.height, e.width, e.classes], T::DTYPE, features.device())?;
    let (features, vectors) = (features.as_slice::<T>()?, vectors.as_slice::<T>()?);
    let mut unit = vec![T::zero(); vectors.len()];
    unit_rows(vectors, e.depth, &mut unit);
    let counts = counts.as_slice::<u32>()?;
    if e.cells() == 0 {
        return Ok(s);
    }
    for (pair, s) in s.as_mut_slice::<T>()?.chunks_exact_mut(e.cells() * e.classes).enumerate() {
        let present: Vec<bool> = counts[pair * e.classes..][..e.classes].iter().map(|&n| n > 0).collect();
        let unit = &unit[pair * e.classes * e.depth..][..e.classes * e.depth];
        s.par_chunks_mut(CELLS * e.classes).enumerate().for_each_init(Vec::new, |scratch, (chunk, s)| {
            let m = s.len() / e.classes;
            let features = &features[(pair * e.cells() + chunk * CELLS) * e.depth..][..m * e.depth];
            similarities(features, unit, &present, &mut vec![T::zero(); m], scratch, s);
        });
    }
    Ok(s)
}

pub(super) fn backward<T: Real>(
    [features, vectors, counts, s]: &[Tensor; 4],
    ds: &Tensor,
    e: Extents,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let counts = counts.as_slice::<u32>()?;
    let (s, ds) = (s.as_slice::<T>()?, ds.as_slice::<T>()?);
    let mut g = ds.to_vec();
    let (mut a, mut b) = (vec![T::zero(); e.pairs * e.cells()], vec![T::zero(); e.pairs * e.classes]);
    for (cell, ((g, s), a)) in g.chunks_exact_mut(e.classes).zip(s.chunks_exact(e.classes)).zip(&mut a).enumerate() {
        let row = cell / e.cells() * e.classes;
        for (class, (g, &s)) in g.iter_mut().zip(s).enumerate() {
            if counts[row + class] == 0 {
                *g = T::zero();
            }
            *a += *g * s;
            b[row + class] += *g * s;
        }
    }
    let features_slice = features.as_slice::<T>()?;
    let inverse: Vec<T> = if e.depth == 0 {
        vec![T::zero(); a.len()]
    } else {
        features_slice.par_chunks_exact(e.depth).map(inverse_norm).collect()
    };
    let from = Gradients {
        extents: e,
        features: features_slice,
        vectors: vectors.as_slice()?,
        inverse: &inverse,
        g: &g,
        a: &a,
        b: &b,
        scale: &vec![T::one(); e.pairs],
    };
    let mut df = wanted[0].then(|| features.empty_like()).transpose()?;
    let mut drho = wanted[1].then(|| Tensor::zeros(vectors.shape(), T::DTYPE, vectors.device())).transpose()?;
    gradients(&from, df.as_mut(), drho.as_mut())?;
    Ok([df, drho])
}
