// The convolutions of conv2d.cu on tensor cores: the same equations and layouts, all outputs written (=). The data
// gradient is written plus `accumulate`, where that is not null, to the bit as if both were added afterwards. bf16 sums
// in f32; the f32 instances round both factors to tf32 (10 bits of mantissa) and sum in f32.
//
// Channels along which 16 bytes are copied must come in whole chunks of 8 (bf16) or 4 (f32): c in the forward pass, c
// and k in both gradients. For all other shapes there is conv2d.cu.
//
// The tile is `large` 128 x 128, `medium` 128 x 64, `small` 64 x 64 or `slim` 128 x 32.
// Launch, 128 threads a block and 4 (BM + BN) 64 bytes of dynamic shared memory; tiles are numbered with the columns
// fastest:
//   forward:         grid.x = ceil(group / BM) ceil(k / BN); grid.z groups of `group` pixels each, n p q in all; bias
//                    may be null, and so may `moments` [grid.z][ceil(group / WM)][2][k] (conv_moments.cuh), which want
//                    an even k and are not taken by `slim`; the batch norm after may be null (conv_normalize.cuh), else
//                    k fills chunks
//   data gradient:   grid.x = ceil(pixels of a group's largest phase / BM) ceil(c / BN); grid.z = groups of images,
//                    each of stride[0] stride[1] phases; `sums` [grid.z][ceil(pixels / BM)][2][c] (conv_norm_sums.cuh)
//                    may be null, and then all of the batch norm is
//   weight gradient: grid.x = ceil(k / BM) ceil(r s c / BN); grid.z is split-K over the pixels, `range` each: one block
//                    writes its sums to partial[z][k, r s c], which conv2d_reduce adds up in order
#include "conv_mma_loaders.cuh"
#include "conv_moments.cuh"
#include "conv_normalize.cuh"
#include "conv_norm_sums.cuh"

template <class T, class Tile>
__device__ __forceinline__ void forward(const T* x, const T* w, T* y, const ForwardEpilogue<T>& epilogue,
                                        const ConvProblem& p, int group) {
  DYN_SMEM(char, shared);
  int tiles = (p.k + Tile::BN - 1) / Tile::BN, start_n = blockIdx.x % tiles * Tile::BN;
  TileRows<Tile> rows(blockIdx.x / tiles, group);
  Gather g = gather_output(p);
  GatheredPixels<T, Tile::BM> a(x, g, rows.start);
  FilterRows<T, Tile::BN> b(w, p, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, TapWalk<T>(g), sums);
  if (epilogue.bias) add_bias<T, Tile>(sums, epilogue.bias, start_n, p.k);
  rows.template store<T>(sums, epilogue.moments, start_n, p.k);
  store_output<T, Tile>(shared, sums, y, epilogue, start_n, p.k, [&](int row) {
    int pixel = rows.start + row;
    return pixel < rows.end ? pixel * p.k : -1;
  });
}

template <class T, class Tile>
__device__ __forceinline__ void data_gradient(const T* dy, const T* w, T* dx, const DataGradientEpilogue<T>& epilogue,
                                              const ConvProblem& p) {
  DYN_SMEM(char, shared);
  int tiles = (p.c + Tile::BN - 1) / Tile::BN, tile = blockIdx.x / tiles, start_n = blockIdx.x % tiles * Tile::BN;
  int phases = p.stride[0] * p.stride[1], group = blockIdx.z / phases;
  size_t piece = size_t(blockIdx.z) * (gridDim.x / tiles) + tile;
  Phase phase = phase_of(p, blockIdx.z % phases);
  const Gather& g = phase.gather;
  int pixels = max(g.rows, 0) * max(g.columns, 0) * (g.images / epilogue.norm.groups);
  int start = group * pixels + tile * Tile::BM, end = (group + 1) * pixels;
  if (start >= end) {
    if (epilogue.sums) NormSums<T, Tile>::finish_empty(epilogue.sums, piece, start_n, p.c);
    return;
  }
  GatheredPixels<T, Tile::BM> a(dy, g, start);
  FilterLines<T, Tile::BN> b(w, p, phase, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, TapWalk<T>(g), sums);
  store_gradient<T, Tile>(shared, sums, dx, epilogue, group, piece, start_n, p.c,
                          [&](int row) { return start + row < end ? phase.offset(p, start + row) : -1; });
}

template <class T, class Tile>
__device__ __forceinline__ void weight_gradient(const T* dy, const T* x, float* partial, const ConvProblem& p,
                                                int range) {
  DYN_SMEM(char, shared);
  Gather g = gather_output(p);
  int depth = g.depth(), tiles = (depth + Tile::BN - 1) / Tile::BN;
  int start_m = blockIdx.x / tiles * Tile::BM, start_n = blockIdx.x % tiles * Tile::BN;
  PixelWalk<T> walk = {static_cast<int>(blockIdx.z) * range, min(static_cast<int>(blockIdx.z + 1) * range, g.pixels())};
  GradientLines<T, Tile::BM> a(dy, p.k, p.k, start_m);
  GatheredLines<T, Tile::BN> b(x, g, start_n, walk.from);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, walk, sums);
  partial += static_cast<size_t>(blockIdx.z) * p.k * depth;
  finish<float, Tile>(shared, sums, [&](int row, int column, const char* chunk) {
    int k = start_m + row;
    if (k < p.k) store_chunk<float>(partial + k * depth, start_n + column, depth, true, chunk);
  });
}

// clang-format off
#define CONV(T, suffix, name, ...)                                                                                \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS, MmaTile<__VA_ARGS__>::TOGETHER)                       \
      conv2d_mma_forward_##name##_##suffix(                                                                       \
      const T* __restrict__ x, const T* __restrict__ w, T* __restrict__ y, ForwardEpilogue<T> epilogue,           \
      ConvProblem p, int group) {                                                                                 \
    forward<T, MmaTile<__VA_ARGS__>>(x, w, y, epilogue, p, group);                                                \
  }                                                                                                               \
  KERNEL_EXPORT(conv2d_mma_forward_##name##_##suffix)                                                             \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_mma_data_gradient_##name##_##suffix(           \
      const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx, DataGradientEpilogue<T> epilogue,    \
      ConvProblem p) {                                                                                            \
    data_gradient<T, MmaTile<__VA_ARGS__>>(dy, w, dx, epilogue, p);                                               \
  }                                                                                                               \
  KERNEL_EXPORT(conv2d_mma_data_gradient_##name##_##suffix)                                                       \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_mma_weight_gradient_##name##_##suffix(         \
      const T* __restrict__ dy, const T* __restrict__ x, float* __restrict__ partial, ConvProblem p, int range) { \
    weight_gradient<T, MmaTile<__VA_ARGS__>>(dy, x, partial, p, range);                                           \
  }                                                                                                               \
  KERNEL_EXPORT(conv2d_mma_weight_gradient_##name##_##suffix)
#define TILES(T, suffix)                                                                                       \
  CONV(T, suffix, large, 128, 128, 2)                                                                          \
  CONV(T, suffix, medium, 128, 64, 2)                                                                          \
  CONV(T, suffix, small, 64, 64, 2)                                                                            \
  CONV(T, suffix, slim, 128, 32, 4)
TILES(bf16, bf16)
TILES(float, f32)
// clang-format on
