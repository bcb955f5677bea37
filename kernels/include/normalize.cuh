// One channel of a batch norm, worked out once a thread.
#pragma once
#include "dev.cuh"

template <class A>
struct Channel {
  A mean, inverse, slope, shift;
  __device__ __forceinline__ Channel(A mean, A variance, A scale, A shift, A epsilon)
      : mean(mean), inverse(A(1) / sqrt(variance + epsilon)), slope(scale * inverse), shift(shift) {}
  __device__ __forceinline__ Channel(const A* mean, const A* variance, const A* scale, const A* shift, int c, A epsilon)
      : Channel(mean[c], variance[c], scale[c], shift[c], epsilon) {}
  // Explicit fma: a ReLU's mask must come out alike in the forward and the backward pass.
  __device__ __forceinline__ A operator()(A x) const { return fma(x - mean, slope, shift); }
};
