// A batch norm beside a convolution, which does part of its work in the epilogue.
#pragma once
#include "conv_results.cuh"
#include "normalize.cuh"

// The images come in `groups` with statistics of their own. `scaled` is for gradients by given statistics alone.
struct NormParams {
  int groups, relu, scaled;
  float epsilon;
};
static_assert(sizeof(NormParams) == 16, "src/ops/epilogue/mod.rs declares the same");

// Mean and variance are [groups, channels], scale and shift [channels].
struct NormVectors {
  const float *mean, *variance, *scale, *shift;
};

// Those of the columns that a thread of each_result() stores; only `mean` where nothing else is asked for.
template <class T, class Tile>
struct ColumnNorms {
  static constexpr int WIDTH = CHUNK<T>, CHUNKS = Tile::BN / WIDTH;
  float mean[WIDTH], slope[WIDTH], shift[WIDTH];

  // Of columns below `count`, in whole chunks, from `start` on.
  __device__ __forceinline__ ColumnNorms(const NormVectors& v, const NormParams& p, int group, int start, int count, bool all)
      : mean(), slope(), shift() {
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
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; e++) {
        Channel<float> c(means, variances, v.scale, v.shift, first + e, p.epsilon);
        mean[e] = c.mean, slope[e] = c.slope, shift[e] = c.shift;
      }
    }
  }
  __device__ __forceinline__ float operator()(int e, float x) const { return fma(x - mean[e], slope[e], shift[e]); }
};
