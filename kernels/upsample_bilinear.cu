// Bilinear resizing, align_corners = true (src/ops/upsample_bilinear/mod.rs).
//   upsample_forward:   y[n][i][j][c] = lerp over rows of the lerp over columns of x               writes (=)
//   upsample_backward:  dx[n][i][j][c] = sum of dy over the output pixels around, with the same weights, rows
//                       outermost, rising: a gather in a fixed order                                          writes
//                       (=)
// Layout: x, dx [N,h,w,C]; y, dy [N,H,W,C]; bf16 computes in f32.
// Launch: one thread an element of y (forward) or dx (backward), x dimension only; index < count is checked here.
#include "bilinear.cuh"

template <class T>
__device__ __forceinline__ void upsample_element(const T* x, T* y, const Resize& r, int index) {
  int k = index % r.channels, pixel = index / r.channels;
  int column = pixel % r.out_width, line = pixel / r.out_width;
  Corners<T> corners(x, r, line / r.out_height, line % r.out_height, column);
  y[index] = from_acc<T>(corners(k));
}

template <class T>
__device__ __forceinline__ void gather_element(const T* dy, T* dx, const Resize& r, int index) {
  using A = Acc<T>;
  int k = index % r.channels, pixel = index / r.channels;
  int column = pixel % r.width, line = pixel / r.width, row = line % r.height, image = line / r.height;
  int top = first_at(max(row - 1, 0), r.height, r.out_height), bottom = first_at(row + 1, r.height, r.out_height);
  int left = first_at(max(column - 1, 0), r.width, r.out_width), right = first_at(column + 1, r.width, r.out_width);
  A total = 0;
  for (int i = top; i < bottom; i++) {
    Position<A> y = position_of<A>(i, r.height, r.out_height);
    const T* source = dy + static_cast<size_t>(image * r.out_height + i) * r.out_width * r.channels + k;
    A sum = 0;
    for (int j = left; j < right; j++) {
      Position<A> z = position_of<A>(j, r.width, r.out_width);
      sum += (z.below == column ? 1 - z.t : z.t) * to_acc(source[j * r.channels]);
    }
    total += (y.below == row ? 1 - y.t : y.t) * sum;
  }
  dx[index] = from_acc<T>(total);
}

#define UPSAMPLE(T, suffix)                                                                                           \
  extern "C" __global__ void upsample_forward_##suffix(const T* __restrict__ x, T* __restrict__ y, Resize r,          \
                                                       int count) {                                                   \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (index < count) upsample_element(x, y, r, index);                                                              \
  }                                                                                                                   \
  KERNEL_EXPORT(upsample_forward_##suffix)                                                                            \
  extern "C" __global__ void upsample_backward_##suffix(const T* __restrict__ dy, T* __restrict__ dx, Resize r,       \
                                                        int count) {                                                  \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (index < count) gather_element(dy, dx, r, index);                                                              \
  }                                                                                                                   \
  KERNEL_EXPORT(upsample_backward_##suffix)
FOR_FLOATS(UPSAMPLE)
