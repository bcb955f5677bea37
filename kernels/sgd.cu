// Stochastic gradient descent with momentum and weight decay, PyTorch's rule, in place; and a check for NaN and infinity.
//   sgd_step:    m[i] = momentum * m[i] + (g[i] + decay * p[i]);  p[i] -= rate * m[i]        updates p and m
//   all_finite:  bad[offset + block] = 1 if any of a block's 4096 elements is NaN or infinite, else 0        writes (=)
// Launch: sgd_step: one thread an element, i < count is checked here; all_finite: one block of 256 threads a piece.
#include "dev.cuh"

#define SGD(T, suffix)                                                                                                 \
  extern "C" __global__ void sgd_step_##suffix(T* __restrict__ p, T* __restrict__ m, const T* __restrict__ g,          \
                                               double momentum, double rate, double decay, int count) {                \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i >= count) return;                                                                                            \
    T value = p[i], moment = T(momentum) * m[i] + (g[i] + T(decay) * value);                                           \
    m[i] = moment;                                                                                                     \
    p[i] = value - T(rate) * moment;                                                                                   \
  }                                                                                                                    \
  KERNEL_EXPORT(sgd_step_##suffix)
SGD(float, f32)
SGD(double, f64)

constexpr int PIECE = 4096;

#define FINITE(T, suffix)                                                                                              \
  extern "C" __global__ void all_finite_##suffix(const T* __restrict__ x, uint32_t* __restrict__ bad, int offset,      \
                                                 int count) {                                                          \
    int first = blockIdx.x * PIECE, end = count - first < PIECE ? count : first + PIECE;                               \
    int found = 0;                                                                                                     \
    for (int i = first + int(threadIdx.x); i < end; i += blockDim.x) {                                                 \
      Acc<T> value = to_acc(x[i]);                                                                                     \
      /* 0 for finite values, else NaN. */                                                                             \
      if (!(value - value == 0)) found = 1;                                                                            \
    }                                                                                                                  \
    found = block_max(found);                                                                                          \
    if (threadIdx.x == 0) bad[offset + blockIdx.x] = found;                                                            \
  }                                                                                                                    \
  KERNEL_EXPORT(all_finite_##suffix)
FOR_FLOATS(FINITE)
