// Geometry of a convolution, by value: mirrors ConvProblem of src/ops/conv2d/problem.rs.
#pragma once

struct ConvProblem {
  int n, h, w, c;                          // input [n, h, w, c]
  int k, r, s;                             // filter [k, r, s, c]
  int p, q;                                // output [n, p, q, k]
  int stride[2], padding[2], dilation[2];  // vertical, horizontal

  __device__ int taps() const { return r * s; }
  __device__ int pixels() const { return n * p * q; }
  // Whether each pixel is its own window.
  __device__ bool is_pointwise() const {
    return r == 1 && s == 1 && stride[0] == 1 && stride[1] == 1 && padding[0] == 0 && padding[1] == 0;
  }
};
static_assert(sizeof(ConvProblem) == 60, "ConvProblem differs from its Rust mirror");
