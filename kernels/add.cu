// Sum of two tensors, elementwise over `count` elements of any layout.
//   add_forward:       y[i] = a[i] + b[i]            writes (=); bf16 adds in f32
//   add_relu_forward:  y[i] = max(a[i] + b[i], 0)    writes (=); NaN passes through
// Launch: one thread an element, x dimension only; i < count is checked here. Bound by memory.
#include "dev.cuh"

#define ADD(T, suffix)                                                                                        \
  extern "C" __global__ void add_forward_##suffix(const T* __restrict__ a, const T* __restrict__ b,           \
                                                  T* __restrict__ y, int count) {                             \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                            \
    if (i < count) y[i] = from_acc<T>(to_acc(a[i]) + to_acc(b[i]));                                           \
  }                                                                                                           \
  KERNEL_EXPORT(add_forward_##suffix)                                                                         \
  extern "C" __global__ void add_relu_forward_##suffix(const T* __restrict__ a, const T* __restrict__ b,      \
                                                       T* __restrict__ y, int count) {                        \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                            \
    if (i >= count) return;                                                                                   \
    Acc<T> sum = to_acc(a[i]) + to_acc(b[i]);                                                                 \
    y[i] = from_acc<T>(sum < 0 ? Acc<T>(0) : sum);                                                            \
  }                                                                                                           \
  KERNEL_EXPORT(add_relu_forward_##suffix)
FOR_FLOATS(ADD)
