// Atrous spatial pyramid pooling (aspp.cu has the equations) around one plain product of matrices: every tap of every
// branch at every pixel, whatever its offset,
//   t[n,p,q, j] = sum_c x[n,p,q,c] w_b[k,r,s,c]   for each column j = ((b R + r) S + s) K + k
// so that a tile reads x as it lies, once for all taps, and 19 classes fill its columns. What remains is to move
// pixels:
//   gather: y[n,p,q, b K + k] = bias_b[k] + sum_{r,s} t[n, p + (r - R/2) dilation_b, q + (s - S/2) dilation_b, j]
//   spread: dt[n,p,q, j] = dy[n, p - (r - R/2) dilation_b, q - (s - S/2) dilation_b, b K + k]
// with zeros outside the image, and dx = dt W, dW = dt^T x by the product's own gradients, where
//   stack:   W[j, c] = w_b[k,r,s,c]
//   unstack: dw_b[k,r,s,c] = dW[j, c]
// Columns run by branch, tap, k, where the filters run by branch, k, tap: the K values of one tap, which both kernels
// read from one pixel, are then neighbours (38 bytes, two or three sectors of memory, for 19 classes). In the filters'
// order each of them would lie in a sector of its own, nine times as much to fetch. The filters pass through a copy
// either way.
//
// Layouts: x [n,h,w,c], w_b [k,r,s,c], y and dy [n,h,w,4 k], t and dt [n,h,w,columns], W [columns,c], with columns = 4
// r s k rounded up to a multiple of 8; beyond 4 r s k, W and dt are zero and t is not read. C is a multiple of 8. All
// bf16, all outputs written (=); `gather` adds in f32, the bias first, then the taps in order, and rounds once.
// Launch: x dimension only; the bound `count` is checked here.
//   gather:         a thread for an output channel of GATHERED pixels along a row
//   spread:         a thread for two columns of SPREAD pixels along a row
//   stack:          a thread for 16 bytes of W
//   unstack:        a thread for 16 bytes of the filters' gradients
#include "aspp_params.cuh"
#include "conv_gather.cuh"
#include "pack.cuh"

// Pixels of a thread: one place is worked out for all of them. A warp takes neighbouring channels of each pixel
// together, so that it reads few runs of memory at a time and writes one. (With 16 bytes of one pixel a thread, a warp
// would span 14 taps, and read from 14 pixels at once.)
constexpr int GATHERED = 4, SPREAD = 16;

// Where a column of the product belongs.
struct Column {
  int branch, row, column, k;

  __device__ __forceinline__ Column(const AsppParams& p, int j) {
    int place = j / p.k, line = place / p.s;
    k = j - place * p.k, column = place - line * p.s, branch = line / p.r, row = line - branch * p.r;
  }
  // Others fill the last chunk.
  __device__ bool is_some() const { return branch < BRANCHES; }
  // From a pixel to the one that its tap reads.
  __device__ int down(const AsppParams& p) const { return (row - p.r / 2) * p.dilation_of(branch); }
  __device__ int across(const AsppParams& p) const { return (column - p.s / 2) * p.dilation_of(branch); }
  // Of its C values in the branch's filter.
  __device__ int in_filter(const AsppParams& p) const { return ((k * p.r + row) * p.s + column) * p.c; }
};

// N pixels along a row of an image.
template <int N>
struct Run {
  // Row of all images, row of its own image, first pixel in it.
  int row, y, x;

  __device__ __forceinline__ Run(const AsppParams& p, int index) {
    int runs = (p.w + N - 1) / N;
    row = index / runs, y = row % p.h, x = (index - row * runs) * N;
  }
};

// What lies beside a run in an image of `channels` channels, `down` and `across` from it, in one channel.
struct Beside {
  int line, x, channels, width;

  template <int N>
  __device__ __forceinline__ Beside(const AsppParams& p, const Run<N>& run, int down, int across, int channels,
                                    int channel)
      : channels(channels), width(p.w) {
    bool inside = static_cast<unsigned>(run.y + down) < static_cast<unsigned>(p.h);
    line = inside ? (run.row + down) * p.w * channels + channel : 0;
    x = inside ? run.x + across : OUTSIDE;
  }
  // Of the pixel `step`.
  __device__ __forceinline__ bf16 read(const bf16* image, int step) const {
    bool inside = static_cast<unsigned>(x + step) < static_cast<unsigned>(width);
    return inside ? image[line + (x + step) * channels] : from_acc<bf16>(0);
  }
};

extern "C" __global__ void aspp_gather_bf16(const bf16* __restrict__ t, const bf16* __restrict__ b0,
                                            const bf16* __restrict__ b1, const bf16* __restrict__ b2,
                                            const bf16* __restrict__ b3, bf16* __restrict__ y, AsppParams p,
                                            int columns, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, wide = BRANCHES * p.k;
  if (i >= count) return;
  int index = i / wide, channel = i - index * wide, branch = channel / p.k, k = channel - branch * p.k;
  Run<GATHERED> run(p, index);
  float sums[GATHERED], bias = to_acc(choose(branch, b0, b1, b2, b3)[k]);
#pragma unroll
  for (int n = 0; n < GATHERED; n++) sums[n] = bias;
  int dilation = p.dilation_of(branch), j = branch * p.taps() * p.k + k;
  for (int row = 0; row < p.r; row++)
#pragma unroll 3
    for (int column = 0; column < p.s; column++, j += p.k) {
      Beside beside(p, run, (row - p.r / 2) * dilation, (column - p.s / 2) * dilation, columns, j);
#pragma unroll
      for (int n = 0; n < GATHERED; n++) sums[n] += to_acc(beside.read(t, n));
    }
  bf16* to = y + (run.row * p.w + run.x) * wide + channel;
#pragma unroll
  for (int n = 0; n < GATHERED; n++)
    if (run.x + n < p.w) to[n * wide] = from_acc<bf16>(sums[n]);
}
KERNEL_EXPORT(aspp_gather_bf16)

extern "C" __global__ void aspp_spread_bf16(const bf16* __restrict__ dy, bf16* __restrict__ dt, AsppParams p,
                                            int columns, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, pairs = columns / 2;
  if (i >= count) return;
  int index = i / pairs, j = (i - index * pairs) * 2;
  Run<SPREAD> run(p, index);
  auto loads = [&](int j) {
    Column column(p, j);
    // A column without a tap is outside everywhere.
    int down = column.is_some() ? -column.down(p) : OUTSIDE;
    return Beside(p, run, down, -column.across(p), BRANCHES * p.k, column.branch * p.k + column.k);
  };
  Beside first = loads(j), second = loads(j + 1);
  bf16* to = dt + (run.row * p.w + run.x) * columns + j;
  // A pixel beyond the end of the row may be read, so that no read waits for a write.
  Pack<bf16, 2> values[SPREAD];
#pragma unroll
  for (int n = 0; n < SPREAD; n++) values[n] = {first.read(dy, n), second.read(dy, n)};
#pragma unroll
  for (int n = 0; n < SPREAD; n++)
    if (run.x + n < p.w) store_pack(to + n * columns, values[n]);
}
KERNEL_EXPORT(aspp_spread_bf16)

extern "C" __global__ void aspp_stack_bf16(const bf16* __restrict__ w0, const bf16* __restrict__ w1,
                                           const bf16* __restrict__ w2, const bf16* __restrict__ w3,
                                           bf16* __restrict__ stacked, AsppParams p, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, chunks = p.c / PACK<bf16>;
  if (i >= count) return;
  int j = i / chunks, c = (i - j * chunks) * PACK<bf16>;
  Column column(p, j);
  Pack<bf16, PACK<bf16>> values = {};
  if (column.is_some()) values = load_pack<PACK<bf16>>(choose(column.branch, w0, w1, w2, w3) + column.in_filter(p) + c);
  store_pack(stacked + j * p.c + c, values);
}
KERNEL_EXPORT(aspp_stack_bf16)

extern "C" __global__ void aspp_unstack_bf16(const bf16* __restrict__ stacked, bf16* __restrict__ w0,
                                             bf16* __restrict__ w1, bf16* __restrict__ w2, bf16* __restrict__ w3,
                                             AsppParams p, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, chunks = p.c / PACK<bf16>;
  if (i >= count) return;
  int j = i / chunks, c = (i - j * chunks) * PACK<bf16>;
  Column column(p, j);
  bf16* to = choose(column.branch, w0, w1, w2, w3) + column.in_filter(p) + c;
  store_pack(to, load_pack<PACK<bf16>>(stacked + j * p.c + c));
}
KERNEL_EXPORT(aspp_unstack_bf16)
