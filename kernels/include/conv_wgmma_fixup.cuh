// Stream-K fixup (tile_scheduler.cuh): where units leave partial sums, and how the last one adds them.
#pragma once
#include "conv_wgmma_epilogue_loads.cuh"

// A 64 x 64 block of a tile of the tail.
struct PartialBlock {
  int rank, group, block,
      count;  // in the cluster; warpgroup that shares the tile; which of the warpgroup's `count` blocks

  template <class Tile>
  __device__ __forceinline__ static PartialBlock of(int block, int count) {
    return {cluster_rank(), sharer<Tile>(consumer()), block, count};
  }
  // Its index in the workspace, of partial tile `i`; its semaphore, of tile `i` of the tail.
  __device__ __forceinline__ int operator()(int i, int size, int groups) const {
    return ((i * size + rank) * groups + group) * count + block;
  }
};

// The first partial tile of a tile of the tail. Units and tiles are numbered along the same K tiles, so no two pairs of
// them have the same sum.
__device__ __forceinline__ int first_peer(const TileScheduler& scheduler, int sk_tile) {
  return sk_tile * scheduler.k_tiles / scheduler.k_tiles_per_unit + sk_tile;
}

// Partial sums of a block: eight float4 a thread, so that a warp's accesses coalesce.
__device__ __forceinline__ float4* partial_sums(float* workspace, size_t block, int thread) {
  return reinterpret_cast<float4*>(workspace) + block * 8 * WARPGROUP + thread;
}

// Stores partial sums of a block; a warp whose rows all lie below the last one stores none.
__device__ __forceinline__ void store_partial_sums(float4* fours, int rows, const WgmmaChunk& sums) {
  if (ResultTile::row() >= rows) return;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float (&four)[4] = sums[0][j];
    fours[j * WARPGROUP] = make_float4(four[0], four[1], four[2], four[3]);
  }
}

// Stores the partial sums of the `block`-th of a warpgroup's `count` blocks. For the last unit to arrive it replaces
// them by the sums of all units, in order, of the first `rows` rows, and returns true. `calls` counts the calls.
template <class Tile>
__device__ __forceinline__ bool fixup(char* votes_at, const TileScheduler& scheduler, const WorkTile& tile, int calls,
                                      int block, int count, int rows, WgmmaChunk& sums) {
  constexpr int GROUPS = Tile::PINGPONG ? 1 : CONSUMERS;
  int size = cluster_size(), first = first_peer(scheduler, tile.sk_tile);
  PartialBlock place = PartialBlock::of<Tile>(block, count);
  // A thread reads what the same thread of other units has stored.
  auto sums_of = [&](int peer) {
    return partial_sums(scheduler.workspace, place(first + peer, size, GROUPS), ResultTile::thread());
  };
  store_partial_sums(sums_of(tile.peer), rows, sums);
  bool some = ResultTile::row() < rows;
  __threadfence();
  // Each thread arrives for itself, which spares a barrier before it. One thread of all units is the last.
  unsigned* semaphore = scheduler.semaphores + place(tile.sk_tile, size, GROUPS);
  bool last = atomicAdd(semaphore, 1u) == unsigned(tile.peers) * WARPGROUP - 1;
  if (last) *semaphore = 0;
  unsigned* votes = reinterpret_cast<unsigned*>(votes_at) + calls % 2 * 4;
  unsigned any = __any_sync(~0u, last);
  store_shared(votes + ResultTile::thread() / 32, any);
  sync<ResultTile>();
  bool is_last = false;
#pragma unroll
  for (int warp = 0; warp < 4; warp++) is_last |= load_shared(votes + warp) != 0;
  if (!is_last) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < 8; j++) sums[0][j][0] = sums[0][j][1] = sums[0][j][2] = sums[0][j][3] = 0;
  if (!some) return true;
#pragma unroll 1
  for (int peer = 0; peer < tile.peers; peer++) {
    const float4* from = sums_of(peer);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      // From L2: L1 may hold what lay there before.
      float4 more = __ldcg(from + j * WARPGROUP);
      float (&four)[4] = sums[0][j];
      four[0] += more.x, four[1] += more.y, four[2] += more.z, four[3] += more.w;
    }
  }
  return true;
}
