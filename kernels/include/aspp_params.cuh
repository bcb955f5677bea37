// The four branches of atrous spatial pyramid pooling as the kernels of aspp.cu and aspp_taps.cu are told of them.
#pragma once
#include "conv_problem.cuh"

constexpr int BRANCHES = 4;

// Mirrors AsppParams of src/ops/aspp/cuda.rs.
struct AsppParams {
  int n, h, w, c, k, r, s;
  int dilation[BRANCHES];

  __device__ int pixels() const { return n * h * w; }
  __device__ int taps() const { return r * s; }
  // An index known at run time only would move the parameters to local memory.
  __device__ int dilation_of(int b) const {
    return b == 0 ? dilation[0] : b == 1 ? dilation[1] : b == 2 ? dilation[2] : dilation[3];
  }
  // Branch `b` as a convolution.
  __device__ ConvProblem branch(int b) const {
    int d = dilation_of(b);
    return {n, h, w, c, k, r, s, h, w, {1, 1}, {r / 2 * d, s / 2 * d}, {d, d}};
  }
};
static_assert(sizeof(AsppParams) == 44, "AsppParams differs from its Rust mirror");

// The pointer of branch `b`.
template <class P>
__device__ __forceinline__ P* choose(int b, P* p0, P* p1, P* p2, P* p3) {
  return b == 0 ? p0 : b == 1 ? p1 : b == 2 ? p2 : p3;
}
