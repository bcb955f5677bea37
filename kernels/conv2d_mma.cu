// The convolutions of conv2d.cu on tensor cores: the same equations and layouts, all outputs written (=). The data
// gradient is written plus `so_far`, where that is not null, to the bit as if both were added afterwards. bf16 sums in f32;
// the f32 instances round both factors to tf32 (10 bits of mantissa) and sum in f32.
//
// Channels along which 16 bytes are copied must come in whole chunks of 8 (bf16) or 4 (f32): c in the forward pass, c and k
// in both gradients. For all other shapes there is conv2d.cu.
//
// The tile is `large` 128 x 128, `medium` 128 x 64, `small` 64 x 64 or `slim` 128 x 32.
// Launch, 128 threads a block and 4 (BM + BN) 64 bytes of dynamic shared memory; tiles are numbered with the columns fastest:
//   forward:         grid.x = ceil(group / BM) ceil(k / BN); grid.z groups of `group` pixels each, n p q in all; bias may be
//                    null, and so may `moments` [grid.z][ceil(group / WM)][2][k] (conv_moments.cuh), which want an even k and
//                    are not taken by `slim`
//   data gradient:   grid.x = ceil(largest phase's pixels / BM) ceil(c / BN); grid.z = stride[0] stride[1] phases
//   weight gradient: grid.x = ceil(k / BM) ceil(r s c / BN); grid.z splits the pixels into ranges of `range`: each writes
//                    its sums to partial[z][k, r s c], which conv2d_reduce adds up in order
#include "conv_mma_loaders.cuh"
#include "conv_moments.cuh"

template <class T, class Tile>
__device__ __forceinline__ void forward(const T* x, const T* w, const T* bias, T* y, float* moments,
                                        const ConvParams& p, int group) {
  DYN_SMEM(char, shared);
  int tiles = (p.k + Tile::BN - 1) / Tile::BN, start_n = blockIdx.x % tiles * Tile::BN;
  TileRows<Tile> rows(blockIdx.x / tiles, group);
  Gather g = gather_output(p);
  GatheredPixels<T, Tile::BM> a(x, g, rows.start);
  FilterRows<T, Tile::BN> b(w, p, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, TapWalk<T>(g), sums);
  if (bias) add_bias<T, Tile>(sums, bias, start_n, p.k);
  rows.template store<T>(sums, moments, start_n, p.k);
  finish<T, Tile>(shared, sums, [&](int row, int column, const char* chunk) {
    int pixel = rows.start + row;
    if (pixel < rows.end) store_chunk<T>(y + pixel * p.k, start_n + column, p.k, p.k % CHUNK<T> == 0, chunk);
  });
}

template <class T, class Tile>
__device__ __forceinline__ void data_gradient(const T* dy, const T* w, const T* so_far, T* dx,
                                              const ConvParams& p) {
  DYN_SMEM(char, shared);
  int tiles = (p.c + Tile::BN - 1) / Tile::BN, start_m = blockIdx.x / tiles * Tile::BM;
  int start_n = blockIdx.x % tiles * Tile::BN;
  Phase phase = phase_of(p, blockIdx.z);
  const Gather& g = phase.gather;
  if (g.rows <= 0 || g.columns <= 0 || start_m >= g.pixels()) return;
  GatheredPixels<T, Tile::BM> a(dy, g, start_m);
  FilterLines<T, Tile::BN> b(w, p, phase, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, TapWalk<T>(g), sums);
  finish<T, Tile>(shared, sums, [&](int row, int column, const char* chunk) {
    int index = start_m + row;
    if (index >= g.pixels()) return;
    int offset = phase.offset(p, index);
    if (so_far)
      store_sum<T>(dx + offset, so_far + offset, start_n + column, p.c, chunk);
    else
      store_chunk<T>(dx + offset, start_n + column, p.c, true, chunk);
  });
}

template <class T, class Tile>
__device__ __forceinline__ void weight_gradient(const T* dy, const T* x, float* partial, const ConvParams& p, int range) {
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
#define CONV(T, suffix, name, ...)                                                                                 \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_mma_forward_##name##_##suffix(                  \
      const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, T* __restrict__ y,             \
      float* __restrict__ moments, ConvParams p, int group) {                                                      \
    forward<T, MmaTile<__VA_ARGS__>>(x, w, bias, y, moments, p, group);                                            \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_mma_forward_##name##_##suffix)                                                              \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_mma_data_gradient_##name##_##suffix(            \
      const T* __restrict__ dy, const T* __restrict__ w, const T* __restrict__ so_far, T* __restrict__ dx,         \
      ConvParams p) {                                                                                              \
    data_gradient<T, MmaTile<__VA_ARGS__>>(dy, w, so_far, dx, p);                                                  \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_mma_data_gradient_##name##_##suffix)                                                        \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_mma_weight_gradient_##name##_##suffix(          \
      const T* __restrict__ dy, const T* __restrict__ x, float* __restrict__ partial, ConvParams p, int range) {   \
    weight_gradient<T, MmaTile<__VA_ARGS__>>(dy, x, partial, p, range);                                            \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_mma_weight_gradient_##name##_##suffix)
#define TILES(T, suffix)             \
  CONV(T, suffix, large, 128, 128, 2) \
  CONV(T, suffix, medium, 128, 64, 2) \
  CONV(T, suffix, small, 64, 64, 2)   \
  CONV(T, suffix, slim, 128, 32, 4)
TILES(bf16, bf16)
TILES(float, f32)
// clang-format on
