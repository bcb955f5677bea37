//! The filter, packed once a call: panels of one or two vectors' width, each a row-major matrix of depth x width, in
//! the order in which the microkernel reads them. Columns beyond the last are zeros.

use rayon::prelude::*;

use super::{super::ConvProblem, gather::Gather, tile::Microkernels};
use crate::{Device, Result, Tensor};

pub(super) struct Panels {
    packed: Tensor,
    depth: usize,
    columns: usize,
    lanes: usize,
}

/// One panel's place in the matrix.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// First column.
    pub first: usize,
    /// Columns that exist.
    pub columns: usize,
    /// Vectors in a row of the panel: 1 or 2.
    pub vectors: usize,
}

/// Panel number `index` of a matrix with `columns` columns.
pub(super) fn panel(index: usize, columns: usize, lanes: usize) -> Panel {
    let first = index * 2 * lanes;
    let columns = (columns - first).min(2 * lanes);
    Panel { first, columns, vectors: columns.div_ceil(lanes) }
}

impl Panels {
    /// Packs the matrix [depth, columns] whose panels `fill` writes: it gets the panel and its rows, zeroed.
    fn new<T: Microkernels>(depth: usize, columns: usize, fill: impl Fn(Panel, &mut [T]) + Sync) -> Result<Self> {
        let lanes = T::kernels().lanes;
        let count = columns.div_ceil(2 * lanes);
        let mut packed = Tensor::empty(&[(count * depth * 2 * lanes).max(1)], T::DTYPE, &Device::cpu())?;
        let memory = packed.as_mut_slice::<T>()?;
        memory.par_chunks_mut((depth * 2 * lanes).max(1)).take(count).enumerate().for_each(|(index, memory)| {
            let panel = panel(index, columns, lanes);
            let memory = &mut memory[..depth * panel.vectors * lanes];
            if panel.columns < panel.vectors * lanes {
                memory.fill(T::zero());
            }
            fill(panel, memory);
        });
        Ok(Self { packed, depth, columns, lanes })
    }

    /// The matrix [(r, s, c), k] of a filter [K, R, S, C].
    pub fn forward<T: Microkernels>(problem: &ConvProblem, filter: &[T]) -> Result<Self> {
        let [k, r, s, c] = problem.filter();
        let depth = r * s * c;
        let lanes = T::kernels().lanes;
        Self::new(depth, k, |panel, memory: &mut [T]| {
            let width = panel.vectors * lanes;
            // A transposition, in blocks whose rows stay in the first-level cache.
            for block in (0..depth).step_by(16) {
                let count = (depth - block).min(16);
                let target = &mut memory[block * width..(block + count) * width];
                for column in 0..panel.columns {
                    let source = &filter[(panel.first + column) * depth + block..][..count];
                    for (t, &value) in source.iter().enumerate() {
                        target[t * width + column] = value;
                    }
                }
            }
        })
    }

    /// The matrix [(r, s, k), c] of a filter [K, R, S, C], of the taps of `gather` in its order.
    pub fn backward<T: Microkernels>(problem: &ConvProblem, gather: &Gather, filter: &[T]) -> Result<Self> {
        let [k, _, s, c] = problem.filter();
        let per_filter = filter.len() / k;
        let lanes = T::kernels().lanes;
        Self::new(gather.depth(), c, |panel, memory: &mut [T]| {
            let width = panel.vectors * lanes;
            let taps = gather.taps[0].iter().flat_map(|down| gather.taps[1].iter().map(move |across| (down, across)));
            for ((down, across), memory) in taps.zip(memory.chunks_mut(k * width)) {
                let start = (down.index * s + across.index) * c + panel.first;
                for (line, filter) in memory.chunks_mut(width).zip(filter.chunks(per_filter)) {
                    line[..panel.columns].copy_from_slice(&filter[start..start + panel.columns]);
                }
            }
        })
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How many panels.
    pub fn count(&self) -> usize {
        self.columns.div_ceil(2 * self.lanes)
    }

    /// Panel number `index` and its memory.
    pub fn get<T: Microkernels>(&self, index: usize) -> Result<(Panel, &[T])> {
        let panel = panel(index, self.columns, self.lanes);
        let start = index * self.depth * 2 * self.lanes;
        Ok((panel, &self.packed.as_slice::<T>()?[start..start + self.depth * panel.vectors * self.lanes]))
    }
}
