// The passes of a batch norm that write images: y, and the gradients of x and of the residual. A thread serves the same
// W channels in rows first, first + span, .. of a group, ROWS of them at a time, whose loads are under way together.
// Its first rows are on their way before it works out its channels' parameters. W is 16 bytes of parameters, not of T:
// with more channels of bf16 a thread, their parameters would leave registers for half as many threads.
#pragma once
#include "normalize.cuh"
#include "pack.cuh"

struct BatchNormParams {
  int rows, channels, span, flags;  // rows: of one group
  double epsilon;
  int groups, padding;
};
static_assert(sizeof(BatchNormParams) == 32, "src/ops/batch_norm/cuda.rs declares the same");
constexpr int VECTOR = 1, RELU = 2;

// Where a block's group begins in an image; null stays null.
template <class T>
__device__ __forceinline__ T* group_of(T* image, const BatchNormParams& p) {
  return image ? image + size_t(blockIdx.z) * p.rows * p.channels : image;
}
// The same in a vector over the channels.
template <class A>
__device__ __forceinline__ A* channels_of(A* vector, const BatchNormParams& p) {
  return vector ? vector + size_t(blockIdx.z) * p.channels : vector;
}

// Rows that a thread holds at one time: 32 bytes of each image.
template <class T>
constexpr int ROWS = sizeof(T) < 4 ? 4 : 2;

// The Channel of each of W neighbouring channels; their vectors are read in whole packs.
template <class A, int W>
struct Channels {
  A centre[W], inverse[W], slope[W], offset[W];
  __device__ __forceinline__ Channels(const A* mean, const A* variance, const A* scale, const A* shift, A epsilon) {
    Pack<A, W> means = load_pack<W>(mean), variances = load_pack<W>(variance);
    Pack<A, W> scales = load_pack<W>(scale), shifts = load_pack<W>(shift);
#pragma unroll
    for (int w = 0; w < W; w++) {
      Channel<A> c(means.at, variances.at, scales.at, shifts.at, w, epsilon);
      centre[w] = c.mean, inverse[w] = c.inverse, slope[w] = c.slope, offset[w] = c.shift;
    }
  }
};

// What a thread serves: its channels, and the N rows that it is at.
template <int W, int N>
struct Work {
  int channel;
  unsigned row, rows, span;
  // The element of the images where its pack begins, and the distance of the next row's. May wrap beyond the last row.
  unsigned at, step;

  __device__ __forceinline__ explicit Work(const BatchNormParams& p) : rows(p.rows), span(p.span) {
    unsigned groups = p.channels / W, thread = blockIdx.x * blockDim.x + threadIdx.x;
    row = thread / groups, channel = thread % groups * W;
    at = (blockIdx.z * rows + row) * p.channels + channel, step = span * p.channels;
    if (row >= span) row = rows;
  }
  __device__ __forceinline__ bool any() const { return row < rows; }
  __device__ __forceinline__ bool has(int i) const { return row + i * span < rows; }
  __device__ __forceinline__ void advance() { row += N * span, at += N * step; }
};

// Packs of N rows of an image; beyond the last row the first of them again: loads under a condition would each wait for
// the one before.
template <class T, int W, int N>
struct Rows {
  Pack<T, W> row[N];
  __device__ __forceinline__ void load(const T* image, const Work<W, N>& work) {
#pragma unroll
    for (int i = 0; i < N; i++) row[i] = load_pack<W>(image + (work.has(i) ? work.at + i * work.step : work.at));
  }
};

template <class T, int W, bool RESIDUAL>
__device__ __forceinline__ void forward_rows(const T* __restrict__ x, const T* __restrict__ residual,
                                             const Acc<T>* __restrict__ mean, const Acc<T>* __restrict__ variance,
                                             const Acc<T>* __restrict__ scale, const Acc<T>* __restrict__ shift,
                                             T* __restrict__ y, const BatchNormParams& p) {
  using A = Acc<T>;
  constexpr int N = ROWS<T>;
  Work<W, N> work(p);
  if (!work.any()) return;
  Rows<T, W, N> in, other;
  auto load = [&] {
    in.load(x, work);
    if constexpr (RESIDUAL) other.load(residual, work);
  };
  load();
  int c = work.channel;
  Channels<A, W> of(channels_of(mean, p) + c, channels_of(variance, p) + c, scale + c, shift + c, A(p.epsilon));
  bool relu = (p.flags & RELU) != 0;
  while (true) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      Pack<T, W> out;
#pragma unroll
      for (int w = 0; w < W; w++) {
        A z = fma(to_acc(in.row[i].at[w]) - of.centre[w], of.slope[w], of.offset[w]);
        if constexpr (RESIDUAL) z += to_acc(other.row[i].at[w]);
        // NaN passes through.
        if (relu && z < 0) z = 0;
        out.at[w] = from_acc<T>(z);
      }
      if (i == 0 || work.has(i)) store_pack(y + work.at + i * work.step, out);
    }
    work.advance();
    if (!work.any()) return;
    load();
  }
}

template <class T, int W>
__device__ __forceinline__ void forward(const T* x, const T* residual, const Acc<T>* mean, const Acc<T>* variance,
                                        const Acc<T>* scale, const Acc<T>* shift, T* y, const BatchNormParams& p) {
  if (residual) {
    forward_rows<T, W, true>(x, residual, mean, variance, scale, shift, y, p);
  } else {
    forward_rows<T, W, false>(x, residual, mean, variance, scale, shift, y, p);
  }
}

// Where the ReLU passed: everywhere without one, or as y or x tells.
enum class Mask { NONE, BY_Y, BY_X };

template <class T>
struct Gradients {
  const T *x, *y, *dy;
  const Acc<T>*mean, *variance, *scale, *shift, *dscale, *dshift;
  T *dx, *dresidual;
};

template <class T, int W, bool X, Mask MASK>
__device__ __forceinline__ void backward_rows(const Gradients<T>& of, const BatchNormParams& p) {
  using A = Acc<T>;
  // Three images at a time leave registers for half as many rows.
  constexpr int N = MASK == Mask::BY_Y ? ROWS<T> / 2 : ROWS<T>;
  Work<W, N> work(p);
  if (!work.any()) return;
  const T* __restrict__ x = of.x;
  const T* __restrict__ y = of.y;
  const T* __restrict__ dy = of.dy;
  T* __restrict__ dx = of.dx;
  T* __restrict__ dresidual = of.dresidual;
  Rows<T, W, N> gradient, in, out;
  auto load = [&] {
    gradient.load(dy, work);
    if constexpr (X) in.load(x, work);
    if constexpr (MASK == Mask::BY_Y) out.load(y, work);
  };
  load();
  int c = work.channel;
  // dx = slope g - constant - (x - mean) linear; the last two are 0 with running statistics.
  Pack<A, W> dscale = {}, dshift = {};
  if (of.dscale) dscale = load_pack<W>(channels_of(of.dscale, p) + c);
  if (of.dshift) dshift = load_pack<W>(channels_of(of.dshift, p) + c);
  Channels<A, W> at(channels_of(of.mean, p) + c, channels_of(of.variance, p) + c, of.scale + c, of.shift + c,
                    A(p.epsilon));
  A constant[W], linear[W];
#pragma unroll
  for (int w = 0; w < W; w++) {
    A part = at.slope[w] * (A(1) / p.rows);
    constant[w] = of.dshift ? part * dshift.at[w] : A(0);
    linear[w] = of.dscale ? part * dscale.at[w] * at.inverse[w] : A(0);
  }
  while (true) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      Pack<T, W> to_x, to_residual;
#pragma unroll
      for (int w = 0; w < W; w++) {
        A centred = X ? to_acc(in.row[i].at[w]) - at.centre[w] : A(0), g = to_acc(gradient.row[i].at[w]);
        if constexpr (MASK != Mask::NONE) {
          A z = MASK == Mask::BY_Y ? to_acc(out.row[i].at[w]) : fma(centred, at.slope[w], at.offset[w]);
          if (!(z > 0)) g = 0;
        }
        to_residual.at[w] = from_acc<T>(g);
        to_x.at[w] = from_acc<T>(at.slope[w] * g - (constant[w] + centred * linear[w]));
      }
      if (i > 0 && !work.has(i)) continue;
      if (dx) store_pack(dx + work.at + i * work.step, to_x);
      if (dresidual) store_pack(dresidual + work.at + i * work.step, to_residual);
    }
    work.advance();
    if (!work.any()) return;
    load();
  }
}

template <class T, int W>
__device__ __forceinline__ void backward(const Gradients<T>& of, const BatchNormParams& p) {
  bool relu = (p.flags & RELU) != 0;
  if (of.x) {
    if (!relu) {
      backward_rows<T, W, true, Mask::NONE>(of, p);
    } else if (of.y) {
      backward_rows<T, W, true, Mask::BY_Y>(of, p);
    } else {
      backward_rows<T, W, true, Mask::BY_X>(of, p);
    }
  } else if (relu) {
    backward_rows<T, W, false, Mask::BY_Y>(of, p);
  } else {
    backward_rows<T, W, false, Mask::NONE>(of, p);
  }
}
