// Softmax entropy in nats (src/ops/entropy/mod.rs). With s = sum_c exp(x_c - m) and u = sum_c p_c (x_c - m):
//   entropy_sums:      a block's sum over its pixels of ln s - u
//   entropy_finish:    loss = sum / pixels
//   entropy_backward:  dx_c = -p_c (x_c - m - u) seed / pixels                                    all write (=)
// Layout: x, dx [pixels, C]; sums f64 [blocks]; loss and seed [1].
// Every sum has a fixed order: a thread's pixels rising, then the block, then the blocks.
// Launch: sums: any number of blocks of 256; finish: one block of 256; backward: one thread a pixel.
#include "dev.cuh"

template <class A>
struct Moments {
  A most, sum, mean;
};

template <class T>
__device__ __forceinline__ Moments<Acc<T>> moments_of(const T* x, int classes) {
  using A = Acc<T>;
  A most = to_acc(x[0]), sum = 0, first = 0;
  for (int c = 1; c < classes; c++) most = to_acc(x[c]) > most ? to_acc(x[c]) : most;
  for (int c = 0; c < classes; c++) {
    A shifted = to_acc(x[c]) - most, e = exp(shifted);
    sum += e, first += e * shifted;
  }
  return {most, sum, first / sum};
}

template <class T>
__device__ __forceinline__ void sum_of_block(const T* x, double* sums, int classes, int count) {
  double sum = 0;
  for (int pixel = blockIdx.x * blockDim.x + threadIdx.x; pixel < count; pixel += gridDim.x * blockDim.x) {
    Moments<Acc<T>> m = moments_of(x + static_cast<size_t>(pixel) * classes, classes);
    sum += log(m.sum) - m.mean;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__device__ __forceinline__ void gradient_of_pixel(const T* x, const Acc<T>* seed, T* dx, int classes, int pixel,
                                                  int count) {
  using A = Acc<T>;
  x += static_cast<size_t>(pixel) * classes, dx += static_cast<size_t>(pixel) * classes;
  Moments<A> m = moments_of(x, classes);
  A scale = *seed / A(count);
  for (int c = 0; c < classes; c++) {
    A shifted = to_acc(x[c]) - m.most;
    dx[c] = from_acc<T>(-exp(shifted) / m.sum * (shifted - m.mean) * scale);
  }
}

#define FINISH(A, suffix)                                                                                            \
  extern "C" __global__ void entropy_finish_##suffix(const double* __restrict__ sums, A* __restrict__ loss,          \
                                                     int blocks, int pixels) {                                       \
    double sum = 0;                                                                                                  \
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += sums[i];                                           \
    sum = block_sum(sum);                                                                                            \
    if (threadIdx.x == 0) *loss = A(sum / pixels);                                                                   \
  }                                                                                                                  \
  KERNEL_EXPORT(entropy_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)

#define ENTROPY(T, suffix)                                                                                           \
  extern "C" __global__ void entropy_sums_##suffix(const T* __restrict__ x, double* __restrict__ sums, int classes,  \
                                                   int count) {                                                      \
    sum_of_block(x, sums, classes, count);                                                                           \
  }                                                                                                                  \
  KERNEL_EXPORT(entropy_sums_##suffix)                                                                               \
  extern "C" __global__ void entropy_backward_##suffix(const T* __restrict__ x, const Acc<T>* __restrict__ seed,     \
                                                       T* __restrict__ dx, int classes, int count) {                 \
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;                                                               \
    if (pixel < count) gradient_of_pixel(x, seed, dx, classes, pixel, count);                                        \
  }                                                                                                                  \
  KERNEL_EXPORT(entropy_backward_##suffix)
FOR_FLOATS(ENTROPY)
