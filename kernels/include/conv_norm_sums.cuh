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
  static constexpr int WIDTH = CHUNK<T>, CHUNKS = Tile::BN / WIDTH, ROWS = Tile::THREADS / CHUNKS;
  // Four sums lie together; the threads' fours lie one after the other, and those of other columns or sums half a row of banks on.
  static constexpr int FOURS = 2 * WIDTH / 4, STEP = Tile::THREADS + 4, BYTES = FOURS * STEP * 16;
  static_assert(BYTES <= Tile::RESULT_BYTES, "the sums have room");
  struct alignas(16) Four {
    float at[4];
  };

  const NormBefore<T>& norm;
  bool relu;
  ColumnNorms<T, Tile> columns;
  float sum[2][WIDTH] = {};

  __device__ __forceinline__ NormSums(const NormBefore<T>& norm, const NormParams& p, int group, int start, int count)
      : norm(norm), relu(p.relu != 0), columns(norm.vectors, p, group, start, count) {}

  // g for a chunk of the gradient, whole, at `at` of the images.
  __device__ __forceinline__ Vector<T> operator()(int at, Vector<T> g) {
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
    return g;
  }

  // The sums of the tile's rows: `piece` of norm.sums. Nobody reads `shared` any more.
  __device__ __forceinline__ void finish(char* shared, size_t piece, int start, int count) const {
#pragma unroll
    for (int four = 0; four < FOURS; four++) {
      Four part;
#pragma unroll
      for (int e = 0; e < 4; e++) part.at[e] = sum[four * 4 / WIDTH][four * 4 % WIDTH + e];
      store_shared(reinterpret_cast<Four*>(shared) + four * STEP + Tile::thread(), part);
    }
    sync<Tile>();
    for (int i = Tile::thread(); i < 2 * Tile::BN; i += Tile::THREADS) {
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
    for (int i = Tile::thread(); i < 2 * Tile::BN; i += Tile::THREADS) {
      int column = start + i % Tile::BN;
      if (column < count) sums[(piece * 2 + i / Tile::BN) * count + column] = 0;
    }
  }
};

// By given statistics: what is left of a chunk of the gradient, and scaled where nothing else wants it as it is.
template <class T, class Tile>
struct GivenNorm {
  const T* y;
  bool relu, scaled;
  ColumnNorms<T, Tile> columns;

  __device__ __forceinline__ GivenNorm(const NormBefore<T>& norm, const NormParams& p, int group, int start, int count)
      : y(norm.y), relu(p.relu != 0), scaled(p.scaled != 0), columns(norm.vectors, p, group, start, count) {}

  __device__ __forceinline__ Vector<T> operator()(int at, Vector<T> g) const {
    Vector<T> out = {};
    if (y) out = load_pack<CHUNK<T>>(y + at);
#pragma unroll
    for (int e = 0; e < CHUNK<T>; e++) {
      float masked = !relu || to_acc(out.at[e]) > 0 ? to_acc(g.at[e]) : 0.0f;
      g.at[e] = from_acc<T>(scaled ? masked * columns.slope[e] : masked);
    }
    return g;
  }
};

// Calls put(at, chunk, g) for each chunk of a staged tile of a gradient of `count` channels, in whole chunks, from `start` on:
// plus `so_far` where that is not null, and with what the batch norm before wants of it; `at` is negative where the chunk lies
// beyond dx, and it is then as it was. offset_of(row) is where a row of the tile begins in dx, or negative for none. The sums take `scratch`, which may be `shared`.
template <class T, class Tile, class Offset, class Put>
__device__ __forceinline__ void finish_gradient(char* shared, char* scratch, const T* so_far, const NormBefore<T>& norm,
                                                const NormParams& p, int group, size_t piece, int start, int count,
                                                Offset offset_of, Put put) {
  auto each = [&](auto& change) {
    each_result<T, Tile>(shared, [&](int row, int column, char* chunk) {
      Vector<T> g = load_chunk<T>(chunk);
      int offset = offset_of(row), at = offset >= 0 && start + column < count ? offset + start + column : -1;
      if (at >= 0) {
        if (so_far) add(g, load_pack<CHUNK<T>>(so_far + at));
        g = change(at, g);
      }
      put(at, chunk, g);
    });
  };
  if (norm.sums) {
    NormSums<T, Tile> sums(norm, p, group, start, count);
    each(sums);
    // All have read the results before their place is taken.
    if (scratch == shared) sync<Tile>();
    sums.finish(scratch, piece, start, count);
  } else if (norm.vectors.mean) {
    GivenNorm<T, Tile> given(norm, p, group, start, count);
    each(given);
  } else {
    auto same = [](int, const Vector<T>& g) { return g; };
    each(same);
  }
}

// Writes a tile of a gradient.
template <class T, class Tile, class Offset>
__device__ __forceinline__ void store_gradient(char* shared, const typename Tile::Sums& sums, T* dx, const T* so_far,
                                               const NormBefore<T>& norm, const NormParams& p, int group, size_t piece,
                                               int start, int count, Offset offset_of) {
  stage_results<T, Tile>(shared, sums);
  // What follows comes after the results have left their registers.
  finish_gradient<T, Tile>(shared, shared, so_far, norm, p, group, piece, start, count, offset_of,
                           [&](int at, char*, const Vector<T>& g) {
                             if (at >= 0) store_pack(dx + at, g);
                           });
}
