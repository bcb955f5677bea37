// Copies between the channels offset .. offset + channels of wide images [rows, total] and narrow images [rows,
// channels].
//   concat_channels_put:   wide[row][offset + c] = narrow[row][c]        writes (=) that run of channels only
//   concat_channels_take:  narrow[row][c] = wide[row][offset + c]        writes (=)
// Launch: one thread an element of the narrow image, x dimension only; i < count = rows * channels is checked here.
#include "dev.cuh"

#define CONCAT(T, suffix)                                                                                              \
  extern "C" __global__ void concat_channels_put_##suffix(const T* __restrict__ narrow, T* __restrict__ wide,          \
                                                          int channels, int total, int offset, int count) {            \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < count) wide[size_t(i / channels) * total + offset + i % channels] = narrow[i];                             \
  }                                                                                                                    \
  KERNEL_EXPORT(concat_channels_put_##suffix)                                                                          \
  extern "C" __global__ void concat_channels_take_##suffix(const T* __restrict__ wide, T* __restrict__ narrow,         \
                                                           int channels, int total, int offset, int count) {           \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < count) narrow[i] = wide[size_t(i / channels) * total + offset + i % channels];                             \
  }                                                                                                                    \
  KERNEL_EXPORT(concat_channels_take_##suffix)
FOR_FLOATS(CONCAT)
