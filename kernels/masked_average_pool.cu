// Prototypes by masked average pooling (docs/method.md, "Prototypes"), their gradient, and the classes that
// two domains share.
//
//   pool_partial    part[chunk][c][k] = sum of f[p][k] over the chunk's pixels with y[p] = c,
//                   part_count[chunk][c] = their number                                              writes (=)
//   pool_finish     rho[c][k] = sum_chunk part / max(n[c], 1), n[c] = sum_chunk part_count           writes (=)
//                   to `copies` rows of equal content, and of these where the pointers are not null: v = 1 / max(|rho|,
//                   1e-12), the calibrated prototypes rho + xi and their v, and shared = n > 0 (and n > 0 in the
//                   source's, too, for the target's)
//   pool_backward   df[p][k] = sum_copies drho[copy][y[p]][k] / n[y[p]], 0 where y[p] >= C           writes (=)
//   class_overlap   both[i] = s[i] > 0 and t[i] > 0                                                  writes (=)
//
// Layout: f, df [pools, cells, d]; y u8: the label of each feature pixel, as kernels/include/label_sampling.cuh reads
// it; part [pools, chunks, C, d]; rho, drho [pools * copies, C, d]; n u32, v, shared u8 [pools * copies, C]; xi [C, d].
// Chunks have `chunk` pixels. Of the target, rho, n and v are the second half of tensors whose first half are the
// source's, and the images of f begin after `skip` others. A pool is one image, or all of them.
// Launch: blocks in x. pool_partial: `blockDim.x` channels a block, pools * chunks * ceil(d / blockDim.x) blocks, the
// last index fastest; dynamic shared memory C * blockDim.x accumulators. pool_finish: pools * C blocks of 128 x 8. The
// others: a thread an element, blocks of 256.
#include "cosine.cuh"
#include "label_sampling.cuh"

struct PoolProblem {
  int pools, cells, depth, classes, copies;
  int chunk, chunks;
  int domain, skip;
  LabelSampling sampling;
};
static_assert(sizeof(PoolProblem) == 56, "as in src/ops/masked_average_pool/cuda.rs");

constexpr int LONGEST_CHUNK = 512;
// Pixels that a thread reads before it adds them up: the reads wait for memory together.
constexpr int HELD_PIXELS = 16;

template <class T>
__device__ __forceinline__ void partial_sums(const T* x, const uint8_t* labels, const uint8_t* dynamic, Acc<T>* part,
                                             uint32_t* part_count, const PoolProblem& p) {
  DYN_SMEM(Acc<T>, column);
  SHARED(uint8_t, label_of, [LONGEST_CHUNK]);
  int threads = blockDim.x, t = threadIdx.x, tiles_k = (p.depth + threads - 1) / threads;
  int tile = blockIdx.x % tiles_k, which = blockIdx.x / tiles_k % p.chunks, pool = blockIdx.x / tiles_k / p.chunks;
  int k = tile * threads + t, first = pool * p.cells + which * p.chunk, count = min(p.chunk, p.cells - which * p.chunk);
  int of_image = p.sampling.height * p.sampling.width;
  size_t label_pixels = static_cast<size_t>(p.sampling.rows) * p.sampling.columns;
  for (int i = t; i < count; i += threads) {
    int image = (first + i) / of_image;
    const uint8_t* of_dynamic = dynamic ? dynamic + image * of_image : dynamic;
    label_of[i] = label_of_cell(labels + image * label_pixels, of_dynamic, p.sampling, (first + i) % of_image);
  }
  part_count += (pool * p.chunks + which) * p.classes;
  __syncthreads();
  // A thread reads and writes its own column of sums only, so that no further barrier is needed.
  if (k < p.depth) {
    x += (static_cast<size_t>(p.skip) * of_image + first) * p.depth + k;
    part += (static_cast<size_t>(pool) * p.chunks + which) * p.classes * p.depth + k;
    for (int c = 0; c < p.classes; c++) column[c * threads + t] = 0;
    for (int p0 = 0; p0 < count; p0 += HELD_PIXELS) {
      Acc<T> v[HELD_PIXELS];
#pragma unroll
      for (int i = 0; i < HELD_PIXELS; i++)
        v[i] = p0 + i < count ? to_acc(x[static_cast<size_t>(p0 + i) * p.depth]) : Acc<T>(0);
#pragma unroll
      for (int i = 0; i < HELD_PIXELS; i++) {
        int label = p0 + i < count ? label_of[p0 + i] : NO_LABEL;
        if (label < p.classes) column[label * threads + t] += v[i];
      }
    }
    for (int c = 0; c < p.classes; c++) part[static_cast<size_t>(c) * p.depth] = column[c * threads + t];
  }
  if (tile == 0)
    for (int c = t; c < p.classes; c += threads) {
      uint32_t n = 0;
      for (int i = 0; i < count; i++) n += label_of[i] == c;
      part_count[c] = n;
    }
}

constexpr int FINISH_CHANNELS = 128, FINISH_ROWS = 8;

template <class A>
__device__ __forceinline__ void finish(const A* part, const uint32_t* part_count, const A* xi, A* rho, uint32_t* counts,
                                       A* inverse, uint8_t* shared, A* calibrated, A* calibrated_inverse,
                                       const PoolProblem& p) {
  SHARED(A, sums, [FINISH_ROWS][FINISH_CHANNELS]);
  int pool = blockIdx.x / p.classes, c = blockIdx.x % p.classes, x = threadIdx.x, y = threadIdx.y,
      thread = block_thread();
  int rows = p.pools * p.copies * p.classes, domain = p.domain * rows;
  // The first copy's row among all prototypes; those of the other copies follow `classes` rows apart.
  int row = pool * p.copies * p.classes + c;
  part += (static_cast<size_t>(pool) * p.chunks * p.classes + c) * p.depth,
      part_count += pool * p.chunks * p.classes + c;
  rho += static_cast<size_t>(domain) * p.depth;
  uint32_t n = 0;
  for (int chunk = thread; chunk < p.chunks; chunk += FINISH_CHANNELS * FINISH_ROWS) n += part_count[chunk * p.classes];
  n = block_sum(n);
  for (int k0 = 0; k0 < p.depth; k0 += FINISH_CHANNELS) {
    int k = k0 + x;
    A sum = 0;
    if (k < p.depth) {
#pragma unroll 8
      for (int chunk = y; chunk < p.chunks; chunk += FINISH_ROWS)
        sum += part[static_cast<size_t>(chunk) * p.classes * p.depth + k];
    }
    sums[y][x] = sum;
    __syncthreads();
    if (y == 0 && k < p.depth) {
      for (int i = 1; i < FINISH_ROWS; i++) sum += sums[i][x];
      A mean = sum / A(max(n, 1u));
      for (int copy = 0; copy < p.copies; copy++) {
        size_t at = static_cast<size_t>(row + copy * p.classes) * p.depth + k;
        rho[at] = mean;
        if (calibrated) calibrated[at] = mean + xi[c * p.depth + k];
      }
    }
    // The sums are written again, and the rows are read by other threads.
    __syncthreads();
  }
  // A warp for each norm.
  int warp = thread / 32;
  const A* vector = warp == 0 ? rho : warp == 1 ? calibrated : nullptr;
  A* norm = warp == 0 ? inverse ? inverse + domain : inverse : warp == 1 ? calibrated_inverse : nullptr;
  if (vector && norm) {
    A v = inverse_norm_of_row<32>(vector + static_cast<size_t>(row) * p.depth, p.depth);
    for (int copy = thread % 32; copy < p.copies; copy += 32) norm[row + copy * p.classes] = v;
  }
  for (int copy = thread; copy < p.copies; copy += FINISH_CHANNELS * FINISH_ROWS) {
    int at = row + copy * p.classes;
    counts[domain + at] = n;
    if (shared) shared[at] = n > 0 && (p.domain == 0 || counts[at] > 0);
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

#define POOL(T, suffix)                                                                                            \
  extern "C" __global__ void pool_partial_##suffix(const T* __restrict__ x, const uint8_t* __restrict__ labels,    \
                                                   const uint8_t* __restrict__ dynamic, Acc<T>* __restrict__ part, \
                                                   uint32_t* __restrict__ part_count, PoolProblem problem) {       \
    partial_sums(x, labels, dynamic, part, part_count, problem);                                                   \
  }                                                                                                                \
  KERNEL_EXPORT(pool_partial_##suffix)                                                                             \
  extern "C" __global__ void pool_backward_##suffix(                                                               \
      const Acc<T>* __restrict__ drho, const uint8_t* __restrict__ labels, const uint32_t* __restrict__ counts,    \
      T* __restrict__ df, int cells, int depth, int classes, int copies, int count) {                              \
    backward(drho, labels, counts, df, cells, depth, classes, copies, count);                                      \
  }                                                                                                                \
  KERNEL_EXPORT(pool_backward_##suffix)
FOR_FLOATS(POOL)

#define POOL_FINISH(A, suffix)                                                                                 \
  extern "C" __global__ void __launch_bounds__(FINISH_CHANNELS * FINISH_ROWS) pool_finish_##suffix(            \
      const A* __restrict__ part, const uint32_t* __restrict__ part_count, const A* __restrict__ xi, A* rho,   \
      uint32_t* counts, A* __restrict__ inverse, uint8_t* __restrict__ shared, A* calibrated,                  \
      A* __restrict__ calibrated_inverse, PoolProblem problem) {                                               \
    finish(part, part_count, xi, rho, counts, inverse, shared, calibrated, calibrated_inverse, problem);       \
  }                                                                                                            \
  KERNEL_EXPORT(pool_finish_##suffix)
POOL_FINISH(float, f32)
POOL_FINISH(double, f64)

extern "C" __global__ void class_overlap(const uint32_t* __restrict__ s, const uint32_t* __restrict__ t,
                                         uint8_t* __restrict__ both, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) both[i] = s[i] > 0 && t[i] > 0;
}
KERNEL_EXPORT(class_overlap)
