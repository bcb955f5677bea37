// Max pooling (src/ops/max_pool2d/mod.rs).
//   max_pool_forward:   y = maximum over the window's pixels inside the input, places = row * kernel_w + column of the
//                       first maximum in the window (of the last NaN, where there is one)           writes (=)
//   max_pool_backward:  dx = sum of dy over the windows whose maximum the pixel is, windows rising: a gather in a fixed
//                       order                                                                        writes (=)
// Layout: x, dx [N,H,W,C]; y, dy, places (u8) [N,P,Q,C]; bf16 adds in f32.
// Launch: one thread an element of y (forward) or dx (backward), x dimension only; index < count is checked here.
#include "dev.cuh"

struct Pool {
  int height, width, channels, out_height, out_width;
  int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
};
static_assert(sizeof(Pool) == 44, "as in src/ops/max_pool2d/cuda.rs");

template <class T>
__device__ __forceinline__ void pool_window(const T* x, T* y, uint8_t* places, const Pool& p, int index) {
  int k = index % p.channels, window = index / p.channels;
  int column = window % p.out_width * p.stride_w - p.padding_w, line = window / p.out_width;
  int row = line % p.out_height * p.stride_h - p.padding_h;
  x += static_cast<size_t>(line / p.out_height) * p.height * p.width * p.channels + k;
  Acc<T> most = 0;
  int place = -1;
  for (int i = max(row, 0); i < min(row + p.kernel_h, p.height); i++) {
    for (int j = max(column, 0); j < min(column + p.kernel_w, p.width); j++) {
      Acc<T> value = to_acc(x[(i * p.width + j) * p.channels]);
      if (place >= 0 && !(value > most) && value == value) continue;
      most = value, place = (i - row) * p.kernel_w + j - column;
    }
  }
  y[index] = from_acc<T>(most), places[index] = place;
}

template <class T>
__device__ __forceinline__ void gather_pixel(const T* dy, const uint8_t* places, T* dx, const Pool& p, int index) {
  int k = index % p.channels, pixel = index / p.channels;
  int j = pixel % p.width + p.padding_w, line = pixel / p.width, i = line % p.height + p.padding_h;
  size_t image = static_cast<size_t>(line / p.height) * p.out_height * p.out_width * p.channels + k;
  dy += image, places += image;
  int top = (max(i + 1 - p.kernel_h, 0) + p.stride_h - 1) / p.stride_h, bottom = min(i / p.stride_h + 1, p.out_height);
  int left = (max(j + 1 - p.kernel_w, 0) + p.stride_w - 1) / p.stride_w, right = min(j / p.stride_w + 1, p.out_width);
  Acc<T> sum = 0;
  for (int row = top; row < bottom; row++) {
    for (int column = left; column < right; column++) {
      int at = (row * p.out_width + column) * p.channels;
      int place = (i - row * p.stride_h) * p.kernel_w + j - column * p.stride_w;
      if (places[at] == place) sum += to_acc(dy[at]);
    }
  }
  dx[index] = from_acc<T>(sum);
}

#define MAX_POOL(T, suffix)                                                                                         \
  extern "C" __global__ void max_pool_forward_##suffix(const T* __restrict__ x, T* __restrict__ y,                  \
                                                       uint8_t* __restrict__ places, Pool p, int count) {           \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                              \
    if (index < count) pool_window(x, y, places, p, index);                                                         \
  }                                                                                                                 \
  KERNEL_EXPORT(max_pool_forward_##suffix)                                                                          \
  extern "C" __global__ void max_pool_backward_##suffix(const T* __restrict__ dy, const uint8_t* __restrict__ places, \
                                                        T* __restrict__ dx, Pool p, int count) {                    \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                              \
    if (index < count) gather_pixel(dy, places, dx, p, index);                                                      \
  }                                                                                                                 \
  KERNEL_EXPORT(max_pool_backward_##suffix)
FOR_FLOATS(MAX_POOL)
