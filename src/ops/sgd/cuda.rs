//! Launches of `kernels/sgd.cu`.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::{OP, SgdItem, SgdSpec};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, OptIn, Out, Param, Table, Val},
};

/// `SgdEntry` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Entry {
    p: usize,
    m: usize,
    g: usize,
    copy: usize,
    multiplier: f64,
    decay: f64,
    count: i32,
    first: i32,
    bf16_gradient: i32,
    padding: i32,
}

/// Parameters of one launch.
const ENTRIES: usize = 128;

/// `SgdTable` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Entries {
    at: [Entry; ENTRIES],
    entries: i32,
    loss_count: i32,
}

kernels! { "sgd";
    /// One step for all parameters of the table.
    fn sgd_steps<T in f32 | f64>(base: In<f64>, losses: OptIn<f32>, momentum: Val<f64>, table: Table<Entries>);
}

/// Elements of a block, as in the kernel file.
const PIECE: usize = 2048;

pub(super) fn step<T: Element>(items: &mut [SgdItem<'_>], spec: &SgdSpec<'_>) -> Result<()> {
    for items in items.chunks_mut(ENTRIES) {
        let device = items[0].value.device().clone();
        let mut table = Entries::zeroed();
        table.entries = items.len() as i32;
        table.loss_count = spec.found_inf.map_or(0, Tensor::len) as i32;
        let (mut blocks, mut bytes) = (0, 0);
        for (entry, item) in table.at.iter_mut().zip(items.iter_mut()) {
            let count = item.value.len();
            Launch::linear(OP, count)?;
            let narrow = item.gradient.dtype() == DType::Bf16;
            *entry = Entry {
                p: Inout::<T>::pack(OP, &device, item.value)?,
                m: Inout::<T>::pack(OP, &device, item.momentum)?,
                g: match narrow {
                    true => In::<bf16>::pack(OP, &device, item.gradient)?,
                    false => In::<T>::pack(OP, &device, item.gradient)?,
                },
                copy: item.copy.as_mut().map_or(Ok(0), |copy| Out::<bf16>::pack(OP, &device, copy))?,
                multiplier: item.multiplier,
                decay: item.weight_decay,
                count: count as i32,
                first: blocks as i32,
                bf16_gradient: i32::from(narrow),
                padding: 0,
            };
            blocks += count.div_ceil(PIECE);
            let copy = if item.copy.is_some() { DType::Bf16.size() } else { 0 };
            bytes += count * (4 * T::DTYPE.size() + item.gradient.dtype().size() + copy);
        }
        if blocks == 0 {
            continue;
        }
        let launch = Launch::blocks(OP, blocks, 256)?;
        // SAFETY: the caller checked that the tensors of an item hold `count` elements each, which the blocks from `first` on
        // cover; they are borrowed until after the launch.
        unsafe { sgd_steps::<T>(&device, launch, spec.rate, spec.found_inf, spec.momentum, (table, bytes))? };
    }
    Ok(())
}
