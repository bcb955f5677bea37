// Cosines of feature pixels with prototypes (METHOD.md, "Pixel-prototype similarity"), as src/ops/cosine/mod.rs states them.
//
//   inverse_norm_of_row    u = 1 / max(|x|, 1e-12) of one row, by a warp
//   similarity_tile        s of 64 pixels with all classes, by a block of 128 threads
//   through_norm           the factor of a gradient through a norm: 0 where the norm was clamped
#pragma once
#include "dev.cuh"
#include "tile_product.cuh"

constexpr int COSINE_CELLS = 64, COSINE_THREADS = 128;

template <class A>
__device__ __forceinline__ A through_norm(A inverse) {
  return inverse >= A(1e12) ? A(0) : inverse;
}

// All lanes get the same bits. A sum of squares that overflows is computed again with a scale.
template <class T>
__device__ __forceinline__ Acc<T> inverse_norm_of_row(const T* __restrict__ x, int depth) {
  using A = Acc<T>;
  int lane = threadIdx.x % 32;
  A sum = 0;
#pragma unroll 4
  for (int k = lane; k < depth; k += 32) {
    A v = to_acc(x[k]);
    sum += v * v;
  }
  sum = warp_sum(sum);
  A scale = 1;
  if (!(sum < A(INFINITY))) {
    A largest = 0;
    for (int k = lane; k < depth; k += 32) largest = max(largest, fabs(to_acc(x[k])));
    scale = A(1) / warp_max(largest);
    sum = 0;
    for (int k = lane; k < depth; k += 32) {
      A v = to_acc(x[k]) * scale;
      sum += v * v;
    }
    sum = warp_sum(sum);
  }
  A inverse = A(1) / sqrt(sum) * scale;
  return inverse > A(1e12) ? A(1e12) : inverse;
}

// s[i][c] of the pixels first .. first + 63 (those below `cells`) of one pair, to `s` [cells, C] in global memory, which the
// block may read after a barrier. `features` [cells, d], `vectors` [C, d], their inverse norms [cells] and [C]; classes that
// are not present(c) get -1.
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
