// Norms, and the gradients of cosines by features and prototypes (equations: src/ops/cosine/mod.rs).
//
//   inverse_norms            u[r] = 1 / max(|x[r]|, 1e-12)                                             writes (=)
//   cosine_vectors           part[chunk][c][k] = sum over the chunk's pixels of g[p][c] u[p] f[p][k]   writes (=)
//   cosine_vectors_finish    drho[c][k] = q v (S[k] - b v rho[c][k]), S = sum_chunk part[chunk][c],
//                            b = sum_k S[k] v rho[c][k]                                                writes (=)
//   cosine_features          df[p][k] = q u (sum_c g[p][c] v[c] rho[c][k] - a[p] u f[p][k])            writes (=)
//                            and, where drho is not null, what comes back through masked average pooling:
//                            + sum_copies drho[copy][y[p]][k] / n[y[p]]
//
// q = scale[pair] * dloss[0], each 1 where its pointer is null; the outer u and v are 0 where the norm was clamped.
// Layout: x [rows, d]. D directions, by the domain of their pixels (with one direction, of the one domain): f, df
// [D, N, cells, d], each one tensor or (where the second pointer is not null) two; a, u [D, N, cells]; g [D, N, cells,
// C]; scale [D, N]; part [D, N, chunks, C, d] with `chunk` pixels each, added in their order. By the domain that
// they come from: rho, drho [D, N, C, d]; v, n [D, N, C]. Labels y u8, dynamic labels and n as in
// kernels/masked_average_pool.cu; `copies` rows of rho are of one pool.
// Launch: blocks in x; D in y for those that run over pixels.
//   inverse_norms            128 threads, a warp a row
//   cosine_features          128 threads, N * ceil(cells/64) * ceil(d/32) blocks, the last index fastest
//   cosine_vectors           128 threads, N * chunks * ceil(C/32) * ceil(d/64) blocks, the last index fastest
//   cosine_vectors_finish    128 x 8 threads, a block a row of drho
#include "cosine.cuh"
#include "domains.cuh"
#include "label_sampling.cuh"

struct CosineProblem {
  int directions, pairs, cells, depth, classes;
  int chunk, chunks, copies;
  LabelSampling sampling;  // of the pooling
};
static_assert(sizeof(CosineProblem) == 52, "as in src/ops/cosine/cuda.rs");

template <class T>
__device__ __forceinline__ void norms(const T* x, Acc<T>* inverse, int rows, int depth) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  Acc<T> u = inverse_norm_of_row<32>(x + static_cast<size_t>(row) * depth, depth);
  if (threadIdx.x % 32 == 0) inverse[row] = u;
}

// `image`: which of the [D, N].
template <class A>
__device__ __forceinline__ A factor(const A* scale, const A* dloss, int image) {
  return (scale ? scale[image] : A(1)) * (dloss ? dloss[0] : A(1));
}

template <class T>
__device__ __forceinline__ void features_gradient(const T* features, const T* other_features, const Acc<T>* vectors,
                                                  const Acc<T>* inverse, const Acc<T>* vector_inverse, const Acc<T>* g,
                                                  const Acc<T>* along, const Acc<T>* scale, const Acc<T>* dloss,
                                                  const Acc<T>* drho, const uint32_t* counts, const uint8_t* labels,
                                                  const uint8_t* other_labels, const uint8_t* dynamic, T* df,
                                                  T* other_df, const CosineProblem& p) {
  using A = Acc<T>;
  using Product = TileProduct<A, true, false>;
  SHARED(int, label_of, [Product::ROWS]);
  int cells = p.cells, depth = p.depth, classes = p.classes, domain = blockIdx.y;
  int tiles_k = (depth + Product::COLUMNS - 1) / Product::COLUMNS,
      tiles_p = (cells + Product::ROWS - 1) / Product::ROWS;
  int k0 = blockIdx.x % tiles_k * Product::COLUMNS, first = blockIdx.x / tiles_k % tiles_p * Product::ROWS;
  int pair = blockIdx.x / tiles_k / tiles_p, image = domain * p.pairs + pair;
  size_t of_image = static_cast<size_t>(cells) * depth;
  size_t of_labels = static_cast<size_t>(p.sampling.rows) * p.sampling.columns;
  features = of_domain(features, other_features, domain, p.pairs * of_image) + pair * of_image;
  df = of_domain(df, other_df, domain, p.pairs * of_image) + pair * of_image;
  int from = ((p.directions - 1 - domain) * p.pairs + pair) * classes;
  vectors += static_cast<size_t>(from) * depth, vector_inverse += from;
  inverse += image * cells, along += image * cells, g += static_cast<size_t>(image) * cells * classes;
  if (drho) {
    int pool = (domain * p.pairs + pair / p.copies * p.copies) * classes;
    drho += static_cast<size_t>(pool) * depth, counts += pool;
    labels = of_domain(labels, other_labels, domain, p.pairs * of_labels) + pair * of_labels;
    dynamic = dynamic && domain == 1 ? dynamic + pair * cells : nullptr;
    for (int i = threadIdx.x; i < min(Product::ROWS, cells - first); i += Product::THREADS)
      label_of[i] = label_of_cell(labels, dynamic, p.sampling, first + i);
  }
  A sum[4][4] = {};
  auto weight = [&](int i, int c) { return first + i < cells ? g[(first + i) * classes + c] : A(0); };
  auto rho = [&](int c, int j) { return k0 + j < depth ? vectors[c * depth + k0 + j] * vector_inverse[c] : A(0); };
  // Its barriers also stand between the labels' writers and readers.
  Product::run(classes, weight, rho, sum);
  A q = factor(scale, dloss, image);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int cell = first + Product::row() + i;
    if (cell >= cells) continue;
    A u = inverse[cell], outer = q * through_norm(u), radial = along[cell] * u;
    int label = drho ? label_of[Product::row() + i] : NO_LABEL;
    A of_class = label < classes ? A(max(counts[label], 1u)) : A(1);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      int k = k0 + Product::column() + j;
      if (k >= depth) continue;
      A pooled = 0;
      if (label < classes)
        for (int copy = 0; copy < p.copies; copy++) pooled += drho[(copy * classes + label) * depth + k];
      A along_cosine = outer * (sum[i][j] - radial * to_acc(features[cell * depth + k]));
      df[cell * depth + k] = from_acc<T>(along_cosine + pooled / of_class);
    }
  }
}

template <class T>
__device__ __forceinline__ void vectors_gradient(const T* features, const T* other_features, const Acc<T>* inverse,
                                                 const Acc<T>* g, Acc<T>* part, const CosineProblem& p) {
  using A = Acc<T>;
  using Product = TileProduct<A, false, false>;
  int depth = p.depth, classes = p.classes, domain = blockIdx.y;
  int tiles_k = (depth + Product::ROWS - 1) / Product::ROWS,
      tiles_c = (classes + Product::COLUMNS - 1) / Product::COLUMNS;
  int k0 = blockIdx.x % tiles_k * Product::ROWS, rest = blockIdx.x / tiles_k;
  int c0 = rest % tiles_c * Product::COLUMNS, which = rest / tiles_c % p.chunks, pair = rest / tiles_c / p.chunks;
  int first = which * p.chunk, count = min(p.chunk, p.cells - first), image = domain * p.pairs + pair;
  size_t of_image = static_cast<size_t>(p.cells) * depth;
  features = of_domain(features, other_features, domain, p.pairs * of_image) + pair * of_image +
             static_cast<size_t>(first) * depth;
  inverse += image * p.cells + first, g += static_cast<size_t>(image * p.cells + first) * classes;
  part += (static_cast<size_t>(image) * p.chunks + which) * classes * depth;
  A sum[4][4] = {};
  // u f is at most 1 in size, whatever f.
  auto f = [&](int i, int q) { return k0 + i < depth ? to_acc(features[q * depth + k0 + i]) * inverse[q] : A(0); };
  auto weight = [&](int q, int j) { return c0 + j < classes ? g[q * classes + c0 + j] : A(0); };
  Product::run(count, f, weight, sum);
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int k = k0 + Product::row() + i, c = c0 + Product::column() + j;
      if (k < depth && c < classes) part[c * depth + k] = sum[i][j];
    }
}

constexpr int FINISH_CHANNELS = 128, FINISH_ROWS = 8;

template <class A>
__device__ __forceinline__ void vectors_finish(const A* part, const A* vectors, const A* vector_inverse, const A* scale,
                                               const A* dloss, A* drho, const CosineProblem& p) {
  SHARED(A, sums, [FINISH_ROWS][FINISH_CHANNELS]);
  int depth = p.depth, row = blockIdx.x, from = row / p.classes, x = threadIdx.x, y = threadIdx.y;
  // Prototypes meet the pixels of the other domain.
  int image = (p.directions - 1 - from / p.pairs) * p.pairs + from % p.pairs;
  size_t block = static_cast<size_t>(p.classes) * depth;
  part += image * p.chunks * block + static_cast<size_t>(row % p.classes) * depth;
  vectors += static_cast<size_t>(row) * depth, drho += static_cast<size_t>(row) * depth;
  A v = vector_inverse[row], along = 0;
  for (int k0 = 0; k0 < depth; k0 += FINISH_CHANNELS) {
    int k = k0 + x;
    A sum = 0;
    if (k < depth) {
#pragma unroll 8
      for (int chunk = y; chunk < p.chunks; chunk += FINISH_ROWS) sum += part[chunk * block + k];
    }
    // The sums are written again.
    if (k0 > 0) __syncthreads();
    sums[y][x] = sum;
    __syncthreads();
    if (y > 0 || k >= depth) continue;
    for (int i = 1; i < FINISH_ROWS; i++) sum += sums[i][x];
    drho[k] = sum;
    along += sum * (v * vectors[k]);
  }
  along = block_sum(along);
  A outer = factor(scale, dloss, image) * through_norm(v);
  // Each thread's own sums.
  for (int k = x; y == 0 && k < depth; k += FINISH_CHANNELS) drho[k] = outer * (drho[k] - along * (v * vectors[k]));
}

#define COSINE(T, suffix)                                                                                            \
  extern "C" __global__ void inverse_norms_##suffix(const T* __restrict__ x, Acc<T>* __restrict__ inverse, int rows, \
                                                    int depth) {                                                     \
    norms(x, inverse, rows, depth);                                                                                  \
  }                                                                                                                  \
  KERNEL_EXPORT(inverse_norms_##suffix)                                                                              \
  extern "C" __global__ void __launch_bounds__(128, 6) cosine_features_##suffix(                                     \
      const T* __restrict__ features, const T* __restrict__ other_features, const Acc<T>* __restrict__ vectors,      \
      const Acc<T>* __restrict__ inverse, const Acc<T>* __restrict__ vector_inverse, const Acc<T>* __restrict__ g,   \
      const Acc<T>* __restrict__ along, const Acc<T>* __restrict__ scale, const Acc<T>* __restrict__ dloss,          \
      const Acc<T>* __restrict__ drho, const uint32_t* __restrict__ counts, const uint8_t* __restrict__ labels,      \
      const uint8_t* __restrict__ other_labels, const uint8_t* __restrict__ dynamic, T* __restrict__ df,             \
      T* __restrict__ other_df, CosineProblem problem) {                                                             \
    features_gradient(features, other_features, vectors, inverse, vector_inverse, g, along, scale, dloss, drho,      \
                      counts, labels, other_labels, dynamic, df, other_df, problem);                                 \
  }                                                                                                                  \
  KERNEL_EXPORT(cosine_features_##suffix)                                                                            \
  extern "C" __global__ void __launch_bounds__(128) cosine_vectors_##suffix(                                         \
      const T* __restrict__ features, const T* __restrict__ other_features, const Acc<T>* __restrict__ inverse,      \
      const Acc<T>* __restrict__ g, Acc<T>* __restrict__ part, CosineProblem problem) {                              \
    vectors_gradient(features, other_features, inverse, g, part, problem);                                           \
  }                                                                                                                  \
  KERNEL_EXPORT(cosine_vectors_##suffix)
FOR_FLOATS(COSINE)

#define FINISH(A, suffix)                                                                                      \
  extern "C" __global__ void __launch_bounds__(FINISH_CHANNELS * FINISH_ROWS) cosine_vectors_finish_##suffix(  \
      const A* __restrict__ part, const A* __restrict__ vectors, const A* __restrict__ vector_inverse,         \
      const A* __restrict__ scale, const A* __restrict__ dloss, A* __restrict__ drho, CosineProblem problem) { \
    vectors_finish(part, vectors, vector_inverse, scale, dloss, drho, problem);                                \
  }                                                                                                            \
  KERNEL_EXPORT(cosine_vectors_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)
