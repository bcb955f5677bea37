// One channel of a batch norm, worked out once a thread.
#pragma once
#include "dev.cuh"

template <class A>
struct Channel {
  A mean, inverse, slope, shift;
  __device__ __forceinline__ Channel(const A* mean_, const A* variance, const A* scale, const A* shift_, int c, A epsilon)
      : mean(mean_[c]), inverse(A(1) / sqrt(variance[c] + epsilon)), slope(scale[c] * inverse), shift(shift_[c]) {}
  // Explicit fma: a ReLU's mask must come out alike in the forward and the backward pass.
  __device__ __forceinline__ A operator()(A x) const { return fma(x - mean, slope, shift); }
};
