// A batch norm beside a convolution, which does part of its work in the epilogue.
#pragma once
#include "conv_epilogue.cuh"
#include "conv_store.cuh"
#include "normalize.cuh"

// A channel of `count`, for a group of images; nobody writes the vectors meanwhile.
__device__ __forceinline__ Channel<float> channel_of(const NormVectors& v, const NormParams& p, int group, int count,
                                                     int channel) {
  size_t own = size_t(group) * count + channel;
  return {__ldg(v.mean + own), __ldg(v.variance + own), __ldg(v.scale + channel), __ldg(v.shift + channel), p.epsilon};
}

// Those of the columns that a thread of each_result() stores; only `mean` where nothing else is asked for.
template <class T, class Tile>
struct ColumnNorms {
  static constexpr int WIDTH = CHUNK<T>, CHUNKS = Tile::BN / WIDTH;
  float mean[WIDTH], slope[WIDTH], shift[WIDTH];

  // Of columns below `count`, in whole chunks, from `start` on.
  __device__ __forceinline__ ColumnNorms(const NormVectors& v, const NormParams& p, int group, int start, int count,
                                         bool all)
      : mean(), slope(), shift() {
    int first = start + Tile::thread() % CHUNKS * WIDTH;
    if (first >= count) first = 0;
    if (!all) {
#pragma unroll
      for (int e = 0; e < WIDTH; e += 4) {
        Pack<float, 4> four = load_constant<4>(v.mean + size_t(group) * count + first + e);
#pragma unroll
        for (int i = 0; i < 4; i++) mean[e + i] = four.at[i];
      }
    } else {
#pragma unroll
      for (int e = 0; e < WIDTH; e++) {
        Channel<float> c = channel_of(v, p, group, count, first + e);
        mean[e] = c.mean, slope[e] = c.slope, shift[e] = c.shift;
      }
    }
  }
  __device__ __forceinline__ float operator()(int e, float x) const { return fma(x - mean[e], slope[e], shift[e]); }
};
