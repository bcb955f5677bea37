// The batch norm after a convolution, by given statistics, where the output is stored: no pass over the image for it.
//
//   y = relu( (z - mean) * scale / sqrt(variance + epsilon) + shift + residual )     with z the convolution's output
//
// z is rounded to T first, so that y has the bits of two passes.
#pragma once
#include "conv_norm.cuh"

// None where the mean is null. The residual, of y's extents, may be null.
template <class T>
struct NormAfter {
  const T* residual;
  NormVectors vectors;
};

// Writes a tile of the output, of `count` columns from `start` on; those of a batch norm come in whole chunks. offset_of(row) is
// where a row of the tile begins in y, or negative for none.
template <class T, class Tile, class Offset>
__device__ __forceinline__ void store_output(char* shared, const typename Tile::Sums& sums, T* y, const NormAfter<T>& norm,
                                             const NormParams& p, int start, int count, Offset offset_of) {
  stage_results<T, Tile>(shared, sums);
  if (!norm.vectors.mean) {
    each_result<T, Tile>(shared, [&](int row, int column, const char* chunk) {
      int offset = offset_of(row);
      if (offset >= 0) store_chunk<T>(y + offset, start + column, count, count % CHUNK<T> == 0, chunk);
    });
    return;
  }
  // After the sums have left their registers.
  ColumnNorms<T, Tile> columns(norm.vectors, p, 0, start, count);
  each_result<T, Tile>(shared, [&](int row, int column, const char* chunk) {
    int offset = offset_of(row), at = offset + start + column;
    Vector<T> z = load_chunk<T>(chunk), more = {};
    if (offset < 0 || start + column >= count) return;
    if (norm.residual) more = load_pack<CHUNK<T>>(norm.residual + at);
#pragma unroll
    for (int e = 0; e < CHUNK<T>; e++) {
      float value = columns(e, to_acc(z.at[e]));
      if (norm.residual) value += to_acc(more.at[e]);
      // NaN passes through.
      if (p.relu && value < 0) value = 0;
      z.at[e] = from_acc<T>(value);
    }
    store_pack(y + at, z);
  });
}
