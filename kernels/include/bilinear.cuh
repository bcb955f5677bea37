// Bilinear resizing with align_corners = true: positions in integers, as in src/ops/upsample_bilinear/axis.rs.
// Output pixel i of an axis lies at i (input - 1) / (output - 1) of the input. input * output < 2^31 (checked by the
// host).
#pragma once
#include "dev.cuh"

// [images, height, width, channels] resized to [images, out_height, out_width, channels].
struct Resize {
  int images, height, width, channels, out_height, out_width;
};
static_assert(sizeof(Resize) == 24, "as in src/ops/upsample_bilinear/mod.rs");

template <class A>
struct Position {
  int below, above;  // input pixels around the position
  A t;               // weight of the one above
};

template <class A>
__device__ __forceinline__ Position<A> position_of(int i, int input, int output) {
  unsigned last = input - 1, steps = output > 1 ? output - 1 : 1, scaled = i * last;
  int below = scaled / steps;
  return {below, min(below + 1, input - 1), A(scaled % steps) / A(steps)};
}

// The first output pixel at or above input pixel `pixel`; `output` for pixel = input.
__device__ __forceinline__ int first_at(int pixel, int input, int output) {
  if (input == 1) return pixel == 0 ? 0 : output;
  unsigned last = input - 1, steps = output > 1 ? output - 1 : 1;
  return min(static_cast<int>((pixel * steps + last - 1) / last), output);
}

// The one form in which every operation interpolates, x before y.
template <class A>
__device__ __forceinline__ A lerp(A a, A b, A t) {
  return a + t * (b - a);
}

// The four input pixels around an output pixel, and their value for one channel.
template <class T>
struct Corners {
  const T *a, *b, *c, *d;
  Acc<T> s, t;
  __device__ __forceinline__ Corners(const T* x, const Resize& r, int image, int row, int column) {
    Position<Acc<T>> y = position_of<Acc<T>>(row, r.height, r.out_height);
    Position<Acc<T>> z = position_of<Acc<T>>(column, r.width, r.out_width);
    const T* low = x + static_cast<size_t>(image * r.height + y.below) * r.width * r.channels;
    const T* high = x + static_cast<size_t>(image * r.height + y.above) * r.width * r.channels;
    a = low + z.below * r.channels, b = low + z.above * r.channels;
    c = high + z.below * r.channels, d = high + z.above * r.channels;
    s = y.t, t = z.t;
  }
  __device__ __forceinline__ Acc<T> operator()(int k) const {
    return lerp(lerp(to_acc(a[k]), to_acc(b[k]), t), lerp(to_acc(c[k]), to_acc(d[k]), t), s);
  }
};
