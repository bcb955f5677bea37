// Which pixels a convolution's taps read: what its matrix products share, whatever computes them.
#pragma once
#include "conv_problem.cuh"
#include "dev.cuh"

// Added to a coordinate it stays outside every image; coordinates are below 2^29.
constexpr int OUTSIDE = -(1 << 30);

// The implicit im2col matrix: a row for each pixel of a grid over a loads image, a column for each tap and channel.
struct Gather {
  int images, rows, columns;  // of the grid
  int step[2], origin[2];     // loads position of grid point (i, j): i * step + origin
  int taps[2], distance[2];   // taps along each axis, and loads pixels from one to the next
  int h, w, c;                // of the loads

  __device__ int pixels() const { return images * rows * columns; }
  __device__ int depth() const { return taps[0] * taps[1] * c; }
};

struct Pixel {
  int image, y, x;
};

__device__ __forceinline__ Pixel pixel_of(const Gather& g, int index) {
  if (index >= g.pixels()) return {0, OUTSIDE, OUTSIDE};
  int line = index / g.columns, image = line / g.rows;
  return {image, (line - image * g.rows) * g.step[0] + g.origin[0],
          (index - line * g.columns) * g.step[1] + g.origin[1]};
}

__device__ __forceinline__ Gather gather_output(const ConvProblem& p) {
  Gather g = {p.n, p.p, p.q, {}, {}, {p.r, p.s}, {}, p.h, p.w, p.c};
  for (int axis = 0; axis < 2; axis++) {
    g.step[axis] = p.stride[axis];
    g.origin[axis] = -p.padding[axis];
    g.distance[axis] = p.dilation[axis];
  }
  return g;
}

// The taps along one axis that hit the pixels of a phase: first, first + every, ...
struct Hits {
  int first, every, count;
};

__device__ __forceinline__ Hits hits_of(int phase, int padding, int stride, int dilation, int taps) {
  int a = stride, b = dilation;
  while (b) {
    int rest = a % b;
    a = b;
    b = rest;
  }
  Hits hits = {0, stride / a, 0};
  while (hits.first < hits.every && (phase + padding - hits.first * dilation) % stride != 0) hits.first++;
  if (hits.first < hits.every && hits.first < taps) hits.count = (taps - 1 - hits.first) / hits.every + 1;
  return hits;
}

// The part of a data gradient whose pixels, (row + i stride, column + j stride), are hit by the same taps.
struct Phase {
  int row, column;
  Hits down, across;
  Gather gather;  // over dy, for each pixel of the phase; the taps in the order of `down` and `across`

  // Offset of pixel `index` of the phase in dx.
  __device__ int offset(const ConvProblem& p, int index) const {
    int line = index / gather.columns, image = line / gather.rows;
    int y = (line - image * gather.rows) * p.stride[0] + row;
    int x = (index - line * gather.columns) * p.stride[1] + column;
    return ((image * p.h + y) * p.w + x) * p.c;
  }
  // The filter's tap at position (i, j) of the gather.
  __device__ int tap(const ConvProblem& p, int i, int j) const {
    return (down.first + i * down.every) * p.s + across.first + j * across.every;
  }
};

__device__ __forceinline__ Phase phase_of(const ConvProblem& p, int index) {
  int row = index / p.stride[1], column = index % p.stride[1];
  Hits down = hits_of(row, p.padding[0], p.stride[0], p.dilation[0], p.r);
  Hits across = hits_of(column, p.padding[1], p.stride[1], p.dilation[1], p.s);
  // The first tap hits dy at (i + origin, ..), the others before it.
  Gather gather = {p.n,
                   (p.h - row + p.stride[0] - 1) / p.stride[0],
                   (p.w - column + p.stride[1] - 1) / p.stride[1],
                   {1, 1},
                   {(row + p.padding[0] - down.first * p.dilation[0]) / p.stride[0],
                    (column + p.padding[1] - across.first * p.dilation[1]) / p.stride[1]},
                   {down.count, across.count},
                   {-(down.every * p.dilation[0] / p.stride[0]), -(across.every * p.dilation[1] / p.stride[1])},
                   p.p,
                   p.q,
                   p.k};
  return {row, column, down, across, gather};
}
