// Atrous spatial pyramid pooling (DeepLab-V2's head) on tensor cores: four convolutions of one input, which differ in
// their dilation, side by side. With b = 0..3, R x S taps, stride 1 and a padding that keeps the extent:
//   y[n,p,q,b K + k] = bias_b[k]
//                      + sum_{r,s,c} x[n, p + (r - R/2) dilation_b, q + (s - S/2) dilation_b, c] w_b[k,r,s,c]
//   dx[n,p,q,c]      = sum_{b,r,s,k} dy[n, p - (r - R/2) dilation_b, q - (s - S/2) dilation_b, b K + k] w_b[k,r,s,c]
//   dw_b[k,r,s,c]    = sum_{n,p,q} dy[n,p,q,b K + k] x[n, p + (r - R/2) dilation_b, q + (s - S/2) dilation_b, c]
// As one problem: the input's gradient is summed over the branches where it is made, instead of in three more passes
// over its 2048 channels. (aspp_taps.cu has another way, for bf16 on Hopper.)
//
// Layouts: x [n,h,w,c], w_b [k,r,s,c], y and dy [n,h,w,4 k], all outputs written (=). K is at most 32 and need not fill
// chunks of 16 bytes: the gradients read `packed`, [n,h,w,4,KP] with KP the whole chunks that hold K, zeros beyond K. C
// comes in whole chunks. Factors bf16, or f32 rounded to tf32; sums in f32. The tile is that of conv2d_mma.cu.
// Launch, 128 threads a block and 4 (BM + BN) 64 bytes of dynamic shared memory:
//   forward:         `slim`; grid.x = ceil(n h w / 128), grid.z = 4 branches
//   pack:            one thread an element of `packed`
//   data gradient:   `large` or `small`; grid.x = ceil(pixels of a group / BM) ceil(c / BN), columns fastest; grid.z =
//                    groups; `sums` and the batch norm as in conv2d_mma.cu
//   weight gradient: `slim`, transposed: rows are taps and channels; grid.x = ceil(r s c / 128), grid.y = 4 branches,
//                    grid.z is split-K over the pixels, `range` each: one block writes its sums to partial_b[z][k, r s
//                    c]
#include "aspp_params.cuh"
#include "conv_mma_loaders.cuh"
#include "conv_norm_sums.cuh"

template <class T>
__device__ __forceinline__ int packed_channels(int k) {
  return (k + CHUNK<T> - 1) / CHUNK<T> * CHUNK<T>;
}

template <class T, class Tile>
__device__ __forceinline__ void forward(const T* x, const T* w, const T* bias, T* y, const ConvProblem& p, int branch) {
  DYN_SMEM(char, shared);
  int start = blockIdx.x * Tile::BM;
  Gather g = gather_output(p);
  GatheredPixels<T, Tile::BM> a(x, g, start);
  FilterRows<T, Tile::BN> b(w, p, 0);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, TapWalk<T>(g), sums);
  add_bias<T, Tile>(sums, bias, 0, p.k);
  finish<T, Tile>(shared, sums, [&](int row, int column, const char* chunk) {
    int pixel = start + row;
    if (pixel < g.pixels()) store_chunk<T>(y + (pixel * BRANCHES + branch) * p.k, column, p.k, false, chunk);
  });
}

// A branch and a tap; all of a branch's output channels are one K tile (K <= 32; tf32: two).
template <class T>
struct BranchWalk {
  const AsppParams& p;
  int branch = 0, row = 0, column = 0, channel = 0;

  __device__ int k_tiles() const { return BRANCHES * p.taps() * ((p.k + MMA_K_TILE<T> - 1) / MMA_K_TILE<T>); }
  __device__ __forceinline__ void next() {
    channel += MMA_K_TILE<T>;
    if (channel < p.k) return;
    channel = 0;
    if (++column < p.s) return;
    column = 0;
    if (++row < p.r) return;
    row = 0, branch++;
  }
};

// The packed gradient at the pixels whose taps hit an input pixel, by branch, tap and output channel.
template <class T, int EXTENT>
struct PackedPixels : DeepLoader<T, EXTENT> {
  using Base = DeepLoader<T, EXTENT>;
  const T* packed;
  const AsppParams& p;
  int y[Base::PASSES], x[Base::PASSES], offset[Base::PASSES];

  __device__ PackedPixels(const T* packed, const AsppParams& p, int start) : packed(packed), p(p) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int index = start + this->line + pass * Base::LINES, row = index / p.w;
      bool some = index < p.pixels();
      offset[pass] = some ? index : 0, y[pass] = some ? row % p.h : OUTSIDE, x[pass] = index - row * p.w;
    }
  }

  __device__ __forceinline__ void fetch(char* tile, const BranchWalk<T>& walk) {
    int d = p.dilation_of(walk.branch), down = (p.r / 2 - walk.row) * d, across = (p.s / 2 - walk.column) * d;
    int channels = packed_channels<T>(p.k), channel = walk.channel + this->chunk * CHUNK<T>;
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      bool rows = static_cast<unsigned>(y[pass] + down) < static_cast<unsigned>(p.h);
      bool columns = static_cast<unsigned>(x[pass] + across) < static_cast<unsigned>(p.w);
      bool inside = rows && columns && channel < channels;
      int pixel = offset[pass] + down * p.w + across;
      this->copy(tile, pass, packed + (inside ? (pixel * BRANCHES + walk.branch) * channels + channel : 0), inside);
    }
  }
};

// The filters by branch, tap and output channel, a line for each of those.
template <class T, int EXTENT>
struct BranchLines : FlatLoader<T, EXTENT> {
  using Base = FlatLoader<T, EXTENT>;
  const T *w0, *w1, *w2, *w3;
  const AsppParams& p;
  int column;

  __device__ BranchLines(const T* w0, const T* w1, const T* w2, const T* w3, const AsppParams& p, int start)
      : w0(w0), w1(w1), w2(w2), w3(w3), p(p), column(start + this->chunk * CHUNK<T>) {}

  __device__ __forceinline__ void fetch(char* tile, const BranchWalk<T>& walk) {
    const T* w = choose(walk.branch, w0, w1, w2, w3);
    int tap = walk.row * p.s + walk.column;
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int k = walk.channel + this->line + pass * Base::LINES;
      bool inside = k < p.k && column < p.c;
      this->copy(tile, pass, w + (inside ? (k * p.taps() + tap) * p.c + column : 0), inside);
    }
  }
};

template <class T, class Tile>
__device__ __forceinline__ void data_gradient(const T* packed, const T* w0, const T* w1, const T* w2, const T* w3,
                                              T* dx, const DataGradientEpilogue<T>& epilogue, const AsppParams& p) {
  DYN_SMEM(char, shared);
  int tiles = (p.c + Tile::BN - 1) / Tile::BN, tile = blockIdx.x / tiles, start_n = blockIdx.x % tiles * Tile::BN;
  int group = blockIdx.z, pixels = p.pixels() / epilogue.norm.groups;
  int start = group * pixels + tile * Tile::BM, end = (group + 1) * pixels;
  PackedPixels<T, Tile::BM> a(packed, p, start);
  BranchLines<T, Tile::BN> b(w0, w1, w2, w3, p, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, BranchWalk<T>{p}, sums);
  // Nothing is accumulated, and takes no instruction.
  DataGradientEpilogue<T> rest = epilogue;
  rest.accumulate = nullptr;
  size_t piece = size_t(group) * (gridDim.x / tiles) + tile;
  store_gradient<T, Tile>(shared, sums, dx, rest, group, piece, start_n, p.c,
                          [&](int row) { return start + row < end ? (start + row) * p.c : -1; });
}

// Calls store(column, row, chunk) for each 16 bytes along the rows: where the product's rows are contiguous in memory.
template <class Tile, class Store>
__device__ __forceinline__ void finish_transposed(char* shared, const typename Tile::Sums& sums, Store store) {
  constexpr int LINE = Tile::BM * sizeof(float), CHUNKS = LINE / 16;
  static_assert(Tile::BN * LINE <= STAGES * Tile::STAGE_BYTES, "the results take the place of the k_tiles");
  // Every second column is written at once: neighbours share a turn.
  auto at = [](int column, int chunk) { return column * LINE + ((chunk ^ (column >> 1 & 3) << 1) << 4); };
  int lane = threadIdx.x & 31;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Tile::DOWN_16; i++)
#pragma unroll
    for (int j = 0; j < Tile::ACROSS_8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = Tile::row() + i * 16 + (lane >> 2) + e / 2 * 8;
        int column = Tile::column() + j * 8 + (lane & 3) * 2 + e % 2;
        store_shared(reinterpret_cast<float*>(shared + at(column, row >> 2)) + (row & 3), sums[i][j][e]);
      }
  __syncthreads();
  for (int i = threadIdx.x; i < Tile::BN * CHUNKS; i += MMA_THREADS) {
    int column = i / CHUNKS, chunk = i % CHUNKS;
    store(column, chunk * 4, shared + at(column, chunk));
  }
}

template <class T, class Tile>
__device__ __forceinline__ void weight_gradient(const T* packed, const T* x, float* partial, const ConvProblem& p,
                                                int branch, int range) {
  DYN_SMEM(char, shared);
  Gather g = gather_output(p);
  int depth = g.depth(), start = blockIdx.x * Tile::BM, channels = packed_channels<T>(p.k);
  PixelWalk<T> walk = {static_cast<int>(blockIdx.z) * range, min(static_cast<int>(blockIdx.z + 1) * range, g.pixels())};
  GatheredLines<T, Tile::BM> a(x, g, start, walk.from);
  GradientLines<T, Tile::BN> b(packed + branch * channels, BRANCHES * channels, channels, 0);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, walk, sums);
  partial += static_cast<size_t>(blockIdx.z) * p.k * depth;
  finish_transposed<Tile>(shared, sums, [&](int k, int row, const char* chunk) {
    if (k < p.k) store_chunk<float>(partial + k * depth, start + row, depth, true, chunk);
  });
}

// clang-format off
#define DATA(T, suffix, name, ...)                                                                                 \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS, MmaTile<__VA_ARGS__>::TOGETHER)                        \
      aspp_data_gradient_##name##_##suffix(                                                                        \
      const T* __restrict__ packed, const T* __restrict__ w0, const T* __restrict__ w1, const T* __restrict__ w2,  \
      const T* __restrict__ w3, T* __restrict__ dx, DataGradientEpilogue<T> epilogue, AsppParams p) {              \
    data_gradient<T, MmaTile<__VA_ARGS__>>(packed, w0, w1, w2, w3, dx, epilogue, p);                               \
  }                                                                                                                \
  KERNEL_EXPORT(aspp_data_gradient_##name##_##suffix)
#define ASPP(T, suffix)                                                                                               \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) aspp_forward_##suffix(                                    \
      const T* __restrict__ x, const T* __restrict__ w0, const T* __restrict__ w1, const T* __restrict__ w2,          \
      const T* __restrict__ w3, const T* __restrict__ b0, const T* __restrict__ b1, const T* __restrict__ b2,         \
      const T* __restrict__ b3, T* __restrict__ y, AsppParams p) {                                                    \
    int b = blockIdx.z;                                                                                               \
    forward<T, MmaTile<128, 32, 4>>(x, choose(b, w0, w1, w2, w3), choose(b, b0, b1, b2, b3), y, p.branch(b), b);      \
  }                                                                                                                   \
  KERNEL_EXPORT(aspp_forward_##suffix)                                                                                \
  extern "C" __global__ void aspp_pack_##suffix(const T* __restrict__ dy, T* __restrict__ packed, int k, int count) { \
    int i = blockIdx.x * blockDim.x + threadIdx.x, channels = packed_channels<T>(k);                                  \
    int channel = i % channels;                                                                                       \
    if (i < count) packed[i] = channel < k ? dy[i / channels * k + channel] : from_acc<T>(0);                         \
  }                                                                                                                   \
  KERNEL_EXPORT(aspp_pack_##suffix)                                                                                   \
  DATA(T, suffix, large, 128, 128, 2)                                                                                 \
  DATA(T, suffix, small, 64, 64, 2)                                                                                   \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS) aspp_weight_gradient_##suffix(                            \
      const T* __restrict__ packed, const T* __restrict__ x, float* __restrict__ p0, float* __restrict__ p1,          \
      float* __restrict__ p2, float* __restrict__ p3, AsppParams p, int range) {                                      \
    int b = blockIdx.y;                                                                                               \
    weight_gradient<T, MmaTile<128, 32, 4>>(packed, x, choose(b, p0, p1, p2, p3), p.branch(b), b, range);             \
  }                                                                                                                   \
  KERNEL_EXPORT(aspp_weight_gradient_##suffix)
ASPP(bf16, bf16)
ASPP(float, f32)
// clang-format on
