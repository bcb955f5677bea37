// Geometry of a convolution, by value: mirrors ConvParams of src/ops/conv2d/params.rs.
#pragma once

struct ConvParams {
  int n, h, w, c;  // input [n, h, w, c]
  int k, r, s;     // filter [k, r, s, c]
  int p, q;        // output [n, p, q, k]
  int stride[2], padding[2], dilation[2];  // vertical, horizontal

  __device__ int taps() const { return r * s; }
  __device__ int pixels() const { return n * p * q; }
};
static_assert(sizeof(ConvParams) == 60, "ConvParams differs from its Rust mirror");
