// What a convolution does with its results before it stores them, by value: mirrors src/ops/conv2d/cuda/epilogue.rs.
#pragma once

// A batch norm beside a convolution. The images come in `groups` with statistics of their own. `scaled` is for
// gradients by given statistics alone.
struct NormParams {
  int groups, relu, scaled;
  float epsilon;
};
static_assert(sizeof(NormParams) == 16, "src/ops/epilogue/mod.rs declares the same");

// Mean and variance are [groups, channels], scale and shift [channels]. Without a mean there is no batch norm.
struct NormVectors {
  const float *mean, *variance, *scale, *shift;
};

// Of a forward pass: y = z + bias for the products z; and where there is a batch norm by given statistics,
//   y = relu( (z + bias - mean) scale / sqrt(variance + epsilon) + shift + residual )
// with z + bias rounded to T first, so that y has the bits of two passes. What is null is left out.
template <class T>
struct ForwardEpilogue {
  const T *bias, *residual;  // [k]; [n, p, q, k]
  float* moments;            // of y, for the batch norm after: see conv_moments.cuh
  NormVectors vectors;
  NormParams norm;
};
static_assert(sizeof(ForwardEpilogue<float>) == 72, "src/ops/conv2d/cuda/epilogue.rs declares the same");

// Of a data gradient: dx = products + accumulate, and of the batch norm whose output the convolution read
//   g = dx where the ReLU passed     sums[piece][2][c] = sum g, sum g (x - mean)
// with x, that batch norm's input, and y, its output, or null where x tells the mask. By given statistics there are no
// sums, and g, or g scale / sqrt(variance + epsilon) where nothing else wants it, is all. What is null is left out.
template <class T>
struct DataGradientEpilogue {
  const T *accumulate, *x, *y;  // all [n, h, w, c]
  float* sums;
  NormVectors vectors;
  NormParams norm;
};
static_assert(sizeof(DataGradientEpilogue<float>) == 80, "src/ops/conv2d/cuda/epilogue.rs declares the same");
