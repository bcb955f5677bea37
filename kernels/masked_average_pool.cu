// Prototypes by masked average pooling (METHOD.md, "Prototypes"), their gradient, and the classes that two domains share.
//
//   pool_partial    part[chunk][c][k] = sum of f[p][k] over the chunk's pixels with y[p] = c,
//                   part_count[chunk][c] = their number                                              writes (=)
//   pool_finish     rho[c][k] = sum_chunk part / max(n[c], 1), n[c] = sum_chunk part_count           writes (=)
//                   to `copies` rows of equal content
//   pool_backward   df[p][k] = sum_copies drho[copy][y[p]][k] / n[y[p]], 0 where y[p] >= C           writes (=)
//   class_overlap   both[i] = s[i] > 0 and t[i] > 0                                                  writes (=)
//
// Layout: f, df [pools, cells, d]; y u8 [pools, cells]; part [pools, chunks, C, d]; rho, drho [pools * copies, C, d]; n
// u32 [pools * copies, C]. Chunks have `chunk` pixels and are added in their order.
// Launch: blocks in x. pool_partial: `blockDim.x` channels a block, pools * chunks * ceil(d / blockDim.x) blocks, the last
// index fastest; dynamic shared memory C * blockDim.x accumulators. The others: a thread an element, blocks of 256.
#include "dev.cuh"

template <class T>
__device__ __forceinline__ void partial_sums(const T* x, const uint8_t* labels, Acc<T>* part, uint32_t* part_count,
                                             int cells, int depth, int classes, int chunk, int chunks) {
  DYN_SMEM(Acc<T>, column);
  int threads = blockDim.x, t = threadIdx.x, tiles_k = (depth + threads - 1) / threads;
  int tile = blockIdx.x % tiles_k, which = blockIdx.x / tiles_k % chunks, pool = blockIdx.x / tiles_k / chunks;
  int k = tile * threads + t, first = which * chunk, count = min(chunk, cells - first);
  labels += pool * cells + first;
  part_count += (pool * chunks + which) * classes;
  // A thread reads and writes its own column of shared memory only, so that no barrier is needed.
  if (k < depth) {
    x += (static_cast<size_t>(pool) * cells + first) * depth + k;
    part += (static_cast<size_t>(pool) * chunks + which) * classes * depth + k;
    for (int c = 0; c < classes; c++) column[c * threads + t] = 0;
    for (int p0 = 0; p0 < count; p0 += 8) {
      Acc<T> v[8];
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = p0 + i < count ? to_acc(x[static_cast<size_t>(p0 + i) * depth]) : Acc<T>(0);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        int label = p0 + i < count ? labels[p0 + i] : 255;
        if (label < classes) column[label * threads + t] += v[i];
      }
    }
    for (int c = 0; c < classes; c++) part[static_cast<size_t>(c) * depth] = column[c * threads + t];
  }
  if (tile == 0)
    for (int c = t; c < classes; c += threads) {
      uint32_t n = 0;
      for (int p = 0; p < count; p++) n += labels[p] == c;
      part_count[c] = n;
    }
}

template <class A>
__device__ __forceinline__ void finish(const A* part, const uint32_t* part_count, A* rho, uint32_t* counts, int depth,
                                       int classes, int chunks, int copies, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int block = classes * depth, pool = i / block, e = i % block, c = e / depth;
  uint32_t n = 0;
  A sum = 0;
#pragma unroll 4
  for (int chunk = 0; chunk < chunks; chunk++) {
    n += part_count[(pool * chunks + chunk) * classes + c];
    sum += part[(static_cast<size_t>(pool) * chunks + chunk) * block + e];
  }
  A mean = sum / A(max(n, 1u));
  for (int copy = 0; copy < copies; copy++) {
    int row = pool * copies + copy;
    rho[static_cast<size_t>(row) * block + e] = mean;
    if (e % depth == 0) counts[row * classes + c] = n;
  }
}

template <class T>
__device__ __forceinline__ void backward(const Acc<T>* drho, const uint8_t* labels, const uint32_t* counts, T* df,
                                         int cells, int depth, int classes, int copies, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int p = i / depth, k = i % depth, pool = p / cells, c = labels[p];
  Acc<T> sum = 0;
  if (c < classes) {
    for (int copy = 0; copy < copies; copy++) sum += drho[((pool * copies + copy) * classes + c) * depth + k];
    sum /= Acc<T>(max(counts[pool * copies * classes + c], 1u));
  }
  df[i] = from_acc<T>(sum);
}

#define POOL(T, suffix)                                                                                                 \
  extern "C" __global__ void pool_partial_##suffix(const T* __restrict__ x, const uint8_t* __restrict__ labels,         \
                                                   Acc<T>* __restrict__ part, uint32_t* __restrict__ part_count,        \
                                                   int cells, int depth, int classes, int chunk, int chunks) {          \
    partial_sums(x, labels, part, part_count, cells, depth, classes, chunk, chunks);                                    \
  }                                                                                                                     \
  KERNEL_EXPORT(pool_partial_##suffix)                                                                                  \
  extern "C" __global__ void pool_backward_##suffix(                                                                    \
      const Acc<T>* __restrict__ drho, const uint8_t* __restrict__ labels, const uint32_t* __restrict__ counts,         \
      T* __restrict__ df, int cells, int depth, int classes, int copies, int count) {                                   \
    backward(drho, labels, counts, df, cells, depth, classes, copies, count);                                           \
  }                                                                                                                     \
  KERNEL_EXPORT(pool_backward_##suffix)
FOR_FLOATS(POOL)

#define POOL_FINISH(A, suffix)                                                                                          \
  extern "C" __global__ void pool_finish_##suffix(const A* __restrict__ part, const uint32_t* __restrict__ part_count,  \
                                                  A* __restrict__ rho, uint32_t* __restrict__ counts, int depth,        \
                                                  int classes, int chunks, int copies, int count) {                     \
    finish(part, part_count, rho, counts, depth, classes, chunks, copies, count);                                       \
  }                                                                                                                     \
  KERNEL_EXPORT(pool_finish_##suffix)
POOL_FINISH(float, f32)
POOL_FINISH(double, f64)

extern "C" __global__ void class_overlap(const uint32_t* __restrict__ s, const uint32_t* __restrict__ t,
                                         uint8_t* __restrict__ both, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) both[i] = s[i] > 0 && t[i] > 0;
}
KERNEL_EXPORT(class_overlap)
