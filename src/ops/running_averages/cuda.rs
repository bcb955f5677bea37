//! Launch of `kernels/running_averages.cu`.

use bytemuck::{Pod, Zeroable};

use super::{AverageItem, OP};
use crate::{
    Result, Tensor,
    device::Launch,
    kernels,
    tensor::{Element, In, Inout, OptIn, Param, Table, Val},
};

/// `AverageEntry` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Entry {
    average: usize,
    x: usize,
    count: i32,
    padding: i32,
}

/// Averages of one launch.
pub(super) const ENTRIES: usize = 256;

/// `AverageTable` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Entries {
    at: [Entry; ENTRIES],
    loss_count: i32,
    padding: i32,
}

kernels! { "running_averages";
    /// All averages of the table, moved.
    fn running_averages<T in f32 | f64>(losses: OptIn<f32>, weight: Val<f64>, table: Table<Entries>);
}

/// `items` are one to [`ENTRIES`] averages, no two the same.
pub(super) fn run<T: Element>(items: &mut [AverageItem<'_>], weight: f64, losses: Option<&Tensor>) -> Result<()> {
    let device = items[0].average.device().clone();
    let mut table = Entries::zeroed();
    table.loss_count = losses.map_or(0, Tensor::len) as i32;
    let mut bytes = 0;
    for (entry, item) in table.at.iter_mut().zip(items.iter_mut()) {
        let count = item.average.len();
        Launch::linear(OP, item.x.len())?;
        let x = In::<T>::pack(OP, &device, item.x)? + item.row * count * T::DTYPE.size();
        *entry = Entry { average: Inout::<T>::pack(OP, &device, item.average)?, x, count: count as i32, padding: 0 };
        bytes += 3 * count * T::DTYPE.size();
    }
    let launch = Launch::blocks(OP, items.len(), 256)?;
    // SAFETY: the caller checked that x holds the row, of as many elements as the average; a block an item, whose tensors are
    // borrowed until after the launch.
    unsafe { running_averages::<T>(&device, launch, losses, weight, (table, bytes)) }
}
