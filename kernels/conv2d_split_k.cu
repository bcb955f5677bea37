// Split-K: forward pass and data gradient of conv2d_mma.cu where the tiles would not fill a card. `splits` blocks share
// the K tiles of a tile and write partial sums in f32; a second kernel reduces these in order. Split i of n has the K
// tiles floor(all i / n) to floor(all (i + 1) / n); one without K tiles, as of a phase that few taps hit, is zeros.
//
// Tiles, channels, threads and shared memory as in conv2d_mma.cu. Launch:
//   forward:       grid.x = ceil(n p q / BM) ceil(k / BN); grid.y splits, each to partial[y][n p q][k]
//   data gradient: grid.x = ceil(largest phase's pixels / BM) ceil(c / BN); grid.y splits, each to partial[y][n h
//                  w][c]; grid.z = stride[0] stride[1] phases
//   sum:           one thread for each 16 bytes of out: out[i] = sum over y of partial[y][i] in order, plus bias[i %
//                  channels] where that is not null; rounded, and then plus accumulate[i] where that is not null, to
//                  the bit as if that were added afterwards
#include "conv_mma_loaders.cuh"

// The K tiles of one split of a sum.
template <class T>
struct SplitWalk : TapWalk<T> {
  int count;

  __device__ SplitWalk(const Gather& g, int split, int splits) : TapWalk<T>(g) {
    int each = (this->channels + MMA_K_TILE<T> - 1) / MMA_K_TILE<T>, all = TapWalk<T>::k_tiles();
    // Quotient and remainder apart: no product exceeds 32 bits.
    int size = all / splits, more = all % splits, from = size * split + more * split / splits;
    count = size + more * (split + 1) / splits - more * split / splits;
    int tap = from / each;
    this->channel = (from - tap * each) * MMA_K_TILE<T>;
    this->row = this->columns ? tap / this->columns : 0;
    this->column = tap - this->row * this->columns;
  }
  __device__ int k_tiles() const { return count; }
};

template <class T, class Tile>
__device__ __forceinline__ void forward_part(const T* x, const T* w, float* partial, const ConvProblem& p) {
  DYN_SMEM(char, shared);
  int tiles = (p.k + Tile::BN - 1) / Tile::BN;
  int start_m = blockIdx.x / tiles * Tile::BM, start_n = blockIdx.x % tiles * Tile::BN;
  Gather g = gather_output(p);
  GatheredPixels<T, Tile::BM> a(x, g, start_m);
  FilterRows<T, Tile::BN> b(w, p, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, SplitWalk<T>(g, blockIdx.y, gridDim.y), sums);
  partial += static_cast<size_t>(blockIdx.y) * g.pixels() * p.k;
  finish<float, Tile>(shared, sums, [&](int row, int column, const char* chunk) {
    int pixel = start_m + row;
    if (pixel < g.pixels()) store_chunk<float>(partial + pixel * p.k, start_n + column, p.k, p.k % 4 == 0, chunk);
  });
}

template <class T, class Tile>
__device__ __forceinline__ void data_gradient_part(const T* dy, const T* w, float* partial, const ConvProblem& p) {
  DYN_SMEM(char, shared);
  int tiles = (p.c + Tile::BN - 1) / Tile::BN;
  int start_m = blockIdx.x / tiles * Tile::BM, start_n = blockIdx.x % tiles * Tile::BN;
  Phase phase = phase_of(p, blockIdx.z);
  const Gather& g = phase.gather;
  if (g.rows <= 0 || g.columns <= 0 || start_m >= g.pixels()) return;
  GatheredPixels<T, Tile::BM> a(dy, g, start_m);
  FilterLines<T, Tile::BN> b(w, p, phase, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, SplitWalk<T>(g, blockIdx.y, gridDim.y), sums);
  partial += static_cast<size_t>(blockIdx.y) * p.n * p.h * p.w * p.c;
  finish<float, Tile>(shared, sums, [&](int row, int column, const char* chunk) {
    int index = start_m + row;
    if (index < g.pixels()) store_chunk<float>(partial + phase.offset(p, index), start_n + column, p.c, true, chunk);
  });
}

// WIDTH elements of out from `first` on.
template <class T, int WIDTH>
__device__ __forceinline__ void reduce_splits(const float* partial, const T* bias, const T* accumulate, T* out,
                                              int first, int count, int channels, int splits) {
  // 16 bytes of the partial sums at once.
  constexpr int QUAD = WIDTH < 4 ? WIDTH : 4;
  float sums[WIDTH] = {};
  for (int split = 0; split < splits; split++) {
    const float* from = partial + static_cast<size_t>(split) * count + first;
#pragma unroll
    for (int e = 0; e < WIDTH; e += QUAD) {
      auto quad = load_pack<QUAD>(from + e);
#pragma unroll
      for (int i = 0; i < QUAD; i++) sums[e + i] = split == 0 ? quad.at[i] : sums[e + i] + quad.at[i];
    }
  }
  Pack<T, WIDTH> result, other = {};
  if (accumulate) other = load_pack<WIDTH>(accumulate + first);
  int channel = first % channels;
#pragma unroll
  for (int e = 0; e < WIDTH; e++) {
    if (bias) {
      sums[e] += to_acc(bias[channel]);
      if (++channel == channels) channel = 0;
    }
    result.at[e] = from_acc<T>(sums[e]);
    if (accumulate) result.at[e] = from_acc<T>(to_acc(other.at[e]) + to_acc(result.at[e]));
  }
  store_pack(out + first, result);
}

// clang-format off
#define SPLIT(T, suffix, name, ...)                                                                            \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_split_k_forward_##name##_##suffix(          \
      const T* __restrict__ x, const T* __restrict__ w, float* __restrict__ partial, ConvProblem p) {          \
    forward_part<T, MmaTile<__VA_ARGS__>>(x, w, partial, p);                                                   \
  }                                                                                                            \
  KERNEL_EXPORT(conv2d_split_k_forward_##name##_##suffix)                                                      \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) conv2d_split_k_data_gradient_##name##_##suffix(    \
      const T* __restrict__ dy, const T* __restrict__ w, float* __restrict__ partial, ConvProblem p) {         \
    data_gradient_part<T, MmaTile<__VA_ARGS__>>(dy, w, partial, p);                                            \
  }                                                                                                            \
  KERNEL_EXPORT(conv2d_split_k_data_gradient_##name##_##suffix)
#define ALL(T, suffix)                                                                                         \
  SPLIT(T, suffix, large, 128, 128, 2)                                                                         \
  SPLIT(T, suffix, medium, 128, 64, 2)                                                                         \
  SPLIT(T, suffix, small, 64, 64, 2)                                                                           \
  SPLIT(T, suffix, slim, 128, 32, 4)                                                                           \
  extern "C" __global__ void conv2d_split_k_reduce_##suffix(                                                   \
      const float* __restrict__ partial, const T* __restrict__ bias, const T* __restrict__ accumulate,         \
      T* __restrict__ out, int count, int channels, int splits) {                                              \
    int first = (blockIdx.x * blockDim.x + threadIdx.x) * CHUNK<T>;                                            \
    if (first >= count) return;                                                                                \
    if (count % CHUNK<T> == 0)                                                                                 \
      reduce_splits<T, CHUNK<T>>(partial, bias, accumulate, out, first, count, channels, splits);              \
    else                                                                                                       \
      for (int i = first; i < min(first + CHUNK<T>, count); i++)                                               \
        reduce_splits<T, 1>(partial, bias, accumulate, out, i, count, channels, splits);                       \
  }                                                                                                            \
  KERNEL_EXPORT(conv2d_split_k_reduce_##suffix)
ALL(bf16, bf16)
ALL(float, f32)
// clang-format on
