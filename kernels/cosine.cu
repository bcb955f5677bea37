// Norms, and the gradients of cosines by features and prototypes (equations: src/ops/cosine/mod.rs).
//
//   inverse_norms            u[r] = 1 / max(|x[r]|, 1e-12)                                             writes (=)
//   cosine_features          df[p][k] = q u (sum_c g[p][c] v[c] rho[c][k] - a[p] u f[p][k])            writes (=)
//   cosine_vectors           part[chunk][c][k] = sum over the chunk's pixels of g[p][c] u[p] f[p][k]   writes (=)
//   cosine_vectors_finish    drho[c][k] = q v (sum_chunk part[chunk][c][k] - b[c] v rho[c][k])         writes (=)
//
// q = scale[pair] * dloss[0], each 1 where its pointer is null; the outer u and v are 0 where the norm was clamped.
// Layout: x [rows, d]; f, df [N, cells, d]; rho, drho [N, C, d]; g [N, cells, C]; a, u [N, cells]; b, v [N, C];
// part [N, chunks, C, d] with `chunk` pixels each, added in their order.
// Launch: blocks in x only.
//   inverse_norms            128 threads, a warp a row
//   cosine_features          128 threads, N * ceil(cells/64) * ceil(d/32) blocks, the last index fastest
//   cosine_vectors           128 threads, N * chunks * ceil(C/32) * ceil(d/64) blocks, the last index fastest
//   cosine_vectors_finish    a thread an element of drho, blocks of 256
#include "cosine.cuh"

template <class T>
__device__ __forceinline__ void norms(const T* x, Acc<T>* inverse, int rows, int depth) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  Acc<T> u = inverse_norm_of_row(x + static_cast<size_t>(row) * depth, depth);
  if (threadIdx.x % 32 == 0) inverse[row] = u;
}

template <class A>
__device__ __forceinline__ A factor(const A* scale, const A* dloss, int pair) {
  return (scale ? scale[pair] : A(1)) * (dloss ? dloss[0] : A(1));
}

template <class T>
__device__ __forceinline__ void features_gradient(const T* features, const Acc<T>* vectors, const Acc<T>* inverse,
                                                  const Acc<T>* vector_inverse, const Acc<T>* g, const Acc<T>* along,
                                                  const Acc<T>* scale, const Acc<T>* dloss, T* df, int cells, int depth,
                                                  int classes) {
  using A = Acc<T>;
  using Product = TileProduct<A, true, false>;
  int tiles_k = (depth + Product::COLUMNS - 1) / Product::COLUMNS, tiles_p = (cells + Product::ROWS - 1) / Product::ROWS;
  int k0 = blockIdx.x % tiles_k * Product::COLUMNS, first = blockIdx.x / tiles_k % tiles_p * Product::ROWS;
  int pair = blockIdx.x / tiles_k / tiles_p;
  features += static_cast<size_t>(pair) * cells * depth, df += static_cast<size_t>(pair) * cells * depth;
  vectors += pair * classes * depth, vector_inverse += pair * classes;
  inverse += pair * cells, along += pair * cells, g += pair * cells * classes;
  A sum[4][4] = {};
  auto weight = [&](int i, int c) { return first + i < cells ? g[(first + i) * classes + c] : A(0); };
  auto rho = [&](int c, int j) {
    return k0 + j < depth ? vectors[c * depth + k0 + j] * vector_inverse[c] : A(0);
  };
  Product::run(classes, weight, rho, sum);
  A q = factor(scale, dloss, pair);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int cell = first + Product::row() + i;
    if (cell >= cells) continue;
    A u = inverse[cell], outer = q * through_norm(u), radial = along[cell] * u;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int k = k0 + Product::column() + j;
      if (k < depth) df[cell * depth + k] = from_acc<T>(outer * (sum[i][j] - radial * to_acc(features[cell * depth + k])));
    }
  }
}

template <class T>
__device__ __forceinline__ void vectors_gradient(const T* features, const Acc<T>* inverse, const Acc<T>* g, Acc<T>* part,
                                                 int cells, int depth, int classes, int chunk, int chunks) {
  using A = Acc<T>;
  using Product = TileProduct<A, false, false>;
  int tiles_k = (depth + Product::ROWS - 1) / Product::ROWS, tiles_c = (classes + Product::COLUMNS - 1) / Product::COLUMNS;
  int k0 = blockIdx.x % tiles_k * Product::ROWS, rest = blockIdx.x / tiles_k;
  int c0 = rest % tiles_c * Product::COLUMNS, which = rest / tiles_c % chunks, pair = rest / tiles_c / chunks;
  int first = which * chunk, count = min(chunk, cells - first);
  features += (static_cast<size_t>(pair) * cells + first) * depth;
  inverse += pair * cells + first, g += (pair * cells + first) * classes;
  part += (static_cast<size_t>(pair) * chunks + which) * classes * depth;
  A sum[4][4] = {};
  // u f is at most 1 in size, whatever f.
  auto f = [&](int i, int p) { return k0 + i < depth ? to_acc(features[p * depth + k0 + i]) * inverse[p] : A(0); };
  auto weight = [&](int p, int j) { return c0 + j < classes ? g[p * classes + c0 + j] : A(0); };
  Product::run(count, f, weight, sum);
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int k = k0 + Product::row() + i, c = c0 + Product::column() + j;
      if (k < depth && c < classes) part[c * depth + k] = sum[i][j];
    }
}

template <class A>
__device__ __forceinline__ void vectors_finish(const A* part, const A* vectors, const A* vector_inverse, const A* radial,
                                               const A* scale, const A* dloss, A* drho, int block, int depth, int chunks,
                                               int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int pair = i / block;
  part += static_cast<size_t>(pair) * chunks * block + i % block;
  A sum = 0;
#pragma unroll 4
  for (int chunk = 0; chunk < chunks; chunk++) sum += part[static_cast<size_t>(chunk) * block];
  A v = vector_inverse[i / depth];
  drho[i] = factor(scale, dloss, pair) * through_norm(v) * (sum - radial[i / depth] * v * vectors[i]);
}

#define COSINE(T, suffix)                                                                                               \
  extern "C" __global__ void inverse_norms_##suffix(const T* __restrict__ x, Acc<T>* __restrict__ inverse, int rows,    \
                                                    int depth) {                                                        \
    norms(x, inverse, rows, depth);                                                                                     \
  }                                                                                                                     \
  KERNEL_EXPORT(inverse_norms_##suffix)                                                                                 \
  extern "C" __global__ void __launch_bounds__(128) cosine_features_##suffix(                                           \
      const T* __restrict__ features, const Acc<T>* __restrict__ vectors, const Acc<T>* __restrict__ inverse,           \
      const Acc<T>* __restrict__ vector_inverse, const Acc<T>* __restrict__ g, const Acc<T>* __restrict__ along,        \
      const Acc<T>* __restrict__ scale, const Acc<T>* __restrict__ dloss, T* __restrict__ df, int cells, int depth,     \
      int classes) {                                                                                                    \
    features_gradient(features, vectors, inverse, vector_inverse, g, along, scale, dloss, df, cells, depth, classes);   \
  }                                                                                                                     \
  KERNEL_EXPORT(cosine_features_##suffix)                                                                               \
  extern "C" __global__ void __launch_bounds__(128) cosine_vectors_##suffix(                                            \
      const T* __restrict__ features, const Acc<T>* __restrict__ inverse, const Acc<T>* __restrict__ g,                 \
      Acc<T>* __restrict__ part, int cells, int depth, int classes, int chunk, int chunks) {                            \
    vectors_gradient(features, inverse, g, part, cells, depth, classes, chunk, chunks);                                 \
  }                                                                                                                     \
  KERNEL_EXPORT(cosine_vectors_##suffix)
FOR_FLOATS(COSINE)

#define FINISH(A, suffix)                                                                                               \
  extern "C" __global__ void cosine_vectors_finish_##suffix(                                                            \
      const A* __restrict__ part, const A* __restrict__ vectors, const A* __restrict__ vector_inverse,                  \
      const A* __restrict__ radial, const A* __restrict__ scale, const A* __restrict__ dloss, A* __restrict__ drho,     \
      int block, int depth, int chunks, int count) {                                                                    \
    vectors_finish(part, vectors, vector_inverse, radial, scale, dloss, drho, block, depth, chunks, count);             \
  }                                                                                                                     \
  KERNEL_EXPORT(cosine_vectors_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)
