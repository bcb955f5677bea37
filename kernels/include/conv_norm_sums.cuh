// The first half of a batch norm's backward pass, done by the convolution that reads that batch norm's output, where it writes
// the gradient: no pass over the image for it.
//
//   g = the gradient where the ReLU passed     sums[piece][2][channels] = sum g, sum g (x - mean)
//
// with x, the batch norm's input, and the mask as in batch_norm_sums. g is stored in the gradient's place. A piece is a tile's
// rows; its sums run in an order fixed by the tile.
//
// By given statistics there are no sums, and g, or where nothing else wants it g scale / sqrt(variance + epsilon), is all.
#pragma once
#include "conv_norm.cuh"

// None where the mean is null, and no sums where `sums` is. x and y have the extents of the gradient; y is null where x tells the
// mask, x where there are no sums.
template <class T>
struct NormBefore {
  const T *x, *y;
  NormVectors vectors;
  float* sums;
};

// What a thread of each_result() adds up for its columns.
template <class T, class Tile>
struct NormSums {
  static constexpr int WIDTH = CHUNK<T>, CHUNKS = Tile::BN / WIDTH, ROWS = MMA_THREADS / CHUNKS;
  // Four sums lie together; the threads' fours lie one after the other, and those of other columns or sums half a row of banks on.
  static constexpr int FOURS = 2 * WIDTH / 4, STEP = MMA_THREADS + 4;
  static_assert(FOURS * STEP * 16 <= STAGES * Tile::STAGE_BYTES, "the sums take the place of the results");
  struct alignas(16) Four {
    float at[4];
  };

  const NormBefore<T>& norm;
  bool relu;
  ColumnNorms<T, Tile> columns;
  float sum[2][WIDTH] = {};

  __device__ __forceinline__ NormSums(const NormBefore<T>& norm, const NormParams& p, int group, int start, int count)
      : norm(norm), relu(p.relu != 0), columns(norm.vectors, p, group, start, count) {}

  // A chunk of the gradient, whole, at `at` of the images.
  __device__ __forceinline__ void store(T* dx, int at, Vector<T> g) {
    Vector<T> in = load_pack<CHUNK<T>>(norm.x + at), out = {};
    if (norm.y) out = load_pack<CHUNK<T>>(norm.y + at);
#pragma unroll
    for (int e = 0; e < WIDTH; e++) {
      float x = to_acc(in.at[e]), z = norm.y ? to_acc(out.at[e]) : columns(e, x);
      float masked = !relu || z > 0 ? to_acc(g.at[e]) : 0.0f;
      g.at[e] = from_acc<T>(masked);
      sum[0][e] += masked;
      sum[1][e] += masked * (x - columns.mean[e]);
    }
    store_pack(dx + at, g);
  }

  // The sums of the block's rows: `piece` of norm.sums.
  __device__ __forceinline__ void finish(char* shared, size_t piece, int start, int count) const {
    // All have read the results.
    __syncthreads();
#pragma unroll
    for (int four = 0; four < FOURS; four++) {
      Four part;
#pragma unroll
      for (int e = 0; e < 4; e++) part.at[e] = sum[four * 4 / WIDTH][four * 4 % WIDTH + e];
      store_shared(reinterpret_cast<Four*>(shared) + four * STEP + threadIdx.x, part);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * Tile::BN; i += MMA_THREADS) {
      int which = i / Tile::BN, column = i % Tile::BN, four = (which * WIDTH + column % WIDTH) / 4;
      float total = 0;
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        int thread = row * CHUNKS + column / WIDTH;
        total += load_shared(reinterpret_cast<const float*>(shared) + (four * STEP + thread) * 4 + column % 4);
      }
      if (start + column < count) norm.sums[(piece * 2 + which) * count + start + column] = total;
    }
  }

  // A piece without rows.
  __device__ static void finish_empty(float* sums, size_t piece, int start, int count) {
    for (int i = threadIdx.x; i < 2 * Tile::BN; i += MMA_THREADS) {
      int column = start + i % Tile::BN;
      if (column < count) sums[(piece * 2 + i / Tile::BN) * count + column] = 0;
    }
  }
};

// Writes a tile of a gradient of `count` channels, in whole chunks, from `start` on, plus `so_far` where that is not null, and
// what the batch norm before wants of it. offset_of(row) is where a row of the tile begins in dx, or negative for none.
template <class T, class Tile, class Offset>
__device__ __forceinline__ void store_gradient(char* shared, const typename Tile::Sums& sums, T* dx, const T* so_far,
                                               const NormBefore<T>& norm, const NormParams& p, int group, size_t piece,
                                               int start, int count, Offset offset_of) {
  stage_results<T, Tile>(shared, sums);
  auto each = [&](auto store) {
    each_result<T, Tile>(shared, [&](int row, int column, const char* chunk) {
      Vector<T> g = load_chunk<T>(chunk);
      int offset = offset_of(row), at = offset + start + column;
      if (offset < 0 || start + column >= count) return;
      if (so_far) add(g, load_pack<CHUNK<T>>(so_far + at));
      store(at, g);
    });
  };
  if (norm.sums) {
    // After the results have left their registers.
    NormSums<T, Tile> taken(norm, p, group, start, count);
    each([&](int at, const Vector<T>& g) { taken.store(dx, at, g); });
    taken.finish(shared, piece, start, count);
  } else if (norm.vectors.mean) {
    ColumnNorms<T, Tile> columns(norm.vectors, p, group, start, count);
    each([&](int at, Vector<T> g) {
      Vector<T> out = {};
      if (norm.y) out = load_pack<CHUNK<T>>(norm.y + at);
#pragma unroll
      for (int e = 0; e < CHUNK<T>; e++) {
        float masked = !p.relu || to_acc(out.at[e]) > 0 ? to_acc(g.at[e]) : 0.0f;
        g.at[e] = from_acc<T>(p.scaled ? masked * columns.slope[e] : masked);
      }
      store_pack(dx + at, g);
    });
  } else {
    each([&](int at, const Vector<T>& g) { store_pack(dx + at, g); });
  }
}
