// What each block of a launch that stays does: which tiles of a matrix product, one after the other, and which slices of them.
//
// Where tiles do not come out even with the multiprocessors, those of the last, partly empty round are cut, so that all have
// work: along their depth into `parts`, and, where there are few of them, into `strips` of 64 columns besides. A part's sums go to
// memory; who comes last adds all up, in order, and has the tile or strip. So the bits depend neither on who that is nor on the
// number of blocks.
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

struct WorkItem {
  int layer, row, column;  // the tile: of which group or range, and its place there
  int strip;               // its columns: of this strip; -1: all
  int from, to;            // slices
  int part, rest;          // which part of it, and which of the cut tiles or strips it is; -1: whole
};

// Tiles are numbered columns fastest, then rows and layers, and the first `whole` ones are whole. Items: first the parts of the
// others, then those.
struct Work {
  int items, whole, parts, strips;
  int rows, columns;        // tiles of a layer
  int slices, last_slices;  // of a tile; of one of the last layer
  int layers;

  __device__ __forceinline__ WorkItem item(int item, const Cluster& cluster) const {
    int part = 0, tile = item - (items - whole), cut = 1, strip = -1, rest = -1;
    if (tile < 0) {
      int place = item / parts;
      part = item - place * parts, cut = parts;
      tile = whole + place / strips;
      if (strips > 1) strip = place % strips;
      rest = place * cluster.size + cluster.rank;
    }
    int line = tile / columns, layer = line / rows, all = layer == layers - 1 ? last_slices : slices;
    int row = (line - layer * rows) * cluster.size + cluster.rank;
    return {layer, row, tile - line * columns, strip, all * part / cut, all * (part + 1) / cut, part, rest};
  }
};
static_assert(sizeof(Work) == 36, "src/ops/conv2d/cuda/wgmma.rs declares the same");
