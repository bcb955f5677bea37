// A tensor times a number, elementwise over `count` elements of any layout.
//   scale:  y[i] = factor * x[i]        writes (=); bf16 multiplies in f32
// Launch: one thread an element, x dimension only; i < count is checked here. Bound by memory.
#include "dev.cuh"

#define SCALE(T, suffix)                                                                                               \
  extern "C" __global__ void scale_##suffix(const T* __restrict__ x, T* __restrict__ y, double factor, int count) {    \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < count) y[i] = from_acc<T>(Acc<T>(factor) * to_acc(x[i]));                                                  \
  }                                                                                                                    \
  KERNEL_EXPORT(scale_##suffix)
FOR_FLOATS(SCALE)
