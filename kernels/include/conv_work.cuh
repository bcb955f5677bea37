// What each block of a launch that stays does: which tiles of a matrix product, one after the other, and which slices of them.
//
// Where tiles do not come out even with the multiprocessors, those of the last, partly empty round are cut along their depth
// into `parts`, so that all have work. A part's sums go to memory; who comes last adds all up, in order, and has the tile. So the
// bits depend neither on who that is nor on the number of blocks.
#pragma once
#include "dev.cuh"

struct WorkItem {
  int layer, row, column;  // the tile: of which group or range, and its place there
  int from, to;            // slices
  int part, rest;          // which part of it, and which of the cut tiles it is; -1: whole
};

// Items are numbered: whole tiles first, columns fastest, then rows and layers, then the parts of the others.
struct Work {
  int items, whole, parts;
  int rows, columns;        // tiles of a layer
  int slices, last_slices;  // of a tile; of one of the last layer
  int layers;

  __device__ __forceinline__ WorkItem item(int item) const {
    int part = 0, tile = item, cut = 1, rest = -1;
    if (item >= whole) {
      rest = (item - whole) / parts, part = (item - whole) - rest * parts;
      tile = whole + rest, cut = parts;
    }
    int line = tile / columns, layer = line / rows, all = layer == layers - 1 ? last_slices : slices;
    return {layer, line - layer * rows, tile - line * columns, all * part / cut, all * (part + 1) / cut, part, rest};
  }
};
static_assert(sizeof(Work) == 32, "src/ops/conv2d/cuda/wgmma.rs declares the same");
