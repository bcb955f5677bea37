// Convolution (cross-correlation) with zero padding, NHWC, as an implicit matrix product:
//   y[n,p,q,k]  = bias[k] + sum_{r,s,c} x[n, p stride - pad + r dilation, q stride - pad + s dilation, c] w[k,r,s,c]
//   dx[n,h,w,c] = sum over the taps (r, s) that hit (h, w), and k, of dy[n,p,q,k] w[k,r,s,c]
//   dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, p stride - pad + r dilation, q stride - pad + s dilation, c]
//   db[k]       = sum_{n,p,q} dy[n,p,q,k]
// x [n,h,w,c], w [k,r,s,c], y and dy [n,p,q,k]; all outputs are written (=). bf16 sums in f32.
//
// The tile is BM x BN with BM = 128: `wide` has BN = 64, `narrow` 32 (few columns, or f64).
// Launch, 128 threads a block; tiles are numbered with the columns fastest:
//   forward:         grid.x = ceil(n p q / BM) ceil(k / BN); bias may be null
//   data gradient:   grid.x = ceil(largest phase's pixels / BM) ceil(c / BN); grid.z = stride[0] stride[1], one for
//                    each phase (row mod stride, column mod stride): its pixels are hit by the same taps, so that no
//                    product with a zero is computed
//   weight gradient: grid.x = ceil(k / BM) ceil(r s c / BN); grid.z is split-K over the pixels, `range` each: one block
//                    writes its sums to partial[z][k, r s c]
//   bias gradient:   block (32, 8); grid.x = ceil(k / 32); grid.z ranges of `range` pixels to partial[z][k]
//   reduce:          one thread an element: out[i] = sum over z of partial[z][i], in order
#include "conv_simt.cuh"

template <class T, int BM, int BN>
__device__ __forceinline__ void forward(const T* x, const T* w, const T* bias, T* y, const ConvProblem& p) {
  int tiles = (p.k + BN - 1) / BN, start_m = blockIdx.x / tiles * BM, start_n = blockIdx.x % tiles * BN;
  Gather g = gather_output(p);
  int depth = g.depth(), pixels = g.pixels();
  PixelRows<T, BM, SLICE> a(x, g, start_m);
  MatrixRows<T, BN, SLICE> b(w, start_n, p.k, depth);
  multiply<T, BM, BN, SLICE>(a, b, 0, depth, [&](int i, int j, Acc<T>(&sums)[4]) {
    int pixel = start_m + i, k = start_n + j;
    if (pixel >= pixels) return;
    if (bias)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[e] += k + e < p.k ? to_acc(bias[k + e]) : Acc<T>(0);
    store_quad<T>(y + pixel * p.k, k, p.k, p.k % 4 == 0, sums);
  });
}

// Columns of the filter, d running over the phase's taps and k.
template <class T, int ROWS, int BK>
struct FilterColumns : ColumnLoader<T, ROWS, BK> {
  using Base = ColumnLoader<T, ROWS, BK>;
  const T* w;
  const ConvProblem& p;
  const Phase& phase;
  int start;

  __device__ FilterColumns(const T* w, const ConvProblem& p, const Phase& phase, int start)
      : w(w), p(p), phase(phase), start(start + this->first) {}

  __device__ __forceinline__ void fetch(int d) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int index = d + this->line + pass * Base::LINES, offset = 0;
      bool inside = index < phase.gather.depth();
      if (inside) {
        int tap = index / p.k, k = index - tap * p.k, row = tap / phase.across.count;
        offset = (k * p.taps() + phase.tap(p, row, tap - row * phase.across.count)) * p.c;
      }
      load_quad<T>(w + offset, start, inside ? p.c : 0, p.c % 4 == 0, this->held[pass]);
    }
  }
};

template <class T, int BM, int BN>
__device__ __forceinline__ void data_gradient(const T* dy, const T* w, T* dx, const ConvProblem& p) {
  int tiles = (p.c + BN - 1) / BN, start_m = blockIdx.x / tiles * BM, start_n = blockIdx.x % tiles * BN;
  Phase phase = phase_of(p, blockIdx.z);
  const Gather& g = phase.gather;
  if (g.rows <= 0 || g.columns <= 0 || start_m >= g.pixels()) return;
  PixelRows<T, BM, SLICE> a(dy, g, start_m);
  FilterColumns<T, BN, SLICE> b(w, p, phase, start_n);
  multiply<T, BM, BN, SLICE>(a, b, 0, g.depth(), [&](int i, int j, Acc<T>(&sums)[4]) {
    int index = start_m + i;
    if (index < g.pixels()) store_quad<T>(dx + phase.offset(p, index), start_n + j, p.c, p.c % 4 == 0, sums);
  });
}

template <class T, int BM, int BN>
__device__ __forceinline__ void weight_gradient(const T* dy, const T* x, Acc<T>* partial, const ConvProblem& p,
                                                int range) {
  Gather g = gather_output(p);
  int depth = g.depth(), tiles = (depth + BN - 1) / BN;
  int start_m = blockIdx.x / tiles * BM, start_n = blockIdx.x % tiles * BN;
  int from = blockIdx.z * range, to = min(from + range, g.pixels());
  partial += static_cast<size_t>(blockIdx.z) * p.k * depth;
  MatrixColumns<T, BM, SLICE> a(dy, start_m, p.k, to);
  PixelColumns<T, BN, SLICE> b(x, g, start_n, to);
  multiply<T, BM, BN, SLICE>(a, b, from, to, [&](int i, int j, Acc<T>(&sums)[4]) {
    int k = start_m + i;
    if (k < p.k) store_quad<Acc<T>>(partial + k * depth, start_n + j, depth, depth % 4 == 0, sums);
  });
}

template <class T>
__device__ __forceinline__ void bias_gradient(const T* dy, Acc<T>* partial, const ConvProblem& p, int range) {
  SHARED(Acc<T>, sums, [8][32]);
  int k = blockIdx.x * 32 + threadIdx.x, from = blockIdx.z * range, to = min(from + range, p.pixels());
  Acc<T> sum = 0;
  if (k < p.k)
    for (int pixel = from + threadIdx.y; pixel < to; pixel += 8) sum += to_acc(dy[pixel * p.k + k]);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || k >= p.k) return;
  for (int row = 1; row < 8; row++) sum += sums[row][threadIdx.x];
  partial[blockIdx.z * p.k + k] = sum;
}

// clang-format off
#define CONV(T, suffix, name, BN)                                                                                  \
  extern "C" __global__ void __launch_bounds__(CONV_THREADS) conv2d_forward_##name##_##suffix(                     \
      const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, T* __restrict__ y,             \
      ConvProblem p) {                                                                                             \
    forward<T, 128, BN>(x, w, bias, y, p);                                                                         \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_forward_##name##_##suffix)                                                                  \
  extern "C" __global__ void __launch_bounds__(CONV_THREADS) conv2d_data_gradient_##name##_##suffix(               \
      const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx, ConvProblem p) {                      \
    data_gradient<T, 128, BN>(dy, w, dx, p);                                                                       \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_data_gradient_##name##_##suffix)                                                            \
  extern "C" __global__ void __launch_bounds__(CONV_THREADS) conv2d_weight_gradient_##name##_##suffix(             \
      const T* __restrict__ dy, const T* __restrict__ x, Acc<T>* __restrict__ partial, ConvProblem p, int range) { \
    weight_gradient<T, 128, BN>(dy, x, partial, p, range);                                                         \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_weight_gradient_##name##_##suffix)
CONV(float, f32, wide, 64)
CONV(bf16, bf16, wide, 64)
CONV(float, f32, narrow, 32)
CONV(double, f64, narrow, 32)
CONV(bf16, bf16, narrow, 32)

#define SUMS(T, suffix)                                                                                            \
  extern "C" __global__ void __launch_bounds__(256) conv2d_bias_gradient_##suffix(                                 \
      const T* __restrict__ dy, Acc<T>* __restrict__ partial, ConvProblem p, int range) {                          \
    bias_gradient<T>(dy, partial, p, range);                                                                       \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_bias_gradient_##suffix)                                                                     \
  extern "C" __global__ void conv2d_reduce_##suffix(const Acc<T>* __restrict__ partial, T* __restrict__ out,       \
                                                    int count, int ranges) {                                       \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                 \
    if (i >= count) return;                                                                                        \
    Acc<T> sum = partial[i];                                                                                       \
    for (int z = 1; z < ranges; z++) sum += partial[static_cast<size_t>(z) * count + i];                           \
    out[i] = from_acc<T>(sum);                                                                                     \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_reduce_##suffix)
FOR_FLOATS(SUMS)
// clang-format on
