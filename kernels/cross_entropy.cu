// Softmax cross entropy over the pixels whose label is a class (src/ops/cross_entropy/mod.rs).
//   cross_entropy_sums:      a block's sum over its pixels of ln(sum_c exp(x_c - m)) - (x_label - m), and their number
//   cross_entropy_finish:    loss = sum / labelled, 0 where labelled = 0; labelled
//   cross_entropy_backward:  dx_c = (p_c - [c = label]) seed / labelled; 0 where the label is no class     all write
//                            (=)
// Layout: x, dx [pixels, C]; labels u8 [pixels]; sums f64, numbers u32 [blocks]; loss, labelled and seed [1].
// Every sum has a fixed order: a thread's pixels rising, then the block, then the blocks.
// Launch: sums: any number of blocks of 256; finish: one block of 256; backward: one thread a pixel.
#include "dev.cuh"

template <class T>
__device__ __forceinline__ void softmax_of(const T* x, int classes, Acc<T>& most, Acc<T>& sum) {
  using A = Acc<T>;
  most = to_acc(x[0]), sum = 0;
  for (int c = 1; c < classes; c++) most = to_acc(x[c]) > most ? to_acc(x[c]) : most;
  for (int c = 0; c < classes; c++) sum += exp(A(to_acc(x[c]) - most));
}

template <class T>
__device__ __forceinline__ void sums_of_block(const T* x, const uint8_t* labels, double* sums, uint32_t* numbers,
                                              int classes, int count) {
  double sum = 0;
  int number = 0;
  for (int pixel = blockIdx.x * blockDim.x + threadIdx.x; pixel < count; pixel += gridDim.x * blockDim.x) {
    int label = labels[pixel];
    if (label >= classes) continue;
    const T* row = x + static_cast<size_t>(pixel) * classes;
    Acc<T> most, total;
    softmax_of(row, classes, most, total);
    sum += log(total) - (to_acc(row[label]) - most), number++;
  }
  sum = block_sum(sum), number = block_sum(number);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum, numbers[blockIdx.x] = number;
}

template <class T>
__device__ __forceinline__ void gradient_of_pixel(const T* x, const uint8_t* labels, const uint32_t* labelled,
                                                  const Acc<T>* seed, T* dx, int classes, int pixel) {
  using A = Acc<T>;
  x += static_cast<size_t>(pixel) * classes, dx += static_cast<size_t>(pixel) * classes;
  int label = labels[pixel];
  if (label >= classes) {
    for (int c = 0; c < classes; c++) dx[c] = from_acc<T>(0);
    return;
  }
  A most, sum, scale = *seed / A(*labelled);
  softmax_of(x, classes, most, sum);
  for (int c = 0; c < classes; c++) {
    A p = exp(A(to_acc(x[c]) - most)) / sum;
    dx[c] = from_acc<T>((p - A(c == label)) * scale);
  }
}

#define FINISH(A, suffix)                                                                                              \
  extern "C" __global__ void cross_entropy_finish_##suffix(const double* __restrict__ sums,                            \
                                                           const uint32_t* __restrict__ numbers, A* __restrict__ loss, \
                                                           uint32_t* __restrict__ labelled, int blocks) {              \
    double sum = 0;                                                                                                    \
    int number = 0;                                                                                                    \
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += sums[i], number += numbers[i];                       \
    sum = block_sum(sum), number = block_sum(number);                                                                  \
    if (threadIdx.x == 0) *loss = number ? A(sum / number) : A(0), *labelled = number;                                 \
  }                                                                                                                    \
  KERNEL_EXPORT(cross_entropy_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)

#define CROSS_ENTROPY(T, suffix)                                                                                      \
  extern "C" __global__ void cross_entropy_sums_##suffix(const T* __restrict__ x, const uint8_t* __restrict__ labels, \
                                                         double* __restrict__ sums, uint32_t* __restrict__ numbers,   \
                                                         int classes, int count) {                                    \
    sums_of_block(x, labels, sums, numbers, classes, count);                                                          \
  }                                                                                                                   \
  KERNEL_EXPORT(cross_entropy_sums_##suffix)                                                                          \
  extern "C" __global__ void cross_entropy_backward_##suffix(                                                         \
      const T* __restrict__ x, const uint8_t* __restrict__ labels, const uint32_t* __restrict__ labelled,             \
      const Acc<T>* __restrict__ seed, T* __restrict__ dx, int classes, int count) {                                  \
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (pixel < count) gradient_of_pixel(x, labels, labelled, seed, dx, classes, pixel);                              \
  }                                                                                                                   \
  KERNEL_EXPORT(cross_entropy_backward_##suffix)
FOR_FLOATS(CROSS_ENTROPY)
