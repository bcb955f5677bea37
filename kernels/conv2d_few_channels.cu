// Convolutions of images of few channels on tensor cores, such as the 7 x 7 stem on 3 channels: the equations of
// conv2d.cu.
//
// Three channels fill no K tile of 64 bytes, but a row of taps does: with four channels a pixel, eight neighbouring
// pixels are one run of 32 elements in memory. So a row of the filter becomes one tap whose channels are that run:
//   y[n,p,q,k] = bias[k] + sum_{r, j < 32} run[n, p stride - pad + r dilation, q stride - shift; j] v[k,r,j]
// where image and filter come padded: x4 [n,h,w2,4] and v [k,r,8,4], zeros in what was added. For a run to begin at a
// multiple of 16 bytes in bf16 (two pixels), the horizontal stride must be even, and the window begins `shift` pixels
// before its centre's column, with shift = pad rounded up to even: the filter's first column is then zero where pad is
// odd. w2 is w rounded up to even. Of 7 x 32 products, 147 are not zero; a K tile for each tap would be one for 49 x
// 32.
//
// The weight gradient is conv2d_mma.cu's, of the padded image and filter: 8 taps across and 4 channels.
//
// Launch:
//   forward:  as conv2d_mma_forward; the tile is `medium` 128 x 64 or `slim` 128 x 32; `params` is that of the padded
//             problem
//   fit:      one thread an element of `out` [rows, a2, b2]; writes (=) in [rows, a, b] moved by `first` along a, else
//             0
#include "conv_mma_loaders.cuh"
#include "conv_moments.cuh"
#include "conv_normalize.cuh"

constexpr int WINDOW = 8, CHANNELS = 4;

// The run of pixels at each output pixel, by row of taps: `channel` counts along the run.
template <class T, int EXTENT>
struct WindowPixels : DeepLoader<T, EXTENT> {
  using Base = DeepLoader<T, EXTENT>;
  const T* x;
  const Gather& g;
  int y[Base::PASSES], left[Base::PASSES], image[Base::PASSES];

  __device__ WindowPixels(const T* x, const Gather& g, int start) : x(x), g(g) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      Pixel pixel = pixel_of(g, start + this->line + pass * Base::LINES);
      y[pass] = pixel.y, left[pass] = pixel.x, image[pass] = pixel.image;
    }
  }

  __device__ __forceinline__ void fetch(char* tile, const TapWalk<T>& walk) {
    int down = walk.row * g.distance[0], element = walk.channel + this->chunk * CHUNK<T>;
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      // A chunk of two pixels begins at an even column of an even number of columns: both are inside or both are not.
      int row = y[pass] + down, column = left[pass] + element / CHANNELS;
      bool rows = static_cast<unsigned>(row) < static_cast<unsigned>(g.h);
      bool inside = rows && static_cast<unsigned>(column) < static_cast<unsigned>(g.w);
      this->copy(tile, pass, x + (inside ? ((image[pass] * g.h + row) * g.w + column) * CHANNELS : 0), inside);
    }
  }
};

template <class T, class Tile>
__device__ __forceinline__ void forward(const T* x, const T* v, T* y, const ForwardEpilogue<T>& epilogue,
                                        const ConvProblem& p, int group) {
  DYN_SMEM(char, shared);
  int tiles = (p.k + Tile::BN - 1) / Tile::BN, start_n = blockIdx.x % tiles * Tile::BN;
  TileRows<Tile> pixels(blockIdx.x / tiles, group);
  Gather g = gather_output(p);
  // The filter's rows as taps with the channels of a run.
  ConvProblem rows = p;
  rows.s = 1, rows.c = WINDOW * CHANNELS;
  TapWalk<T> walk(g);
  walk.columns = 1, walk.channels = WINDOW * CHANNELS;
  WindowPixels<T, Tile::BM> a(x, g, pixels.start);
  FilterRows<T, Tile::BN> b(v, rows, start_n);
  typename Tile::Sums sums = {};
  multiply<T, Tile>(shared, a, b, walk, sums);
  if (epilogue.bias) add_bias<T, Tile>(sums, epilogue.bias, start_n, p.k);
  pixels.template store<T>(sums, epilogue.moments, start_n, p.k);
  store_output<T, Tile>(shared, sums, y, epilogue, start_n, p.k, [&](int row) {
    int pixel = pixels.start + row;
    return pixel < pixels.end ? pixel * p.k : -1;
  });
}

// clang-format off
#define FORWARD(T, suffix, name, ...)                                                                          \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS, MmaTile<__VA_ARGS__>::TOGETHER)                    \
      conv2d_few_channels_forward_##name##_##suffix(                                                           \
      const T* __restrict__ x4, const T* __restrict__ v, T* __restrict__ y, ForwardEpilogue<T> epilogue,       \
      ConvProblem p, int group) {                                                                              \
    forward<T, MmaTile<__VA_ARGS__>>(x4, v, y, epilogue, p, group);                                            \
  }                                                                                                            \
  KERNEL_EXPORT(conv2d_few_channels_forward_##name##_##suffix)
#define KERNELS(T, suffix)                                                                                          \
  FORWARD(T, suffix, medium, 128, 64, 2)                                                                            \
  FORWARD(T, suffix, slim, 128, 32, 4)                                                                              \
  extern "C" __global__ void conv2d_few_channels_fit_##suffix(const T* __restrict__ in, T* __restrict__ out, int a, \
                                                        int b, int a2, int b2, int first, int count) {              \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                  \
    if (i >= count) return;                                                                                         \
    int line = i / b2, column = i - line * b2, row = line / a2, at = line - row * a2 - first;                       \
    bool inside = at >= 0 && at < a && column < b;                                                                  \
    out[i] = inside ? in[(row * a + at) * b + column] : from_acc<T>(0);                                             \
  }                                                                                                                 \
  KERNEL_EXPORT(conv2d_few_channels_fit_##suffix)
KERNELS(bf16, bf16)
KERNELS(float, f32)
// clang-format on
