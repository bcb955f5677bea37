// Batch norm's statistics where a convolution writes its output: no pass over the image for them.
//
// The rows of a warp's part of a tile are one piece. Mean and squared deviations of its columns come from registers, in
// two steps, as the values that are stored: first the sum, then the deviations from the mean. They leave in the layout
// of batch_norm_moments' chunks of Tile::WM rows, which batch_norm_moments_finish joins:
//   moments[piece][2][count]: mean, then squared deviations
#pragma once
#include "conv_mma.cuh"

// Over the eight lanes that hold a column.
__device__ __forceinline__ float sum_of_column(float x) {
#pragma unroll
  for (int lanes = 4; lanes < 32; lanes *= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

// `rows` of the warp's rows count; columns below `count`, which is even, from `start` on.
template <class T, class Tile>
__device__ __forceinline__ void store_moments(const typename Tile::Sums& sums, float* moments, int rows, int start,
                                              int count) {
  if (rows <= 0) return;
  int lane = threadIdx.x & 31, first = lane >> 2;
  // Divided by, not multiplied with its inverse: a constant column has just that mean, and no deviations.
  float size = min(rows, Tile::WM);
  struct alignas(8) Pair {
    float at[2];
  };
#pragma unroll
  for (int j = 0; j < Tile::ACROSS_8; j++) {
    Pair mean, squares;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      // Rows i * 16 + first, and 8 below.
      auto value = [&](int i, int half) { return to_acc(from_acc<T>(sums[i][j][e + 2 * half])); };
      auto counts = [&](int i, int half) { return i * 16 + half * 8 + first < rows; };
      float sum = 0, square = 0;
#pragma unroll
      for (int i = 0; i < Tile::DOWN_16; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) sum += counts(i, half) ? value(i, half) : 0.0f;
      mean.at[e] = sum_of_column(sum) / size;
#pragma unroll
      for (int i = 0; i < Tile::DOWN_16; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float d = counts(i, half) ? value(i, half) - mean.at[e] : 0.0f;
          square += d * d;
        }
      squares.at[e] = sum_of_column(square);
    }
    int column = start + Tile::column() + j * 8 + lane * 2;
    if (first == 0 && column < count) {
      *reinterpret_cast<Pair*>(moments + column) = mean;
      *reinterpret_cast<Pair*>(moments + count + column) = squares;
    }
  }
}

// The rows of the product that a block's tile covers: those of group blockIdx.z, each of `group` pixels, from `start`
// to `end`.
template <class Tile>
struct TileRows {
  int start, end, piece;

  __device__ TileRows(int tile, int group)
      : start(static_cast<int>(blockIdx.z) * group + tile * Tile::BM), end((static_cast<int>(blockIdx.z) + 1) * group) {
    int pieces = (group + Tile::WM - 1) / Tile::WM;
    piece = static_cast<int>(blockIdx.z) * pieces + (tile * Tile::BM + Tile::row()) / Tile::WM;
  }
  template <class T>
  __device__ __forceinline__ void store(const typename Tile::Sums& sums, float* moments, int start_n, int count) const {
    // Not in the slimmest tile, which would spill registers for them.
    if constexpr (Tile::BN > 32)
      if (moments)
        store_moments<T, Tile>(sums, moments + size_t(piece) * 2 * count, end - start - Tile::row(), start_n, count);
  }
};
