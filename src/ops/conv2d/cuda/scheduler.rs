//! Which tiles the persistent blocks of a product by warpgroups take: the argument of kernels/include/conv_work.cuh.

use bytemuck::{Pod, Zeroable};

use crate::{
    DType, Device, Result, Tensor,
    device::{Launch, PlannedWork},
    ops::conv2d::{
        ConvProblem,
        problem::Direction,
        tiling::MULTIPROCESSORS,
        wgmma_tiling::{WgmmaProduct, WgmmaTiling},
    },
    tensor::{Arrivals, OptOut, Param},
};

/// Threads of a block (WGMMA_THREADS).
const THREADS: u32 = 384;

/// `TileScheduler`, whose addresses are filled in at the launch.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct TileScheduler {
    workspace: usize,
    semaphores: usize,
    /// Two for each segment of the cut tiles, and whole tiles.
    items: i32,
    whole: i32,
    /// Cut tiles, or strips of them.
    units: i32,
    strips: i32,
    segments: i32,
    length: i32,
    /// Tiles of a layer.
    rows: i32,
    columns: i32,
    /// Of a tile.
    slices: i32,
    /// Rows of a layer.
    group: i32,
}

const _: () = assert!(size_of::<TileScheduler>() == 56, "as in conv_work.cuh");

/// A [`TileScheduler`] by value, with room for the sums of parts, and so many semaphores.
pub(crate) struct Schedule;

impl Param for Schedule {
    type Host<'a> = (TileScheduler, Option<&'a mut Tensor>, usize);
    type Packed = TileScheduler;

    fn traffic((_, workspace, _): &Self::Host<'_>) -> usize {
        OptOut::<f32>::traffic(workspace)
    }

    fn pack(kernel: &'static str, device: &Device, host: Self::Host<'_>) -> Result<TileScheduler> {
        let (scheduler, workspace, semaphores) = host;
        let workspace = OptOut::<f32>::pack(kernel, device, workspace)?;
        Ok(TileScheduler { workspace, semaphores: Arrivals::pack(kernel, device, semaphores)?, ..scheduler })
    }
}

impl TileScheduler {
    /// `layers` layers of tiles over `rows` x `columns`, each of `slices` slices, in waves of the blocks of the model's card, so
    /// that cards of other sizes cut the same tiles. The emulator's is small enough for tests to have whole waves and a last
    /// one. The tiles of the last wave, if it is not full, are cut as the tiling says. All are counted by clusters.
    ///
    /// Errors: as [`Device::multiprocessors`].
    pub fn new(
        tiling: WgmmaTiling,
        layers: usize,
        [rows, columns]: [usize; 2],
        slices: usize,
        device: &Device,
    ) -> Result<Self> {
        let blocks = if device.is_emulated() { device.multiprocessors()? } else { MULTIPROCESSORS };
        let (down, across) = tiling.grid(rows, columns);
        let (tiles, wave) = (layers * down * across, (blocks / tiling.cluster).max(1));
        let rest = if tiling.segments > 0 { tiles % wave } else { 0 };
        let units = rest * tiling.strips();
        // No segment is longer than a tile, or empty.
        let wanted = tiling.segments.clamp(units.max(1), (units * slices).max(1));
        let length = (units * slices).div_ceil(wanted);
        let segments = if rest > 0 { (units * slices).div_ceil(length) } else { 0 };
        let (whole, strips) = (tiles - rest, tiling.strips());
        let [items, whole, units, strips, segments, length, tile_rows, tile_columns, slices, group] =
            [whole + 2 * segments, whole, units, strips, segments, length, down, across, slices, rows]
                .map(|count| count as i32);
        let (rows, columns) = (tile_rows, tile_columns);
        let (workspace, semaphores) = (0, 0);
        Ok(Self { workspace, semaphores, items, whole, units, strips, segments, length, rows, columns, slices, group })
    }

    /// One block for each multiprocessor, or for each item if those are fewer.
    ///
    /// Errors: as [`Device::multiprocessors`].
    pub fn launch(&self, tiling: WgmmaTiling, device: &Device) -> Result<Launch> {
        let cluster = tiling.cluster as u32;
        let clusters = (self.items as u32).min(device.multiprocessors()? as u32 / cluster).max(1);
        let shared_bytes = tiling.warpgroups.shared_bytes();
        Ok(Launch { grid: [clusters * cluster, 1, 1], block: [THREADS, 1, 1], shared_bytes, cluster })
    }

    /// Tells a plan what the grid does not show.
    pub fn describe(&self, device: &Device, direction: Direction, params: &ConvProblem, tiling: WgmmaTiling) {
        if let Some(plan) = device.as_plan() {
            let cycles = WgmmaProduct::new(direction, params).cycles(tiling);
            let items = (self.whole + self.segments) as usize * tiling.cluster;
            plan.describe(PlannedWork { items, cycles });
        }
    }

    /// Cut tiles, or strips of them.
    pub fn units(&self) -> usize {
        self.units as usize
    }

    /// Room where the parts of the cut tiles meet.
    ///
    /// Errors: as [`Tensor::empty`].
    pub fn workspace(&self, tiling: WgmmaTiling, device: &Device) -> Result<Option<Tensor>> {
        if self.segments == 0 {
            return Ok(None);
        }
        let parts = (self.segments + self.units) as usize * tiling.cluster;
        Tensor::empty(&[parts, tiling.part_elements()], DType::F32, device).map(Some)
    }

    /// The counters of those who have come: for each 64 x 64 results of each block.
    pub fn semaphores(&self, tiling: WgmmaTiling) -> usize {
        self.units() * tiling.cluster * tiling.part_elements() / (64 * 64)
    }
}
