// Implicit GEMM on the ordinary arithmetic units, for the convolutions of conv2d.cu.
//
//   C[i, j] = sum over d in [from, to) of A[i, d] B[d, j]
//
// A block of 128 threads computes a BM x BN tile of C, a thread TM x TN of it in registers. Slices of BK products pass
// through shared memory, double buffered: while one is multiplied, the next is on its way from global memory into
// registers. A and B are read through loaders, of which some gather pixels, so no im2col matrix is ever stored.
//
// A loader has fetch(d): its part of the K tile at d, from global memory to registers, zeros beyond any edge;
// and commit(tile): from registers to shared memory, as [BK][rows + PAD].
//
// Everything along a contiguous axis comes in quads of 4 elements: one vector access where the channels are divisible
// by 4, else 4 predicated ones.
#pragma once
#include "conv_gather.cuh"

constexpr int CONV_THREADS = 128;
// Products of a K tile (BK).
constexpr int SLICE = 16;
// Keeps rows of shared memory 16-byte aligned and spreads the transposing stores over the banks.
constexpr int PAD = 4;

template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Quad {
  T at[4];
};

// Elements first..first + 3 of a row with `count` elements; zeros beyond it.
template <class T>
__device__ __forceinline__ void load_quad(const T* __restrict__ row, int first, int count, bool vector,
                                          Acc<T> (&to)[4]) {
  if (vector && first + 3 < count) {
    Quad<T> quad = *reinterpret_cast<const Quad<T>*>(row + first);
#pragma unroll
    for (int e = 0; e < 4; e++) to[e] = to_acc(quad.at[e]);
  } else {
#pragma unroll
    for (int e = 0; e < 4; e++) to[e] = first + e < count ? to_acc(row[first + e]) : Acc<T>(0);
  }
}

template <class T>
__device__ __forceinline__ void store_quad(T* __restrict__ row, int first, int count, bool vector,
                                           const Acc<T> (&from)[4]) {
  if (vector && first + 3 < count) {
    Quad<T> quad;
#pragma unroll
    for (int e = 0; e < 4; e++) quad.at[e] = from_acc<T>(from[e]);
    *reinterpret_cast<Quad<T>*>(row + first) = quad;
  } else {
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (first + e < count) row[first + e] = from_acc<T>(from[e]);
  }
}

struct Column {
  int y, x, channel;
};

__device__ __forceinline__ Column column_of(const Gather& g, int index) {
  if (index >= g.depth()) return {OUTSIDE, OUTSIDE, 0};
  int tap = index / g.c, down = tap / g.taps[1];
  return {down * g.distance[0], (tap - down * g.taps[1]) * g.distance[1], index - tap * g.c};
}

// Offset of an element of the im2col matrix in the loads; negative in the padding.
__device__ __forceinline__ int offset_of(const Gather& g, const Pixel& pixel, const Column& column) {
  int y = pixel.y + column.y, x = pixel.x + column.x;
  if (y < 0 || y >= g.h || x < 0 || x >= g.w) return -1;
  return ((pixel.image * g.h + y) * g.w + x) * g.c + column.channel;
}

template <class T>
__device__ __forceinline__ Acc<T> load_at(const T* __restrict__ loads, int offset) {
  return offset < 0 ? Acc<T>(0) : to_acc(loads[offset]);
}

// What loaders of rows share: consecutive threads take consecutive quads of BK columns; transposed on commit.
template <class T, int ROWS, int BK>
struct RowLoader {
  static constexpr int QUADS = BK / 4, LINES = CONV_THREADS / QUADS, PASSES = ROWS / LINES;
  static_assert(PASSES * LINES == ROWS, "the threads share the slice evenly");
  Acc<T> held[PASSES][4];
  int row = threadIdx.x / QUADS, first = threadIdx.x % QUADS * 4;

  __device__ __forceinline__ void commit(Acc<T>* tile) const {
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++)
#pragma unroll
      for (int e = 0; e < 4; e++) tile[(first + e) * (ROWS + PAD) + row + pass * LINES] = held[pass][e];
  }
};

// What loaders of columns share: consecutive threads take consecutive quads of one of the BK rows.
template <class T, int ROWS, int BK>
struct ColumnLoader {
  static constexpr int QUADS = ROWS / 4, LINES = CONV_THREADS / QUADS, PASSES = BK / LINES;
  static_assert(PASSES * LINES == BK, "the threads share the slice evenly");
  Acc<T> held[PASSES][4];
  int line = threadIdx.x / QUADS, first = threadIdx.x % QUADS * 4;

  __device__ __forceinline__ void commit(Acc<T>* tile) const {
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      Quad<Acc<T>> quad;
#pragma unroll
      for (int e = 0; e < 4; e++) quad.at[e] = held[pass][e];
      *reinterpret_cast<Quad<Acc<T>>*>(tile + (line + pass * LINES) * (ROWS + PAD) + first) = quad;
    }
  }
};

// Gathered pixels, d running over taps and channels: x in the forward pass, dy in the data gradient.
template <class T, int ROWS, int BK>
struct PixelRows : RowLoader<T, ROWS, BK> {
  using Base = RowLoader<T, ROWS, BK>;
  const T* loads;
  Gather g;
  bool vector;
  Pixel pixels[Base::PASSES];

  __device__ PixelRows(const T* loads, const Gather& g, int start) : loads(loads), g(g), vector(g.c % 4 == 0) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) pixels[pass] = pixel_of(g, start + this->row + pass * Base::LINES);
  }

  __device__ __forceinline__ void fetch(int d) {
    if (vector) {
      Column column = column_of(g, d + this->first);
#pragma unroll
      for (int pass = 0; pass < Base::PASSES; pass++) {
        int offset = offset_of(g, pixels[pass], column);
        // An offset in the padding reads nothing.
        load_quad<T>(loads + (offset < 0 ? 0 : offset), 0, offset < 0 ? 0 : 4, true, this->held[pass]);
      }
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        Column column = column_of(g, d + this->first + e);
#pragma unroll
        for (int pass = 0; pass < Base::PASSES; pass++)
          this->held[pass][e] = load_at(loads, offset_of(g, pixels[pass], column));
      }
    }
  }
};

// Rows of a matrix [count, depth]: the filter in the forward pass.
template <class T, int ROWS, int BK>
struct MatrixRows : RowLoader<T, ROWS, BK> {
  using Base = RowLoader<T, ROWS, BK>;
  const T* matrix;
  int start, count, depth;
  bool vector;

  __device__ MatrixRows(const T* matrix, int start, int count, int depth)
      : matrix(matrix), start(start + this->row), count(count), depth(depth), vector(depth % 4 == 0) {}

  __device__ __forceinline__ void fetch(int d) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int row = start + pass * Base::LINES;
      load_quad<T>(matrix + (row < count ? row : 0) * depth, d + this->first, row < count ? depth : 0, vector,
                   this->held[pass]);
    }
  }
};

// Columns of a matrix [limit, count], d running over its rows: dy in the weight gradient.
template <class T, int ROWS, int BK>
struct MatrixColumns : ColumnLoader<T, ROWS, BK> {
  using Base = ColumnLoader<T, ROWS, BK>;
  const T* matrix;
  int start, count, limit;

  __device__ MatrixColumns(const T* matrix, int start, int count, int limit)
      : matrix(matrix), start(start + this->first), count(count), limit(limit) {}

  __device__ __forceinline__ void fetch(int d) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int row = d + this->line + pass * Base::LINES;
      load_quad<T>(matrix + (row < limit ? row : 0) * count, start, row < limit ? count : 0, count % 4 == 0,
                   this->held[pass]);
    }
  }
};

// Gathered pixels, d running over the pixels below `limit`: x in the weight gradient.
template <class T, int ROWS, int BK>
struct PixelColumns : ColumnLoader<T, ROWS, BK> {
  using Base = ColumnLoader<T, ROWS, BK>;
  const T* loads;
  Gather g;
  int limit;
  bool vector;
  Column columns[4];

  __device__ PixelColumns(const T* loads, const Gather& g, int start, int limit)
      : loads(loads), g(g), limit(limit), vector(g.c % 4 == 0) {
#pragma unroll
    for (int e = 0; e < 4; e++) columns[e] = column_of(g, start + this->first + e);
  }

  __device__ __forceinline__ void fetch(int d) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int index = d + this->line + pass * Base::LINES;
      Pixel pixel = pixel_of(g, index < limit ? index : g.pixels());
      if (vector) {
        int offset = offset_of(g, pixel, columns[0]);
        load_quad<T>(loads + (offset < 0 ? 0 : offset), 0, offset < 0 ? 0 : 4, true, this->held[pass]);
      } else {
#pragma unroll
        for (int e = 0; e < 4; e++) this->held[pass][e] = load_at(loads, offset_of(g, pixel, columns[e]));
      }
    }
  }
};

// The product over d in [from, to); then store(row, column, quad) for each 4 adjacent elements of the tile.
template <class T, int BM, int BN, int BK, class A, class B, class Store>
__device__ __forceinline__ void multiply(A& a, B& b, int from, int to, Store store) {
  constexpr int TM = 8, TN = BM * BN / CONV_THREADS / TM, ACROSS = BN / TN;
  using S = Acc<T>;
  SHARED(S, tile_a, [2][BK * (BM + PAD)]);
  SHARED(S, tile_b, [2][BK * (BN + PAD)]);
  // A thread's rows and columns come in fours spread over the tile, so that a warp's vector reads hit all banks.
  int down = threadIdx.x / ACROSS * 4, across = threadIdx.x % ACROSS * 4;
  S sums[TM][TN / 4][4];
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN; j++) sums[i][j / 4][j % 4] = S(0);
  a.fetch(from);
  b.fetch(from);
  a.commit(tile_a[0]);
  b.commit(tile_b[0]);
  int buffer = 0;
  for (int d = from; d < to; d += BK) {
    // Separates this K tile's commits from its reads, and the reads of the K tile before from the commits below.
    __syncthreads();
    bool more = d + BK < to;
    if (more) {
      a.fetch(d + BK);
      b.fetch(d + BK);
    }
#pragma unroll
    for (int t = 0; t < BK; t++) {
      Quad<S> left[TM / 4], right[TN / 4];
#pragma unroll
      for (int i = 0; i < TM / 4; i++)
        left[i] = *reinterpret_cast<const Quad<S>*>(&tile_a[buffer][t * (BM + PAD) + down + i * (4 * BM / TM)]);
#pragma unroll
      for (int j = 0; j < TN / 4; j++)
        right[j] = *reinterpret_cast<const Quad<S>*>(&tile_b[buffer][t * (BN + PAD) + across + j * (4 * BN / TN)]);
#pragma unroll
      for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) sums[i][j / 4][j % 4] += left[i / 4].at[i % 4] * right[j / 4].at[j % 4];
    }
    buffer ^= 1;
    if (more) {
      a.commit(tile_a[buffer]);
      b.commit(tile_b[buffer]);
    }
  }
#pragma unroll
  for (int i = 0; i < TM; i++)
#pragma unroll
    for (int j = 0; j < TN / 4; j++)
      store(i / 4 * (4 * BM / TM) + down + i % 4, j * (4 * BN / TN) + across, sums[i][j]);
}
