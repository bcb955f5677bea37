// Sum of all elements times a factor, in an order that depends on `count` alone.
//   reduce_pieces:     partial[block] = sum of the 4096 elements of a piece        writes (=)
//   reduce_finish:     y[0] = factor * sum of `count` partials                     writes (=)
//   reduce_broadcast:  dx[i] = factor * dy[0]                                      writes (=)
// Launch: blocks of 256 threads. reduce_pieces: one block a piece; reduce_finish: one block; reduce_broadcast: one
// thread an element. Scalars and partials are of type Acc<T>.
#include "dev.cuh"

constexpr int PIECE = 4096;

template <class T>
__device__ __forceinline__ Acc<T> strided_sum(const T* __restrict__ x, int first, int end) {
  Acc<T> sum = 0;
  for (int i = first + int(threadIdx.x); i < end; i += blockDim.x) sum += to_acc(x[i]);
  return block_sum(sum);
}

#define REDUCE(T, suffix)                                                                                      \
  extern "C" __global__ void reduce_pieces_##suffix(const T* __restrict__ x, Acc<T>* __restrict__ partial,     \
                                                    int count) {                                               \
    int first = blockIdx.x * PIECE;                                                                            \
    Acc<T> sum = strided_sum(x, first, count - first < PIECE ? count : first + PIECE);                         \
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;                                                           \
  }                                                                                                            \
  KERNEL_EXPORT(reduce_pieces_##suffix)                                                                        \
  extern "C" __global__ void reduce_broadcast_##suffix(const Acc<T>* __restrict__ dy, T* __restrict__ dx,      \
                                                       double factor, int count) {                             \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                             \
    if (i < count) dx[i] = from_acc<T>(Acc<T>(factor) * dy[0]);                                                \
  }                                                                                                            \
  KERNEL_EXPORT(reduce_broadcast_##suffix)
FOR_FLOATS(REDUCE)

#define FINISH(A, suffix)                                                                                              \
  extern "C" __global__ void reduce_finish_##suffix(const A* __restrict__ partial, A* __restrict__ y, double factor,   \
                                                    int count) {                                                       \
    A sum = strided_sum(partial, 0, count);                                                                            \
    if (threadIdx.x == 0) y[0] = A(factor) * sum;                                                                      \
  }                                                                                                                    \
  KERNEL_EXPORT(reduce_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)
