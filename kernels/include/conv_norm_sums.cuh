// The first half of a batch norm's backward pass, done by the convolution that reads that batch norm's output, where it
// writes the gradient: no pass over the image for it.
//
//   g = the gradient where the ReLU passed     sums[piece][2][channels] = sum g, sum g (x - mean)
//
// with x, the batch norm's input, and the mask as in batch_norm_sums. g is stored in the gradient's place. A piece is a
// tile's rows; its sums run in an order fixed by the tile.
//
// By given statistics there are no sums, and g, or where nothing else wants it g scale / sqrt(variance + epsilon), is
// all.
#pragma once
#include "conv_norm.cuh"

// What a chunk of the gradient needs besides: what it is added to, the batch norm's input and output.
template <class T>
struct GradientInputs {
  Vector<T> accumulate, x, y;
};

// What a thread of each_result() adds up for its columns.
template <class T, class Tile>
struct NormSums {
  static constexpr int WIDTH = CHUNK<T>, CHUNKS = Tile::BN / WIDTH, ROWS = Tile::THREADS / CHUNKS;
  // Four sums lie together, and those of the threads one after the other.
  static constexpr int FOURS = 2 * WIDTH / 4, BYTES = FOURS * Tile::THREADS * 16;
  static_assert(BYTES <= Tile::RESULT_BYTES, "the sums have room");
  struct alignas(16) Four {
    float at[4];
  };

  bool relu, scaled, by_y;
  ColumnNorms<T, Tile> columns;
  float sum[2][WIDTH] = {};

  __device__ __forceinline__ NormSums(const DataGradientEpilogue<T>& e, int group, int start, int count)
      : relu(e.norm.relu != 0),
        scaled(e.norm.scaled != 0),
        by_y(e.y != nullptr),
        columns(e.vectors, e.norm, group, start, count, !e.y || e.norm.scaled) {}

  // What is left of a chunk of the gradient: where the ReLU passed, and scaled where nothing else wants it as it is.
  __device__ __forceinline__ Vector<T> operator()(const GradientInputs<T>& in, Vector<T> g) {
#pragma unroll
    for (int e = 0; e < WIDTH; e++) {
      float x = to_acc(in.x.at[e]), z = by_y ? to_acc(in.y.at[e]) : columns(e, x);
      float masked = !relu || z > 0 ? to_acc(g.at[e]) : 0.0f;
      g.at[e] = from_acc<T>(scaled ? masked * columns.slope[e] : masked);
      add(e, masked, x);
    }
    return g;
  }
  __device__ __forceinline__ void add(int e, float masked, float x) {
    sum[0][e] += masked;
    sum[1][e] += masked * (x - columns.mean[e]);
  }

  // Where a thread's four lie. Threads whose columns are one chunk read two fours side by side: half a row of banks
  // apart.
  __device__ __forceinline__ static int place(int four, int thread) {
    return four * Tile::THREADS + (WIDTH == 8 ? thread ^ (four & 1) << 2 : thread);
  }

  // The sums of the tile's rows: `piece` of `sums`. Nobody uses `shared` any more.
  __device__ __forceinline__ void finish(char* shared, float* sums, size_t piece, int start, int count) const {
#pragma unroll
    for (int four = 0; four < FOURS; four++) {
      Four part;
#pragma unroll
      for (int e = 0; e < 4; e++) part.at[e] = sum[four * 4 / WIDTH][four * 4 % WIDTH + e];
      store_shared(reinterpret_cast<Four*>(shared) + place(four, Tile::thread()), part);
    }
    sync<Tile>();
    for (int i = Tile::thread(); i < 2 * Tile::BN; i += Tile::THREADS) {
      int which = i / Tile::BN, column = i % Tile::BN, four = (which * WIDTH + column % WIDTH) / 4;
      float total = 0;
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        int thread = row * CHUNKS + column / WIDTH;
        total += load_shared(reinterpret_cast<const float*>(shared) + place(four, thread) * 4 + column % 4);
      }
      if (start + column < count) sums[(piece * 2 + which) * count + start + column] = total;
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

// The same for bf16, two elements at a time: masked as they are stored, and the same bits.
template <class Tile>
struct NormSumsOfPairs : NormSums<bf16, Tile> {
  using NormSums<bf16, Tile>::NormSums;

  __device__ __forceinline__ Vector<bf16> operator()(const GradientInputs<bf16>& in, Vector<bf16> chunk) {
    ChunkWords g, xs, ys;
    memcpy(&g, &chunk, 16), memcpy(&xs, &in.x, 16), memcpy(&ys, &in.y, 16);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float first = first_of(xs.at[i]), second = second_of(xs.at[i]);
      uint32_t passed = ~0u;
      if (this->relu && this->by_y)
        passed = above_zero(ys.at[i]);
      else if (this->relu)
        passed =
            (this->columns(2 * i, first) > 0 ? 0xffffu : 0) | (this->columns(2 * i + 1, second) > 0 ? 0xffff0000u : 0);
      g.at[i] &= passed;
      float masked[2] = {first_of(g.at[i]), second_of(g.at[i])};
      this->add(2 * i, masked[0], first), this->add(2 * i + 1, masked[1], second);
      if (this->scaled)
        g.at[i] = pair_of(masked[0] * this->columns.slope[2 * i], masked[1] * this->columns.slope[2 * i + 1]);
    }
    memcpy(&chunk, &g, 16);
    return chunk;
  }
};
template <class T, class Tile>
struct NormSumsOf {
  using Type = NormSums<T, Tile>;
};
template <class Tile>
struct NormSumsOf<bf16, Tile> {
  using Type = NormSumsOfPairs<Tile>;
};

// Writes a tile of a gradient of `count` channels, in whole chunks, from `start` on. offset_of(row) is where a row of
// the tile begins in dx, or negative for none.
template <class T, class Tile, class Offset>
__device__ __forceinline__ void store_gradient(char* shared, const typename Tile::Sums& sums, T* dx,
                                               const DataGradientEpilogue<T>& epilogue, int group, size_t piece,
                                               int start, int count, Offset offset_of) {
  stage_results<T, Tile>(shared, sums);
  // What follows comes after the results have left their registers.
  auto each = [&](auto& change) {
    each_result<T, Tile>(shared, [&](const char* chunk, int row, int column) {
      Vector<T> g = load_chunk<T>(chunk);
      int at = offset_of(row);
      if (at < 0 || start + column >= count) return;
      at += start + column;
      GradientInputs<T> in = {};
      if (epilogue.accumulate) in.accumulate = load_constant<CHUNK<T>>(epilogue.accumulate + at);
      if (epilogue.x) in.x = load_constant<CHUNK<T>>(epilogue.x + at);
      if (epilogue.y) in.y = load_constant<CHUNK<T>>(epilogue.y + at);
      if (epilogue.accumulate) add(g, in.accumulate);
      store_pack(dx + at, change(in, g));
    });
  };
  if (epilogue.vectors.mean) {
    typename NormSumsOf<T, Tile>::Type norm_sums(epilogue, group, start, count);
    each(norm_sums);
    if (!epilogue.sums) return;
    // All have read the results before the sums take their place.
    sync<Tile>();
    norm_sums.finish(shared, epilogue.sums, piece, start, count);
  } else {
    auto same = [](const GradientInputs<T>&, const Vector<T>& g) { return g; };
    each(same);
  }
}
