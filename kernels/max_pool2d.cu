// Max pooling (src/ops/max_pool2d/mod.rs).
//   max_pool_forward:   y = maximum over the window's pixels inside the input, places = row * kernel_w + column of the
//                       first maximum in the window (of the last NaN, where there is one)           writes (=)
//   max_pool_backward:  dx = sum of dy over the windows whose maximum the pixel is, windows rising: a gather in a fixed
//                       order                                                                        writes (=)
// Layout: x, dx [N,H,W,C]; y, dy, places (u8) [N,P,Q,C]; bf16 adds in f32.
// Launch: x dimension only; index < count is checked here. A thread has W channels of one pixel of y (forward) or dx
// (backward): 16 bytes of T where `packed` says so, which needs channels % W == 0, else 1; `count` is that of threads.
#include "pack.cuh"

struct Pool {
  int height, width, channels, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
  int packed;
};
static_assert(sizeof(Pool) == 48, "as in src/ops/max_pool2d/cuda.rs");

template <int W, class T>
__device__ __forceinline__ void pool_window(const T* x, T* y, uint8_t* places, const Pool& p, int index) {
  int packs = p.channels / W, k = index % packs * W, window = index / packs;
  int column = window % p.out_width * p.stride_w - p.padding_w, line = window / p.out_width;
  int row = line % p.out_height * p.stride_h - p.padding_h;
  x += static_cast<size_t>(line / p.out_height) * p.height * p.width * p.channels + k;
  Acc<T> most[W];
  Pack<uint8_t, W> place;
  bool none = true;
  for (int i = max(row, 0); i < min(row + p.kernel_h, p.height); i++) {
    for (int j = max(column, 0); j < min(column + p.kernel_w, p.width); j++) {
      Pack<T, W> in = load_pack<W>(x + (i * p.width + j) * p.channels);
      uint8_t here = (i - row) * p.kernel_w + j - column;
#pragma unroll
      for (int w = 0; w < W; w++) {
        Acc<T> value = to_acc(in.at[w]);
        bool wins = none || value > most[w] || value != value;
        most[w] = wins ? value : most[w], place.at[w] = wins ? here : place.at[w];
      }
      none = false;
    }
  }
  Pack<T, W> out;
#pragma unroll
  for (int w = 0; w < W; w++) out.at[w] = from_acc<T>(most[w]);
  size_t at = static_cast<size_t>(index) * W;
  store_pack(y + at, out), store_pack(places + at, place);
}

template <int W, class T>
__device__ __forceinline__ void gather_pixel(const T* dy, const uint8_t* places, T* dx, const Pool& p, int index) {
  int packs = p.channels / W, k = index % packs * W, pixel = index / packs;
  int j = pixel % p.width + p.padding_w, line = pixel / p.width, i = line % p.height + p.padding_h;
  size_t image = static_cast<size_t>(line / p.height) * p.out_height * p.out_width * p.channels + k;
  dy += image, places += image;
  int top = (max(i + 1 - p.kernel_h, 0) + p.stride_h - 1) / p.stride_h, bottom = min(i / p.stride_h + 1, p.out_height);
  int left = (max(j + 1 - p.kernel_w, 0) + p.stride_w - 1) / p.stride_w, right = min(j / p.stride_w + 1, p.out_width);
  Acc<T> sum[W] = {};
  for (int row = top; row < bottom; row++) {
    for (int column = left; column < right; column++) {
      int at = (row * p.out_width + column) * p.channels;
      int place = (i - row * p.stride_h) * p.kernel_w + j - column * p.stride_w;
      Pack<uint8_t, W> chosen = load_pack<W>(places + at);
      Pack<T, W> in = load_pack<W>(dy + at);
#pragma unroll
      for (int w = 0; w < W; w++) sum[w] += chosen.at[w] == place ? to_acc(in.at[w]) : Acc<T>(0);
    }
  }
  Pack<T, W> out;
#pragma unroll
  for (int w = 0; w < W; w++) out.at[w] = from_acc<T>(sum[w]);
  store_pack(dx + static_cast<size_t>(index) * W, out);
}

#define MAX_POOL(T, suffix)                                                                                           \
  extern "C" __global__ void max_pool_forward_##suffix(const T* __restrict__ x, T* __restrict__ y,                    \
                                                       uint8_t* __restrict__ places, Pool p, int count) {             \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (index >= count) return;                                                                                       \
    if (p.packed) {                                                                                                   \
      pool_window<PACK<T>>(x, y, places, p, index);                                                                   \
    } else {                                                                                                          \
      pool_window<1>(x, y, places, p, index);                                                                         \
    }                                                                                                                 \
  }                                                                                                                   \
  KERNEL_EXPORT(max_pool_forward_##suffix)                                                                            \
  extern "C" __global__ void max_pool_backward_##suffix(const T* __restrict__ dy, const uint8_t* __restrict__ places, \
                                                        T* __restrict__ dx, Pool p, int count) {                      \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (index >= count) return;                                                                                       \
    if (p.packed) {                                                                                                   \
      gather_pixel<PACK<T>>(dy, places, dx, p, index);                                                                \
    } else {                                                                                                          \
      gather_pixel<1>(dy, places, dx, p, index);                                                                      \
    }                                                                                                                 \
  }                                                                                                                   \
  KERNEL_EXPORT(max_pool_backward_##suffix)
FOR_FLOATS(MAX_POOL)
