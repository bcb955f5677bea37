// The parts of cut tiles (conv_work.cuh): where their sums are left, and how they are joined.
#pragma once
#include "conv_wgmma_slots.cuh"

// Which of a warpgroup's blocks in a cut tile or strip: the `block`-th of `count`.
struct PartPlace {
  int rank, group, block, count;  // of the cluster, of the block's warpgroups that share the tile, of the warpgroup's 64 x 64

  template <class Tile>
  __device__ __forceinline__ static PartPlace of(int block, int count) {
    return {cluster_rank(), sharer<Tile>(consumer()), block, count};
  }
  // Its number among all blocks of the i-th part or unit.
  __device__ __forceinline__ int operator()(int i, int size, int groups) const {
    return ((i * size + rank) * groups + group) * count + block;
  }
};

// The first of the parts of a unit, among the parts of all. Segments and units are numbered along the same slices, so no two parts
// have the same sum of both.
__device__ __forceinline__ int first_part(const TileScheduler& scheduler, int unit) {
  return unit * scheduler.slices / scheduler.length + unit;
}

// The sums of a block of 64 x 64 in a part: eight fours a thread, each beside those of its neighbours.
__device__ __forceinline__ float4* part_fours(float* partial, size_t block, int thread) {
  return reinterpret_cast<float4*>(partial) + block * 8 * WARPGROUP + thread;
}

// Leaves a part's sums of a block. All a warp's rows at once: below the last one, few tiles have any.
__device__ __forceinline__ void leave_part(float4* fours, int rows, const WgmmaChunk& sums) {
  if (ResultTile::row() >= rows) return;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float(&four)[4] = sums[0][j];
    fours[j * WARPGROUP] = make_float4(four[0], four[1], four[2], four[3]);
  }
}

// Leaves the sums of a part of 64 x 64 results, which are the `block`-th of `count` of a tile, and returns whether they are now those
// of all parts, of the first `rows` rows: for the last warpgroup that comes. `turn` counts the calls.
template <class Tile>
__device__ __forceinline__ bool join_parts(char* votes_at, const TileScheduler& scheduler, const WorkTile& tile,
                                           int turn, int block, int count, int rows, WgmmaChunk& sums) {
  constexpr int GROUPS = Tile::OWN ? 1 : CONSUMERS;
  int size = cluster_size(), first = first_part(scheduler, tile.unit);
  PartPlace place = PartPlace::of<Tile>(block, count);
  // A thread reads what the same thread left of other parts.
  auto fours = [&](int part) {
    return part_fours(scheduler.workspace, place(first + part, size, GROUPS), ResultTile::thread());
  };
  leave_part(fours(tile.part), rows, sums);
  bool some = ResultTile::row() < rows;
  __threadfence();
  // Each thread for itself, so that no barrier stands before it. One of all of them is the last.
  unsigned* semaphore = scheduler.semaphores + place(tile.unit, size, GROUPS);
  bool last = atomicAdd(semaphore, 1u) == unsigned(tile.parts) * WARPGROUP - 1;
  if (last) *semaphore = 0;
  unsigned* votes = reinterpret_cast<unsigned*>(votes_at) + turn % 2 * 4;
  unsigned any = __any_sync(~0u, last);
  store_shared(votes + ResultTile::thread() / 32, any);
  sync<ResultTile>();
  bool joined = false;
#pragma unroll
  for (int warp = 0; warp < 4; warp++) joined |= load_shared(votes + warp) != 0;
  if (!joined) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < 8; j++) sums[0][j][0] = sums[0][j][1] = sums[0][j][2] = sums[0][j][3] = 0;
  if (!some) return true;
#pragma unroll 1
  for (int part = 0; part < tile.parts; part++) {
    const float4* from = fours(part);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      // Where all multiprocessors see it.
      float4 more = __ldcg(from + j * WARPGROUP);
      float(&four)[4] = sums[0][j];
      four[0] += more.x, four[1] += more.y, four[2] += more.z, four[3] += more.w;
    }
  }
  return true;
}
