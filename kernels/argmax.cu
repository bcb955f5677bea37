// The first largest class of each pixel; NaN counts as the largest.        labels[p] = argmax_c x[p][c]        writes
// (=) Layout: x [pixels, classes]; labels u8 [pixels].
// Launch: one thread a pixel, x dimension only; pixel < count is checked here.
#include "dev.cuh"

template <class T>
__device__ __forceinline__ int first_largest(const T* x, int classes) {
  int best = 0;
  Acc<T> most = to_acc(x[0]);
  for (int c = 1; c < classes; c++) {
    Acc<T> value = to_acc(x[c]);
    if (value > most || (value != value && most == most)) best = c, most = value;
  }
  return best;
}

#define ARGMAX(T, suffix)                                                                                        \
  extern "C" __global__ void argmax_##suffix(const T* __restrict__ x, uint8_t* __restrict__ labels, int classes, \
                                             int count) {                                                        \
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;                                                           \
    if (pixel < count) labels[pixel] = first_largest(x + static_cast<size_t>(pixel) * classes, classes);         \
  }                                                                                                              \
  KERNEL_EXPORT(argmax_##suffix)
FOR_FLOATS(ARGMAX)
