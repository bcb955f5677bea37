// Conversions between float types and the sum of gradients.
//   cast_from_f32, cast_to_f32:  y[i] = (type) x[i]        writes (=)
//   accumulate:                  total[i] += x[i]          accumulates (+=); bf16 adds in f32
// Launch: one thread an element, x dimension only; i < count is checked here. Bound by memory.
#include "dev.cuh"

#define CAST(T, suffix)                                                                                          \
  extern "C" __global__ void cast_from_f32_##suffix(const float* __restrict__ x, T* __restrict__ y, int count) { \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                               \
    if (i < count) y[i] = from_acc<T>(static_cast<Acc<T>>(x[i]));                                                \
  }                                                                                                              \
  KERNEL_EXPORT(cast_from_f32_##suffix)                                                                          \
  extern "C" __global__ void cast_to_f32_##suffix(const T* __restrict__ x, float* __restrict__ y, int count) {   \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                               \
    if (i < count) y[i] = static_cast<float>(to_acc(x[i]));                                                      \
  }                                                                                                              \
  KERNEL_EXPORT(cast_to_f32_##suffix)
CAST(double, f64)
CAST(bf16, bf16)

#define ACCUMULATE(T, suffix)                                                                                    \
  extern "C" __global__ void accumulate_##suffix(T* __restrict__ total, const T* __restrict__ x, int count) {    \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                               \
    if (i < count) total[i] = from_acc<T>(to_acc(total[i]) + to_acc(x[i]));                                      \
  }                                                                                                              \
  KERNEL_EXPORT(accumulate_##suffix)
FOR_FLOATS(ACCUMULATE)
