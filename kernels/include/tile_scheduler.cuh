// The tile scheduler of the persistent kernels: which output tiles of a matrix product a block computes, and which of
// their K tiles.
//
// Full waves are data parallel: one block computes one tile. The tiles of the last wave, the tail, do not fill the
// multiprocessors; they are scheduled as in stream-K (Osama et al., "Stream-K", 2023). First, where the tail has few
// tiles, each is cut into `strips` of 64 columns. Then the K tiles of the whole tail, one tile or strip after the
// other, are divided into `sk_units` units of the same length. A unit leaves its partial sums in the workspace. The
// last block to arrive does the fixup: it adds the partial sums in order and stores the tile. A weight gradient has
// many partial sums, which a launch of its own adds. So the bits of the result depend neither on which block is last
// nor on the number of blocks.
//
// Tiles of the tail come first: of two warpgroups in pingpong, one does a fixup while the other one multiplies.
//
// The blocks of a cluster compute tiles that lie below each other, at the same time. "Tile" then means such a stack.
#pragma once
#include "hopper.cuh"

struct Cluster {
  int size, rank;

  __device__ __forceinline__ static Cluster own() { return {cluster_size(), cluster_rank()}; }
  __device__ __forceinline__ int all() const { return (1 << size) - 1; }
  // Whether this block multicasts share `i` of `count` to the others.
  __device__ __forceinline__ bool copies(int i, int count) const { return i * size / count == rank; }
};

struct WorkTile {
  int layer, row, column;  // the tile: its layer, and its place there
  int strip;               // its strip; -1: all columns
  int from, to;            // K tiles; there may be none
  int peer, peers;         // which of how many units that have K tiles of it
  int sk_tile;             // its number in the tail; -1: data parallel
};

// Tiles are numbered columns fastest, then rows and layers; the first `dp_tiles` are data parallel. Work tiles: first
// each unit's part of the tile or strip in which it begins, then its part of the next one (no unit is longer than a
// tile), then whole tiles.
struct TileScheduler {
  // Partial sums of each unit, and for each block of 64 x 64 how many threads have left theirs: zero again after a
  // launch. Without semaphores a launch of its own adds the partial sums.
  float* workspace;
  unsigned* semaphores;
  int work_tiles, dp_tiles;
  int sk_tiles, strips;  // tiles or strips of the tail; strips of a tile
  int sk_units, k_tiles_per_unit;
  int tiles_m, tiles_n;  // of a layer
  int k_tiles;           // of a tile
  int group;             // M of a layer: its pixels, or filters

  __device__ __forceinline__ WorkTile work_tile(int i, const Cluster& cluster) const {
    int tail = work_tiles - dp_tiles, tile = i - tail, strip = -1, from = 0, to = k_tiles, peer = 0, peers = 1,
        sk_tile = -1;
    if (tile < 0) {
      int next = i / sk_units, unit = i - next * sk_units, begin = unit * k_tiles_per_unit;
      sk_tile = begin / k_tiles + next;
      int start = sk_tile * k_tiles, first = start / k_tiles_per_unit, last = (start + k_tiles - 1) / k_tiles_per_unit;
      from = max(begin - start, 0), to = sk_tile < sk_tiles ? min(begin + k_tiles_per_unit - start, k_tiles) : 0;
      peer = unit - first, peers = last - first + 1;
      tile = dp_tiles + sk_tile / strips;
      if (strips > 1) strip = sk_tile % strips;
    }
    int line = tile / tiles_n, layer = line / tiles_m;
    int row = (line - layer * tiles_m) * cluster.size + cluster.rank;
    return {layer, row, tile - line * tiles_n, strip, from, to, peer, peers, sk_tile};
  }
};
static_assert(sizeof(TileScheduler) == 56, "src/ops/conv2d/cuda/scheduler.rs declares the same");
