//! Masked average pooling on the CPU: sums over fixed chunks of pixels, then over the chunks in their order.

use rayon::prelude::*;

use super::Pools;
use crate::{
    DType, Result, Tensor,
    ops::partial_sums::{CELLS, add_partials},
    tensor::Real,
};

pub(super) fn forward<T: Real>(x: &Tensor, labels: &Tensor, pools: Pools) -> Result<(Tensor, Tensor)> {
    let Pools { pools, cells, depth, classes, copies } = pools;
    let block = classes * depth;
    let mut vectors = Tensor::empty(&[pools * copies, classes, depth], T::DTYPE, x.device())?;
    let mut counts = Tensor::empty(&[pools * copies, classes], DType::U32, x.device())?;
    let (x, labels) = (x.as_slice::<T>()?, labels.as_slice::<u8>()?);
    let (rho, n) = (vectors.as_mut_slice::<T>()?, counts.as_mut_slice::<u32>()?);
    let mut partials = vec![T::zero(); cells.div_ceil(CELLS) * block];
    for pool in 0..pools {
        let labels = &labels[pool * cells..][..cells];
        let x = &x[pool * cells * depth..][..cells * depth];
        let (n, copied_n) = n[pool * copies * classes..][..copies * classes].split_at_mut(classes);
        n.fill(0);
        for &label in labels.iter().filter(|&&label| usize::from(label) < classes) {
            n[usize::from(label)] += 1;
        }
        copied_n.chunks_exact_mut(classes).for_each(|copy| copy.copy_from_slice(n));
        if depth == 0 {
            continue;
        }
        let chunks = partials.par_chunks_mut(block).zip(labels.par_chunks(CELLS)).zip(x.par_chunks(CELLS * depth));
        chunks.for_each(|((partial, labels), x)| {
            partial.fill(T::zero());
            for (&label, x) in labels.iter().zip(x.chunks_exact(depth)) {
                if usize::from(label) < classes {
                    let sum = &mut partial[usize::from(label) * depth..][..depth];
                    sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
                }
            }
        });
        let (rho, copied_rho) = rho[pool * copies * block..][..copies * block].split_at_mut(block);
        add_partials(rho, &partials);
        for (rho, &n) in rho.chunks_exact_mut(depth).zip(&*n) {
            let n = T::of(f64::from(n.max(1)));
            rho.iter_mut().for_each(|rho| *rho /= n);
        }
        copied_rho.chunks_exact_mut(block).for_each(|copy| copy.copy_from_slice(rho));
    }
    Ok((vectors, counts))
}

pub(super) fn backward<T: Real>(drho: &Tensor, labels: &Tensor, counts: &Tensor, pools: Pools) -> Result<Tensor> {
    let Pools { pools, cells, depth, classes, copies } = pools;
    let block = classes * depth;
    let mut dx = Tensor::empty(&[pools * cells, depth], T::DTYPE, drho.device())?;
    if depth == 0 || cells == 0 {
        return Ok(dx);
    }
    let (drho, labels, counts) = (drho.as_slice::<T>()?, labels.as_slice::<u8>()?, counts.as_slice::<u32>()?);
    for (pool, dx) in dx.as_mut_slice::<T>()?.chunks_exact_mut(cells * depth).enumerate() {
        let mut mean = vec![T::zero(); block];
        add_partials(&mut mean, &drho[pool * copies * block..][..copies * block]);
        for (mean, &n) in mean.chunks_exact_mut(depth).zip(&counts[pool * copies * classes..]) {
            let n = T::of(f64::from(n.max(1)));
            mean.iter_mut().for_each(|mean| *mean /= n);
        }
        let labels = &labels[pool * cells..][..cells];
        dx.par_chunks_mut(CELLS * depth).zip(labels.par_chunks(CELLS)).for_each(|(dx, labels)| {
            for (dx, &label) in dx.chunks_exact_mut(depth).zip(labels) {
                match mean.get(usize::from(label) * depth..(usize::from(label) + 1) * depth) {
                    Some(mean) => dx.copy_from_slice(mean),
                    None => dx.fill(T::zero()),
                }
            }
        });
    }
    Ok(dx)
}
