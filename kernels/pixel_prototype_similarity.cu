// Cosine similarity of pixels and prototypes (docs/method.md, "Pixel-prototype similarity").
//
//   pixel_similarity   s[p][c] = u v <f[p], rho[c]>, -1 where counts[c] = 0                          writes (=)
//   similarity_sums    g[p][c] = counts[c] ? ds[p][c] : 0,  a[p] = sum_c g s                         writes (=)
//
// Layout: f [N, cells, d]; rho [N, C, d]; s, ds, g [N, cells, C]; a, u [N, cells]; v, counts [N, C]; tiles of 64
// pixels. Launch: pixel_similarity, similarity_sums: 128 threads, N * ceil(cells/64) blocks.
#include "cosine.cuh"

template <class T>
__device__ __forceinline__ void similarity(const T* features, const Acc<T>* vectors, const Acc<T>* inverse,
                                           const Acc<T>* vector_inverse, const uint32_t* counts, Acc<T>* s, int cells,
                                           int depth, int classes) {
  int tiles = (cells + COSINE_CELLS - 1) / COSINE_CELLS, pair = blockIdx.x / tiles;
  counts += pair * classes;
  similarity_tile(
      features + static_cast<size_t>(pair) * cells * depth, vectors + pair * classes * depth, inverse + pair * cells,
      vector_inverse + pair * classes, [&](int c) { return counts[c] > 0; }, s + pair * cells * classes,
      blockIdx.x % tiles * COSINE_CELLS, cells, depth, classes);
}

template <class A>
__device__ __forceinline__ void sums(const A* s, const A* ds, const uint32_t* counts, A* g, A* along, int cells,
                                     int classes) {
  int tiles = (cells + COSINE_CELLS - 1) / COSINE_CELLS, pair = blockIdx.x / tiles;
  int first = blockIdx.x % tiles * COSINE_CELLS, last = min(first + COSINE_CELLS, cells);
  s += pair * cells * classes, ds += pair * cells * classes, g += pair * cells * classes, along += pair * cells;
  counts += pair * classes;
  for (int p = first + threadIdx.x / 32; p < last; p += COSINE_THREADS / 32) {
    A sum = 0;
    for (int c = threadIdx.x % 32; c < classes; c += 32) {
      A slope = counts[c] > 0 ? ds[p * classes + c] : A(0);
      g[p * classes + c] = slope;
      sum += slope * s[p * classes + c];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) along[p] = sum;
  }
}

#define SIMILARITY(T, suffix)                                                                                  \
  extern "C" __global__ void __launch_bounds__(128, 4) pixel_similarity_##suffix(                              \
      const T* __restrict__ features, const Acc<T>* __restrict__ vectors, const Acc<T>* __restrict__ inverse,  \
      const Acc<T>* __restrict__ vector_inverse, const uint32_t* __restrict__ counts, Acc<T>* __restrict__ s,  \
      int cells, int depth, int classes) {                                                                     \
    similarity(features, vectors, inverse, vector_inverse, counts, s, cells, depth, classes);                  \
  }                                                                                                            \
  KERNEL_EXPORT(pixel_similarity_##suffix)
FOR_FLOATS(SIMILARITY)

#define SUMS(A, suffix)                                                                                          \
  extern "C" __global__ void __launch_bounds__(128) similarity_sums_##suffix(                                    \
      const A* __restrict__ s, const A* __restrict__ ds, const uint32_t* __restrict__ counts, A* __restrict__ g, \
      A* __restrict__ along, int cells, int classes) {                                                           \
    sums(s, ds, counts, g, along, cells, classes);                                                               \
  }                                                                                                              \
  KERNEL_EXPORT(similarity_sums_##suffix)
SUMS(float, f32)
SUMS(double, f64)
