// A batch norm beside a convolution, which does part of its work in the epilogue.
#pragma once
#include "conv_results.cuh"
#include "normalize.cuh"

// The images come in `groups` with statistics of their own. `scaled` is for gradients by given statistics alone.
struct NormParams {
  int groups, relu, scaled;
  float epsilon;
};
static_assert(sizeof(NormParams) == 16, "src/ops/batch_norm/after_conv.rs declares the same");

// Mean and variance are [groups, channels], scale and shift [channels].
struct NormVectors {
  const float *mean, *variance, *scale, *shift;
};

// Those of the columns that a thread of each_result() stores; only `mean` where nothing else is asked for. A thread works out all
// its columns, or (SHARED_NORMS) each column is worked out by one thread, and handed over in NORMS_BYTES of shared memory: square
// roots and divisions by all threads would take longer than the products of a short sum.
template <class T, class Tile>
struct ColumnNorms {
  static constexpr int WIDTH = CHUNK<T>, CHUNKS = Tile::BN / WIDTH;
  float mean[WIDTH], slope[WIDTH], shift[WIDTH];
  bool all;

  // Of columns below `count`, in whole chunks, from `start` on.
  __device__ __forceinline__ ColumnNorms(const NormVectors& v, const NormParams& p, int group, int start, int count, bool all,
                                         char* shared)
      : mean(), slope(), shift(), all(all) {
    const float *means = v.mean + size_t(group) * count, *variances = v.variance + size_t(group) * count;
    int first = start + Tile::thread() % CHUNKS * WIDTH;
    if (first >= count) first = 0;
    if (!all) {
#pragma unroll
      for (int e = 0; e < WIDTH; e += 4) {
        Pack<float, 4> four = load_pack<4>(means + first + e);
#pragma unroll
        for (int i = 0; i < 4; i++) mean[e + i] = four.at[i];
      }
    } else if constexpr (Tile::SHARED_NORMS) {
      int column = Tile::thread();
      if (column < Tile::BN) {
        int channel = start + column < count ? start + column : 0;
        Channel<float> c(means, variances, v.scale, v.shift, channel, p.epsilon);
        float* at = reinterpret_cast<float*>(shared) + place(column / WIDTH, column % WIDTH);
        store_shared(at, c.mean), store_shared(at + NORMS, c.slope), store_shared(at + 2 * NORMS, c.shift);
      }
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; e++) {
        Channel<float> c(means, variances, v.scale, v.shift, first + e, p.epsilon);
        mean[e] = c.mean, slope[e] = c.slope, shift[e] = c.shift;
      }
    }
  }
  // Behind the barrier.
  __device__ __forceinline__ void ready(const char* shared) {
    if constexpr (Tile::SHARED_NORMS) {
      if (!all) return;
#pragma unroll
      for (int e = 0; e < WIDTH; e += 4) {
        const float* at = reinterpret_cast<const float*>(shared) + place(Tile::thread() % CHUNKS, e);
        auto four = [&](int vector) { return load_shared(reinterpret_cast<const Pack<float, 4>*>(at + vector * NORMS)); };
        Pack<float, 4> means = four(0), slopes = four(1), shifts = four(2);
#pragma unroll
        for (int i = 0; i < 4; i++) mean[e + i] = means.at[i], slope[e + i] = slopes.at[i], shift[e + i] = shifts.at[i];
      }
    }
  }
  __device__ __forceinline__ float operator()(int e, float x) const { return fma(x - mean[e], slope[e], shift[e]); }

 private:
  // Of chunks of eight, the second halves lie half a row of banks behind the first ones: they are written together, and read apart.
  static constexpr int HALF = Tile::BN / 2 + 16, NORMS = HALF + Tile::BN / 2;
  static_assert(!Tile::SHARED_NORMS || (WIDTH == 8 && Tile::BN == 64 && 3 * NORMS * 4 <= Tile::NORMS_BYTES), "room for the norms");
  __device__ __forceinline__ static int place(int chunk, int e) { return e / 4 * HALF + chunk * 4 + e % 4; }
};
