// The batch norm after a convolution, by given statistics, where the output is stored: no pass over the image for it.
//
//   y = relu( (z - mean) * scale / sqrt(variance + epsilon) + shift + residual )     with z the convolution's output
//
// z is rounded to T first, so that y has the bits of two passes.
#pragma once
#include "conv_norm.cuh"

// Turns a thread's chunks of z into those of y, in whole chunks.
template <class T, class Tile>
struct Normalized {
  bool residual, relu;
  ColumnNorms<T, Tile> columns;

  __device__ __forceinline__ Normalized(const ForwardEpilogue<T>& e, int start, int count)
      : residual(e.residual), relu(e.norm.relu != 0), columns(e.vectors, e.norm, 0, start, count, true) {}

  __device__ __forceinline__ Vector<T> operator()(const Vector<T>& more, Vector<T> z) const {
#pragma unroll
    for (int e = 0; e < CHUNK<T>; e++) {
      float value = columns(e, to_acc(z.at[e]));
      if (residual) value += to_acc(more.at[e]);
      // NaN passes through.
      if (relu && value < 0) value = 0;
      z.at[e] = from_acc<T>(value);
    }
    return z;
  }
};

// Writes a tile of the output, of `count` columns from `start` on; those of a batch norm come in whole chunks.
// offset_of(row) is where a row of the tile begins in y, or negative for none.
template <class T, class Tile, class Offset>
__device__ __forceinline__ void store_output(char* shared, const typename Tile::Sums& sums, T* y,
                                             const ForwardEpilogue<T>& epilogue, int start, int count,
                                             Offset offset_of) {
  stage_results<T, Tile>(shared, sums);
  if (epilogue.vectors.mean) {
    // After the sums have left their registers.
    Normalized<T, Tile> normalized(epilogue, start, count);
    each_result<T, Tile>(shared, [&](const char* chunk, int row, int column) {
      Vector<T> z = load_chunk<T>(chunk), more = {};
      int offset = offset_of(row);
      if (offset < 0 || start + column >= count) return;
      if (epilogue.residual) more = load_constant<CHUNK<T>>(epilogue.residual + offset + start + column);
      store_pack(y + offset + start + column, normalized(more, z));
    });
    return;
  }
  each_result<T, Tile>(shared, [&](const char* chunk, int row, int column) {
    int offset = offset_of(row);
    if (offset >= 0) store_chunk<T>(y + offset, start + column, count, count % CHUNK<T> == 0, chunk);
  });
}
