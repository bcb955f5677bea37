// What each block of a launch that stays does: which tiles of a matrix product, one after the other, and which slices of them.
//
// Where tiles do not come out even with the multiprocessors, those of the last, partly empty round are cut, so that all have
// work: where there are few of them, into `strips` of 64 columns; and the slices of all of these, one tile or strip after the
// other, into `segments` of the same length. A part's sums go to memory; who comes last adds all up, in order, and has the tile or
// strip; of a weight gradient, whose parts are many, another launch does. So the bits depend neither on who that is nor on the number
// of blocks.
//
// Cut tiles come first: where each warpgroup has tiles of its own, one adds up parts while the other one multiplies.
//
// The blocks of a cluster take tiles that lie below each other, at the same time: what is said of tiles holds of such stacks.
#pragma once
#include "hopper.cuh"

struct Cluster {
  int size, rank;

  __device__ __forceinline__ static Cluster own() { return {cluster_size(), cluster_rank()}; }
  __device__ __forceinline__ int all() const { return (1 << size) - 1; }
  // Whether this block copies share `i` of `count` for the others.
  __device__ __forceinline__ bool copies(int i, int count) const { return i * size / count == rank; }
};

struct WorkTile {
  int layer, row, column;  // the tile: of which group, and its place there
  int strip;               // its columns: of this strip; -1: all
  int from, to;            // slices; there may be none
  int part, parts;         // which part of how many
  int unit;                // which of the cut tiles or strips
};

// Tiles are numbered columns fastest, then rows and layers, and the first `whole` ones are whole. Items: first each segment's part
// of the tile or strip in which it begins, then their parts of the next one, as none is longer than a tile; then whole tiles.
struct TileScheduler {
  // Where the parts of cut tiles meet: the sums of each part of each of them, and how many threads have left theirs, which is zero
  // again after a launch. Without semaphores a launch of its own adds the parts up.
  float* workspace;
  unsigned* semaphores;
  int items, whole;
  int units, strips;  // cut tiles, or strips of them; of a tile
  int segments, length;
  int rows, columns;  // tiles of a layer
  int slices;         // of a tile
  int group;          // rows of a layer: its pixels, or filters

  __device__ __forceinline__ WorkTile item(int item, const Cluster& cluster) const {
    int cut = items - whole, tile = item - cut, strip = -1, from = 0, to = slices, part = 0, parts = 1, unit = -1;
    if (tile < 0) {
      int next = item / segments, segment = item - next * segments, begin = segment * length;
      unit = begin / slices + next;
      int first = unit * slices / length, last = ((unit + 1) * slices - 1) / length;
      from = max(begin - unit * slices, 0), to = unit < units ? min(begin + length - unit * slices, slices) : 0;
      part = segment - first, parts = last - first + 1;
      tile = whole + unit / strips;
      if (strips > 1) strip = unit % strips;
    }
    int line = tile / columns, layer = line / rows;
    int row = (line - layer * rows) * cluster.size + cluster.rank;
    return {layer, row, tile - line * columns, strip, from, to, part, parts, unit};
  }
};
static_assert(sizeof(TileScheduler) == 56, "src/ops/conv2d/cuda/scheduler.rs declares the same");
