// Cosines of feature pixels with prototypes (docs/method.md, "Pixel-prototype similarity"; src/ops/cosine/mod.rs).
//
//   inverse_norm_of_row    u = 1 / max(|x|, 1e-12) of one row, by some lanes of a warp
//   similarity_tile        s of 64 pixels with all classes, by a block of 128 threads
//   CellGroups             how a block walks over those similarities, a group of lanes a pixel
//   through_norm           the factor of a gradient through a norm: 0 where the norm was clamped
#pragma once
#include "dev.cuh"
#include "tile_product.cuh"

constexpr int COSINE_CELLS = 64, COSINE_THREADS = 128;

template <class A>
__device__ __forceinline__ A through_norm(A inverse) {
  return inverse >= A(1e12) ? A(0) : inverse;
}

// The sum, maximum, .. over runs of `lanes` lanes, a power of 2; all lanes of the warp call, and those of a run get the
// same bits.
template <class A, class Combine>
__device__ __forceinline__ A reduce_run(A value, Combine combine, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// By LANES lanes in a row, which get the same bits; all lanes of the warp call, each run for a row of its own. A sum of
// squares that overflows is computed again with a scale.
template <int LANES, class T>
__device__ __forceinline__ Acc<T> inverse_norm_of_row(const T* __restrict__ x, int depth) {
  using A = Acc<T>;
  int lane = threadIdx.x % LANES;
  A sum = 0;
#pragma unroll 8
  for (int k = lane; k < depth; k += LANES) {
    A v = to_acc(x[k]);
    sum += v * v;
  }
  sum = reduce_run(sum, Sum(), LANES);
  A scale = 1;
  // The whole warp takes the way of its worst row; the others keep a scale of 1.
  if (warp_max(sum < A(INFINITY) ? 0 : 1)) {
    bool overflows = !(sum < A(INFINITY));
    A largest = 0;
    for (int k = lane; k < depth; k += LANES) largest = max(largest, fabs(to_acc(x[k])));
    largest = reduce_run(largest, Max(), LANES);
    scale = overflows ? A(1) / largest : A(1);
    sum = 0;
    for (int k = lane; k < depth; k += LANES) {
      A v = to_acc(x[k]) * scale;
      sum += v * v;
    }
    sum = reduce_run(sum, Sum(), LANES);
  }
  A inverse = A(1) / sqrt(sum) * scale;
  return inverse > A(1e12) ? A(1e12) : inverse;
}

// Inverse norms of the pixels first .. last - 1 of one pair, by a block of 128 threads.
template <class T>
__device__ __forceinline__ void inverse_norms_of_tile(const T* __restrict__ features, Acc<T>* inverse, int first,
                                                      int last, int depth) {
  constexpr int LANES = 8, ROWS = COSINE_THREADS / LANES;
  for (int row = first; row < last; row += ROWS) {
    int p = row + threadIdx.x / LANES;
    Acc<T> u = inverse_norm_of_row<LANES>(features + static_cast<size_t>(min(p, last - 1)) * depth, depth);
    if (p < last && threadIdx.x % LANES == 0) inverse[p] = u;
  }
}

// Pixels whose similarities with all classes a block holds in shared memory at one time, in rows of `stride`, and the
// lanes that serve each of them: 64 pixels with 2 lanes each for up to 23 classes, down to 4 with 32 each for 255.
constexpr int HELD_VALUES = 1536;
struct CellGroups {
  int stride, cells, lanes;
  __device__ __forceinline__ explicit CellGroups(int classes) : stride(classes | 1), cells(COSINE_CELLS) {
    while (cells * stride > HELD_VALUES) cells /= 2;
    lanes = COSINE_THREADS / cells;
  }
  __device__ __forceinline__ int cell() const { return threadIdx.x / lanes; }
  __device__ __forceinline__ int lane() const { return threadIdx.x % lanes; }
};

// s[i][c] of the pixels first .. first + 63 (those below `cells`) of one pair, to `s` [cells, C] in global memory,
// which the block may read after a barrier. `features` [cells, d], `vectors` [C, d], their inverse norms [cells] and
// [C]; classes that are not present(c) get -1.
template <class T, class Present>
__device__ __forceinline__ void similarity_tile(const T* __restrict__ features, const Acc<T>* __restrict__ vectors,
                                                const Acc<T>* __restrict__ inverse,
                                                const Acc<T>* __restrict__ vector_inverse, Present present,
                                                Acc<T>* __restrict__ s, int first, int cells, int depth, int classes) {
  using A = Acc<T>;
  using Product = TileProduct<A, true, true>;
  for (int class0 = 0; class0 < classes; class0 += Product::COLUMNS) {
    A sum[4][4] = {};
    // Both factors have norm 1 at most, so that no product overflows.
    auto f = [&](int i, int k) {
      return first + i < cells ? to_acc(features[(first + i) * depth + k]) * inverse[first + i] : A(0);
    };
    auto rho = [&](int k, int j) {
      return class0 + j < classes ? vectors[(class0 + j) * depth + k] * vector_inverse[class0 + j] : A(0);
    };
    Product::run(depth, f, rho, sum);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int cell = first + Product::row() + i, c = class0 + Product::column() + j;
        if (cell < cells && c < classes) s[cell * classes + c] = present(c) ? sum[i][j] : A(-1);
      }
  }
}
