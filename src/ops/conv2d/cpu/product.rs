//! The blocked matrix products around the microkernel. Blocks depend on the shapes alone, and every output element is
//! summed by one task in rising order of the depth, so results do not depend on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    gather::Gather,
    panels::{Panels, panel},
    tile::{Kernels, Microkernels, Start, Tile},
};
use crate::{Device, Result, Tensor};

/// Columns of the gathered matrix that are packed at once: a panel of them (24 KiB in f32) stays in the first-level
/// cache while the block's rows pass.
const DEPTH: usize = 192;
/// Rows of a task: with `DEPTH` columns they fill a small part of the second-level cache.
const ROWS: usize = 96;
/// Tasks wanted at least, so that a few cores are busy; more rows give more.
const TASKS: usize = 16;

/// `total` cut into `count` nearly equal ranges: number `index`.
fn part(total: usize, count: usize, index: usize) -> Range<usize> {
    total * index / count..total * (index + 1) / count
}

/// Memory for a task, from the pool.
fn scratch<T: Microkernels>(len: usize) -> Result<Tensor> {
    Tensor::empty(&[len.max(1)], T::DTYPE, &Device::cpu())
}

/// An output that tasks write at disjoint places.
struct Shared<T>(*mut T);
// SAFETY: the tasks write disjoint elements, each inside the slice that the pointer comes from.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// Distance between packed rows: not a multiple of the cache's sets, so that rows do not evict each other.
fn distance(columns: usize, lanes: usize) -> usize {
    columns.next_multiple_of(2 * lanes) + lanes
}

/// Runs one tile of which only `columns` columns exist: C's others are neither read nor written.
///
/// # Safety
/// As the microkernel's, with `columns` columns of C.
unsafe fn run_tile<T: Microkernels>(kernels: &Kernels<T>, rows: usize, vectors: usize, columns: usize, tile: Tile<T>) {
    let width = vectors * kernels.lanes;
    let run = kernels.get(vectors, rows);
    if columns == width {
        // SAFETY: the caller's contract.
        return unsafe { run(&tile) };
    }
    let mut whole = [T::zero(); 12 * 32];
    // SAFETY: a tile is at most 12 x 32 elements; of C only existing columns are touched.
    unsafe {
        if matches!(tile.start, Start::Old) {
            for i in 0..rows {
                std::ptr::copy_nonoverlapping(tile.c.add(i * tile.c_row), &mut whole[i * width], columns);
            }
        }
        let (c, c_row) = (tile.c, tile.c_row);
        run(&Tile { c: whole.as_mut_ptr(), c_row: width, ..tile });
        for i in 0..rows {
            std::ptr::copy_nonoverlapping(&whole[i * width], c.add(i * c_row), columns);
        }
    }
}

/// out = gathered(source) x panels + bias, with one row of `panels.columns()` for each row of the gathered matrix.
pub(super) fn gathered_by_panels<T: Microkernels>(
    gather: &Gather,
    source: &[T],
    panels: &Panels,
    bias: Option<&[T]>,
    out: &mut [T],
) -> Result<()> {
    let kernels = T::kernels();
    let (rows, depth, columns) = (gather.rows(), panels.depth(), panels.columns());
    assert_eq!(out.len(), rows * columns, "the output has a row for every pixel of the grid");
    let row_blocks = rows.div_ceil(ROWS);
    let groups = TASKS.div_ceil(row_blocks.max(1)).min(panels.count());
    let depths = depth.div_ceil(DEPTH).max(1);
    // Rows far apart by a power of two share cache sets: those are packed too.
    let direct = gather.is_source() && depth <= 512;
    let mut padded_bias = bias.map(<[T]>::to_vec).unwrap_or_default();
    padded_bias.resize(panels.count() * 2 * kernels.lanes, T::zero());
    let out = Shared(out.as_mut_ptr());
    (0..row_blocks * groups).into_par_iter().try_for_each(|task| {
        let rows = part(rows, row_blocks, task / groups);
        let panel_range = part(panels.count(), groups, task % groups);
        let tiles = rows.len().div_ceil(kernels.rows);
        let widest = distance(depth.div_ceil(depths), kernels.lanes);
        let mut packed = scratch::<T>(if direct { 1 } else { rows.len() * widest })?;
        let mut started = false;
        for piece in 0..depths {
            let span = part(depth, depths, piece);
            let last = piece + 1 == depths;
            let (a, a_row) = if direct {
                (source[rows.start * depth + span.start..].as_ptr(), depth)
            } else {
                let packed = packed.as_mut_slice::<T>()?;
                let any = gather.pack(source, rows.clone(), span.clone(), packed, widest);
                // Nothing but padding adds nothing; the output is written all the same.
                if !any && (started || !last) {
                    continue;
                }
                (packed.as_ptr(), widest)
            };
            for index in panel_range.clone() {
                let (panel, memory) = panels.get::<T>(index)?;
                let width = panel.vectors * kernels.lanes;
                for tile in 0..tiles {
                    let part = part(rows.len(), tiles, tile);
                    let start = match (started, bias) {
                        (true, _) => Start::Old,
                        (false, None) => Start::Zero,
                        (false, Some(_)) => Start::Row(padded_bias[panel.first..].as_ptr()),
                    };
                    let tile = Tile {
                        a: a.wrapping_add(part.start * a_row),
                        a_row,
                        a_step: 1,
                        b: memory[span.start * width..].as_ptr(),
                        b_step: width,
                        depth: span.len(),
                        c: out.at((rows.start + part.start) * columns + panel.first),
                        c_row: columns,
                        start,
                    };
                    // SAFETY: A covers the block's rows and the piece's columns, B the panel, C rows and columns of
                    // this task alone; `kernels` fits the processor.
                    unsafe { run_tile(kernels, part.len(), panel.vectors, panel.columns, tile) };
                }
            }
            started = true;
        }
        Ok(())
    })
}

/// Columns of the gathered matrix that a task of the weight gradient packs.
const GRADIENT_COLUMNS: usize = 256;
/// Rows that it packs at once.
const GRADIENT_ROWS: usize = 192;
/// Filters of a task.
const GRADIENT_FILTERS: usize = 128;

/// out [columns of `dy`, columns of the gathered matrix] = dy^T x gathered(source), with `filters` columns of `dy`.
///
/// Small outputs are summed over ranges of rows, whose number the shapes fix, and these added in order.
pub(super) fn transposed_by_gathered<T: Microkernels>(
    gather: &Gather,
    source: &[T],
    dy: &[T],
    filters: usize,
    out: &mut [T],
) -> Result<()> {
    let (rows, depth) = (gather.rows(), gather.depth());
    assert_eq!((dy.len(), out.len()), (rows * filters, filters * depth), "one row of dy for each of the grid");
    let column_blocks = depth.div_ceil(GRADIENT_COLUMNS);
    let filter_blocks = filters.div_ceil(GRADIENT_FILTERS);
    let blocks = column_blocks * filter_blocks;
    let ranges = TASKS.div_ceil(blocks).min(rows.div_ceil(2 * GRADIENT_ROWS));
    let mut partial = scratch::<T>(if ranges > 1 { ranges * out.len() } else { 1 })?;
    let partial = partial.as_mut_slice::<T>()?;
    let size = out.len();
    let target = Shared(if ranges > 1 { partial.as_mut_ptr() } else { out.as_mut_ptr() });
    (0..blocks * ranges).into_par_iter().try_for_each(|task| {
        let columns = part(depth, column_blocks, task % column_blocks);
        let block = part(filters, filter_blocks, task / column_blocks % filter_blocks);
        let range = task / blocks;
        gradient_block(gather, source, dy, filters, part(rows, ranges, range), columns, block, |filter, column| {
            target.at(range * size + filter * depth + column)
        })
    })?;
    if ranges > 1 {
        out.par_chunks_mut(1 << 12).enumerate().for_each(|(chunk, out)| {
            let start = chunk << 12;
            out.copy_from_slice(&partial[start..start + out.len()]);
            for range in 1..ranges {
                let partial = &partial[range * size + start..];
                out.iter_mut().zip(partial).for_each(|(out, &value)| *out += value);
            }
        });
    }
    Ok(())
}

/// One task of [`transposed_by_gathered`]: the sums over `rows` for `block` filters and `columns`.
#[allow(clippy::too_many_arguments)]
fn gradient_block<T: Microkernels>(
    gather: &Gather,
    source: &[T],
    dy: &[T],
    filters: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    block: Range<usize>,
    target: impl Fn(usize, usize) -> *mut T,
) -> Result<()> {
    let kernels = T::kernels();
    let depth = gather.depth();
    let widest = distance(columns.len(), kernels.lanes);
    let pieces = rows.len().div_ceil(GRADIENT_ROWS);
    let tiles = block.len().div_ceil(kernels.rows);
    let mut packed = scratch::<T>(rows.len().div_ceil(pieces) * widest)?;
    let mut started = false;
    for piece in 0..pieces {
        let within = part(rows.len(), pieces, piece);
        let rows = rows.start + within.start..rows.start + within.end;
        let memory = packed.as_mut_slice::<T>()?;
        let any = gather.pack(source, rows.clone(), columns.clone(), memory, widest);
        if !any && (started || piece + 1 < pieces) {
            continue;
        }
        for index in 0..columns.len().div_ceil(2 * kernels.lanes) {
            let panel = panel(index, columns.len(), kernels.lanes);
            for tile in 0..tiles {
                let part = part(block.len(), tiles, tile);
                let filter = block.start + part.start;
                let tile = Tile {
                    a: dy[rows.start * filters + filter..].as_ptr(),
                    a_row: 1,
                    a_step: filters,
                    b: memory[panel.first..].as_ptr(),
                    b_step: widest,
                    depth: rows.len(),
                    c: target(filter, columns.start + panel.first),
                    c_row: depth,
                    start: if started { Start::Old } else { Start::Zero },
                };
                // SAFETY: A covers the piece's rows of dy, B the packed block, whose rows have room for whole
                // vectors, C filters and columns of this task alone; `kernels` fits the processor.
                unsafe { run_tile(kernels, part.len(), panel.vectors, panel.columns, tile) };
            }
        }
        started = true;
    }
    Ok(())
}
