//! The tile scheduler of the persistent kernels: the argument of kernels/include/tile_scheduler.cuh.

use bytemuck::{Pod, Zeroable};

use crate::{
    DType, Device, Result, Tensor,
    device::{Launch, PlannedWork},
    ops::conv2d::{
        ConvProblem,
        mma_tiling::MULTIPROCESSORS,
        problem::Direction,
        wgmma_tiling::{WgmmaProblem, WgmmaTiling},
    },
    tensor::{OptOut, Param, Semaphores},
};

/// Threads of a block (WGMMA_THREADS).
const THREADS: u32 = 384;

/// `TileScheduler`, whose addresses are filled in at the launch.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct TileScheduler {
    workspace: usize,
    semaphores: usize,
    /// Two for each stream-K unit, and data-parallel tiles.
    work_tiles: i32,
    dp_tiles: i32,
    /// Tiles of the tail, or strips of them.
    sk_tiles: i32,
    strips: i32,
    sk_units: i32,
    k_tiles_per_unit: i32,
    /// Of a layer.
    tiles_m: i32,
    tiles_n: i32,
    /// Of a tile.
    k_tiles: i32,
    /// M of a layer.
    group: i32,
}

const _: () = assert!(size_of::<TileScheduler>() == 56, "as in tile_scheduler.cuh");

/// A [`TileScheduler`] by value, with its workspace and so many semaphores.
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
        Ok(TileScheduler { workspace, semaphores: Semaphores::pack(kernel, device, semaphores)?, ..scheduler })
    }
}

impl TileScheduler {
    /// `layers` layers of tiles over `m` x `n` results, each of `k_tiles` K tiles. Waves are those of the model's card, so that cards
    /// of other sizes cut the same tiles; the emulator's are small enough for tests to have full waves and a tail. The tail is
    /// cut as the tiling says. All are counted by clusters.
    ///
    /// Errors: as [`Device::multiprocessors`].
    pub fn new(
        tiling: WgmmaTiling,
        layers: usize,
        [m, n]: [usize; 2],
        k_tiles: usize,
        device: &Device,
    ) -> Result<Self> {
        let blocks = if device.is_emulated() { device.multiprocessors()? } else { MULTIPROCESSORS };
        let (tiles_m, tiles_n) = tiling.grid(m, n);
        let (tiles, wave) = (layers * tiles_m * tiles_n, (blocks / tiling.cluster).max(1));
        let tail = if tiling.sk_units > 0 { tiles % wave } else { 0 };
        let sk_tiles = tail * tiling.strips();
        // No unit is longer than a tile, or empty.
        let wanted = tiling.sk_units.clamp(sk_tiles.max(1), (sk_tiles * k_tiles).max(1));
        let k_tiles_per_unit = (sk_tiles * k_tiles).div_ceil(wanted);
        let sk_units = if tail > 0 { (sk_tiles * k_tiles).div_ceil(k_tiles_per_unit) } else { 0 };
        let dp_tiles = tiles - tail;
        let int = |count: usize| count as i32;
        Ok(Self {
            workspace: 0,
            semaphores: 0,
            work_tiles: int(dp_tiles + 2 * sk_units),
            dp_tiles: int(dp_tiles),
            sk_tiles: int(sk_tiles),
            strips: int(tiling.strips()),
            sk_units: int(sk_units),
            k_tiles_per_unit: int(k_tiles_per_unit),
            tiles_m: int(tiles_m),
            tiles_n: int(tiles_n),
            k_tiles: int(k_tiles),
            group: int(m),
        })
    }

    /// One block for each multiprocessor, or for each work tile if those are fewer.
    ///
    /// Errors: as [`Device::multiprocessors`].
    pub fn launch(&self, tiling: WgmmaTiling, device: &Device) -> Result<Launch> {
        let cluster = tiling.cluster as u32;
        let clusters = (self.work_tiles as u32).min(device.multiprocessors()? as u32 / cluster).max(1);
        let shared_bytes = tiling.warpgroups.shared_bytes();
        Ok(Launch { grid: [clusters * cluster, 1, 1], block: [THREADS, 1, 1], shared_bytes, cluster })
    }

    /// Tells a plan what the grid does not show.
    pub fn describe(&self, device: &Device, direction: Direction, problem: &ConvProblem, tiling: WgmmaTiling) {
        if let Some(plan) = device.as_plan() {
            let cycles = WgmmaProblem::new(direction, problem).cycles(tiling);
            let items = (self.dp_tiles + self.sk_units) as usize * tiling.cluster;
            plan.describe(PlannedWork { items, cycles });
        }
    }

    /// Tiles of the tail, or strips of them.
    pub fn sk_tiles(&self) -> usize {
        self.sk_tiles as usize
    }

    /// Room for the partial sums of all units.
    ///
    /// Errors: as [`Tensor::empty`].
    pub fn workspace(&self, tiling: WgmmaTiling, device: &Device) -> Result<Option<Tensor>> {
        if self.sk_units == 0 {
            return Ok(None);
        }
        let partial = (self.sk_units + self.sk_tiles) as usize * tiling.cluster;
        Tensor::empty(&[partial, tiling.partial_elements()], DType::F32, device).map(Some)
    }

    /// One for each 64 x 64 results of the tail.
    pub fn semaphores(&self, tiling: WgmmaTiling) -> usize {
        self.sk_tiles() * tiling.cluster * tiling.partial_elements() / (64 * 64)
    }
}
