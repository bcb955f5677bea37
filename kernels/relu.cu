// Rectified linear unit, elementwise over `count` elements of any layout.
//   relu_forward:   y[i]  = x[i] < 0 ? 0 : x[i]        writes (=); NaN passes through
//   relu_backward:  dx[i] = y[i] > 0 ? dy[i] : 0       writes (=)
// Launch: one thread an element, x dimension only; i < count is checked here. Bound by memory.
#include "dev.cuh"

#define RELU(T, suffix)                                                                                        \
  extern "C" __global__ void relu_forward_##suffix(const T* __restrict__ x, T* __restrict__ y, int count) {    \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                             \
    if (i < count) y[i] = to_acc(x[i]) < 0 ? from_acc<T>(0) : x[i];                                            \
  }                                                                                                            \
  KERNEL_EXPORT(relu_forward_##suffix)                                                                         \
  extern "C" __global__ void relu_backward_##suffix(const T* __restrict__ y, const T* __restrict__ dy,         \
                                                    T* __restrict__ dx, int count) {                           \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                             \
    if (i < count) dx[i] = to_acc(y[i]) > 0 ? dy[i] : from_acc<T>(0);                                          \
  }                                                                                                            \
  KERNEL_EXPORT(relu_backward_##suffix)
FOR_FLOATS(RELU)
