// Batch normalisation of images [rows = N*H*W, channels], with a fused residual and ReLU (src/ops/batch_norm):
//   y = relu( (x - mean) * scale / sqrt(variance + epsilon) + shift + residual )
// Vectors over the channels are of type Acc<T>; images of type T. Sums are written (=), in an order that depends on the
// shape alone.
//   batch_norm_moments         partial[chunk][2][channels] = mean of a chunk of rows, and squared deviations from it
//   batch_norm_moments_finish  mean, biased and unbiased variance from the chunks
//   batch_norm_forward         y
//   batch_norm_sums            partial[chunk][2][channels] = sum g, sum g (x - mean), where g = dy where the ReLU
//                              passed
//   batch_norm_sums_finish     d shift = sum g, d scale = sum g (x - mean) / sqrt(variance + epsilon)
//   batch_norm_backward        dx and dresidual = g; either may be null
// The ReLU's mask comes from y, or where y is null from x by the expression of the forward pass. x may be null in
// batch_norm_sums (the second sum is then 0) and in batch_norm_backward without dscale and dshift.
// The images come in `groups` of `rows` pixels each, with statistics of their own: x [groups * rows, channels], mean
// and variance [groups, channels], partial [groups][chunk][2][channels]; blockIdx.z is the group. d shift and d scale
// are written for each group, and added up over the groups where the totals are not null.
//
// Launch. moments, sums: blocks of 256 threads, x over groups of W channels and y over rows; grid x covers the channel
// groups, y the chunks of `span` rows. W: 16 bytes of T if the flag VECTOR is set, which needs channels % W == 0; else
// 1.
// finish: grid x covers the channels by TILE; blocks of 256 to MOST_THREADS threads in x, in whole warps. sums_finish
// has one block for all groups, and in y as many slots as take a group each at the same time; the threads in x fix the
// order of the sums, the slots do not.
// forward, backward: blocks of 256; thread t serves channel group t % groups in rows t / groups, + span, + 2 span, ..,
// so its parameters stay in registers and a warp's accesses are contiguous; `span * groups` threads are needed. W: 16
// bytes of Acc<T> with VECTOR. rows * channels of all groups fit an int.
#include "batch_norm_images.cuh"

constexpr int THREADS = 256;
// Rows that a thread holds in registers at one time.
constexpr int HELD = 4;
// Channels of a block of the finish kernels: a sector of 32 bytes of each chunk where sums are f32.
constexpr int TILE = 8;
// Chunks of a thread that are on the way at one time: of four, sm_80 spills registers.
constexpr int TOGETHER = 3;
constexpr int MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / 32, MOST_SLOTS = MOST_THREADS / THREADS;

// Joins the moments of n values to those of `count` others (Chan, Golub, LeVeque 1979).
template <class A>
__device__ __forceinline__ void join(A count, A& mean, A& squares, A n, A other_mean, A other_squares) {
  A share = n / (count + n), delta = other_mean - mean;
  mean += delta * share;
  squares += other_squares + delta * delta * count * share;
}

__device__ __forceinline__ int chunks_of(const BatchNormParams& p) { return (p.rows + p.span - 1) / p.span; }

__device__ __forceinline__ int rows_of(int thread_row, int step, int rows) {
  return thread_row < rows ? (rows - thread_row + step - 1) / step : 0;
}

template <class T, int W>
__device__ __forceinline__ void moments(const T* __restrict__ x, Acc<T>* __restrict__ partial,
                                        const BatchNormParams& p) {
  using A = Acc<T>;
  SHARED(A, shared, [2 * W][THREADS]);
  int thread = block_thread(), step = blockDim.y;
  int group = blockIdx.x * blockDim.x + threadIdx.x;
  int first = blockIdx.y * p.span, rows = min(p.span, p.rows - first);
  A mean[W] = {}, squares[W] = {};
  if (group < p.channels / W) {
    int count = 0;
    const T* column = group_of(x, p) + size_t(first) * p.channels + group * W;
    for (int row = threadIdx.y; row < rows; row += HELD * step) {
      int n = min(HELD, rows_of(row, step, rows));
      Pack<T, W> held[HELD];
#pragma unroll
      for (int i = 0; i < HELD; i++) {
        if (i < n) held[i] = load_pack<W>(column + size_t(row + i * step) * p.channels);
      }
      A part = A(1) / n;
#pragma unroll
      for (int w = 0; w < W; w++) {
        A sum = 0, deviation = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) sum += i < n ? to_acc(held[i].at[w]) : A(0);
        sum *= part;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
          A d = i < n ? to_acc(held[i].at[w]) - sum : A(0);
          deviation += d * d;
        }
        join(A(count), mean[w], squares[w], A(n), sum, deviation);
      }
      count += n;
    }
  }
#pragma unroll
  for (int w = 0; w < W; w++) {
    shared[2 * w][thread] = mean[w];
    shared[2 * w + 1][thread] = squares[w];
  }
  __syncthreads();
  // Now a thread serves one channel, and joins what the block's rows found.
  int lane = thread % blockDim.x, w = thread / blockDim.x, channel = (blockIdx.x * blockDim.x + lane) * W + w;
  if (w >= W || channel >= p.channels) return;
  A total_mean = 0, total_squares = 0;
  int count = 0;
  for (int y = 0; y < step; y++) {
    int n = rows_of(y, step, rows), at = y * blockDim.x + lane;
    if (n > 0) join(A(count), total_mean, total_squares, A(n), shared[2 * w][at], shared[2 * w + 1][at]);
    count += n;
  }
  A* out = partial + (size_t(blockIdx.z) * chunks_of(p) + blockIdx.y) * 2 * p.channels + channel;
  out[0] = total_mean;
  out[p.channels] = total_squares;
}

// What a thread of a finish kernel serves: W channels from `channel` on, in the chunks lane, lane + lanes, ..
template <int W>
struct Finish {
  static constexpr int ACROSS = TILE / W;
  int across = threadIdx.x % ACROSS, channel = blockIdx.x * TILE + across * W;
  int lane = threadIdx.x / ACROSS, lanes = blockDim.x / ACROSS;

  // body(chunk, first, second) with what the thread's chunks of `partial` hold.
  template <class A, class Body>
  __device__ __forceinline__ void each_chunk(const A* partial, const BatchNormParams& p, Body body) const {
    int chunks = chunks_of(p);
    if (channel >= p.channels) return;
    for (int chunk = lane; chunk < chunks; chunk += TOGETHER * lanes) {
      Pack<A, W> first[TOGETHER], second[TOGETHER];
      // Beyond the last chunk that one again: loads under a condition would each wait for the one before.
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        const A* in = partial + size_t(min(chunk + i * lanes, chunks - 1)) * 2 * p.channels + channel;
        first[i] = load_pack<W>(in), second[i] = load_pack<W>(in + p.channels);
      }
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        if (chunk + i * lanes < chunks) body(chunk + i * lanes, first[i], second[i]);
      }
    }
  }

  // Adds up over the lanes of each warp, and stores the sums of warp `warp` of the block.
  template <class A>
  __device__ __forceinline__ void sum_warp(A (&value)[W], A (*sums)[TILE], int warp) const {
    Pack<A, W> sum;
#pragma unroll
    for (int w = 0; w < W; w++) {
#pragma unroll
      for (int step = 16; step >= ACROSS; step /= 2) value[w] += __shfl_xor_sync(0xffffffffu, value[w], step);
      sum.at[w] = value[w];
    }
    if (threadIdx.x % 32 < ACROSS) store_pack(sums[warp] + across * W, sum);
  }
  // Adds up over all lanes of the block, for every thread.
  template <class A>
  __device__ __forceinline__ void sum_block(A (&value)[W], A (*sums)[TILE]) const {
    sum_warp(value, sums, threadIdx.x / 32);
    __syncthreads();
#pragma unroll
    for (int w = 0; w < W; w++) value[w] = 0;
#pragma unroll 4
    for (int warp = 0; warp < int(blockDim.x) / 32; warp++) {
      Pack<A, W> sum = load_pack<W>(sums[warp] + across * W);
#pragma unroll
      for (int w = 0; w < W; w++) value[w] += sum.at[w];
    }
  }
};

// Differences from a chunk's mean are added up, not the means: a constant channel has just that mean, and no
// deviations.
template <class A, int W>
__device__ __forceinline__ void moments_finish(const A* __restrict__ partial, A* __restrict__ mean,
                                               A* __restrict__ biased, A* __restrict__ unbiased,
                                               const BatchNormParams& p) {
  SHARED(A, distances, [MOST_WARPS][TILE]);
  SHARED(A, deviations, [MOST_WARPS][TILE]);
  Finish<W> at;
  int chunks = chunks_of(p);
  partial += size_t(blockIdx.z) * chunks * 2 * p.channels;
  Pack<A, W> zero = {}, pivot = {};
  if (at.channel < p.channels) {
    zero = load_pack<W>(partial + at.channel);
    pivot = load_pack<W>(partial + size_t(min(at.lane, chunks - 1)) * 2 * p.channels + at.channel);
  }
  // First the thread's own chunks, about the first of them.
  A count = 0, distance[W] = {}, squares[W] = {};
  at.each_chunk(partial, p, [&](int chunk, const Pack<A, W>& means, const Pack<A, W>& deviations) {
    A n = min(p.span, p.rows - chunk * p.span);
    count += n;
#pragma unroll
    for (int w = 0; w < W; w++) {
      A d = means.at[w] - pivot.at[w];
      distance[w] += n * d;
      squares[w] += deviations.at[w] + n * d * d;
    }
  });
  // Then all threads' means, about that of chunk 0.
  A own[W], part = count > 0 ? A(1) / count : A(0);
#pragma unroll
  for (int w = 0; w < W; w++) {
    A to_own = distance[w] * part;
    squares[w] -= distance[w] * to_own;
    own[w] = pivot.at[w] - zero.at[w] + to_own;
    distance[w] = count * own[w];
  }
  at.sum_block(distance, distances);
  part = A(1) / p.rows;
  Pack<A, W> all;
#pragma unroll
  for (int w = 0; w < W; w++) {
    A to_mean = distance[w] * part, d = own[w] - to_mean;
    squares[w] += count * d * d;
    all.at[w] = zero.at[w] + to_mean;
  }
  at.sum_block(squares, deviations);
  if (at.lane != 0 || at.channel >= p.channels) return;
  Pack<A, W> by_rows, by_fewer;
  A fewer = A(1) / (p.rows - 1);
#pragma unroll
  for (int w = 0; w < W; w++) by_rows.at[w] = squares[w] * part, by_fewer.at[w] = squares[w] * fewer;
  store_pack(channels_of(mean, p) + at.channel, all);
  store_pack(channels_of(biased, p) + at.channel, by_rows);
  store_pack(channels_of(unbiased, p) + at.channel, by_fewer);
}

template <class T, int W>
__device__ __forceinline__ void sums(const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ dy,
                                     const Acc<T>* __restrict__ mean, const Acc<T>* __restrict__ variance,
                                     const Acc<T>* __restrict__ scale, const Acc<T>* __restrict__ shift,
                                     Acc<T>* __restrict__ partial, const BatchNormParams& p) {
  using A = Acc<T>;
  SHARED(A, shared, [2 * W][THREADS]);
  int thread = block_thread(), step = blockDim.y;
  int group = blockIdx.x * blockDim.x + threadIdx.x;
  int first = blockIdx.y * p.span, rows = min(p.span, p.rows - first);
  x = group_of(x, p), y = group_of(y, p), dy = group_of(dy, p);
  mean = channels_of(mean, p), variance = channels_of(variance, p);
  A plain[W] = {}, weighted[W] = {};
  if (group < p.channels / W) {
    A centre[W], slope[W], offset[W];
#pragma unroll
    for (int w = 0; w < W; w++) {
      Channel<A> c(mean, variance, scale, shift, group * W + w, A(p.epsilon));
      centre[w] = c.mean, slope[w] = c.slope, offset[w] = c.shift;
    }
    for (int row = threadIdx.y; row < rows; row += step) {
      size_t at = size_t(first + row) * p.channels + group * W;
      Pack<T, W> gradient = load_pack<W>(dy + at), in = {}, out = {};
      if (x) in = load_pack<W>(x + at);
      if (y) out = load_pack<W>(y + at);
#pragma unroll
      for (int w = 0; w < W; w++) {
        A centred = to_acc(in.at[w]) - centre[w];
        A z = y ? to_acc(out.at[w]) : fma(centred, slope[w], offset[w]);
        A g = !(p.flags & RELU) || z > 0 ? to_acc(gradient.at[w]) : A(0);
        plain[w] += g;
        if (x) weighted[w] += g * centred;
      }
    }
  }
#pragma unroll
  for (int w = 0; w < W; w++) {
    shared[2 * w][thread] = plain[w];
    shared[2 * w + 1][thread] = weighted[w];
  }
  __syncthreads();
  int lane = thread % blockDim.x, w = thread / blockDim.x, channel = (blockIdx.x * blockDim.x + lane) * W + w;
  if (w >= W || channel >= p.channels) return;
  A total_plain = 0, total_weighted = 0;
  for (int i = 0; i < step; i++) {
    total_plain += shared[2 * w][i * blockDim.x + lane];
    total_weighted += shared[2 * w + 1][i * blockDim.x + lane];
  }
  A* out = partial + (size_t(blockIdx.z) * chunks_of(p) + blockIdx.y) * 2 * p.channels + channel;
  out[0] = total_plain;
  out[p.channels] = total_weighted;
}

template <class A, int W>
__device__ __forceinline__ void sums_finish(const A* __restrict__ partial, const A* __restrict__ variance,
                                            A* __restrict__ dscale, A* __restrict__ dshift, A* __restrict__ total_scale,
                                            A* __restrict__ total_shift, const BatchNormParams& p) {
  SHARED(A, sums, [2][MOST_WARPS][TILE]);
  SHARED(A, inverses, [MOST_SLOTS][TILE]);
  Finish<W> at;
  int slots = blockDim.y, slot = threadIdx.y, warps = blockDim.x / 32, warp = slot * warps + threadIdx.x / 32;
  // What a thread ends up with, if it is one of the first 2 * TILE: the first or the second sum of one channel.
  int which = threadIdx.x / TILE, lane = threadIdx.x % TILE, channel = blockIdx.x * TILE + lane;
  bool ends = which < 2 && channel < p.channels;
  A* out = which == 0 ? dshift : dscale;
  A* total_out = which == 0 ? total_shift : total_scale;
  A total = 0;
  for (int first = 0; first < p.groups; first += slots) {
    int group = first + slot;
    A plain[W] = {}, weighted[W] = {}, inverse = 0;
    if (group < p.groups) {
      // Loaded here, so that nobody waits for it later.
      if (ends) inverse = A(1) / sqrt(variance[group * p.channels + channel] + A(p.epsilon));
      const A* chunks = partial + size_t(group) * chunks_of(p) * 2 * p.channels;
      at.each_chunk(chunks, p, [&](int, const Pack<A, W>& a, const Pack<A, W>& b) {
#pragma unroll
        for (int w = 0; w < W; w++) plain[w] += a.at[w], weighted[w] += b.at[w];
      });
    }
    // The sums of the groups before have been read.
    if (first > 0) __syncthreads();
    at.sum_warp(plain, sums[0], warp);
    at.sum_warp(weighted, sums[1], warp);
    if (which == 0) inverses[slot][lane] = inverse;
    __syncthreads();
    if (slot > 0 || !ends) continue;
    for (int i = 0; i < slots && first + i < p.groups; i++) {
      A sum = 0;
#pragma unroll 4
      for (int j = 0; j < warps; j++) sum += sums[which][i * warps + j][lane];
      if (which == 1) sum *= inverses[i][lane];
      out[(first + i) * p.channels + channel] = sum;
      total += sum;
    }
  }
  if (slot == 0 && ends && total_out) total_out[channel] = total;
}

#define DISPATCH(T, call, ...)                             \
  if (p.flags & VECTOR) {                                  \
    call<T, 16 / int(sizeof(T))>(__VA_ARGS__);             \
  } else {                                                 \
    call<T, 1>(__VA_ARGS__);                               \
  }

#define DISPATCH_IMAGES(T, call, ...)                      \
  if (p.flags & VECTOR) {                                  \
    call<T, PACK<Acc<T>>>(__VA_ARGS__);                    \
  } else {                                                 \
    call<T, 1>(__VA_ARGS__);                               \
  }

#define BATCH_NORM(T, suffix)                                                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
      batch_norm_moments_##suffix(const T* x, Acc<T>* partial, BatchNormParams p) {                                 \
    DISPATCH(T, moments, x, partial, p)                                                                             \
  }                                                                                                                 \
  KERNEL_EXPORT(batch_norm_moments_##suffix)                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                          \
      batch_norm_forward_##suffix(const T* x, const T* residual, const Acc<T>* mean, const Acc<T>* variance,        \
                                  const Acc<T>* scale, const Acc<T>* shift, T* y, BatchNormParams p) {              \
    DISPATCH_IMAGES(T, forward, x, residual, mean, variance, scale, shift, y, p)                                    \
  }                                                                                                                 \
  KERNEL_EXPORT(batch_norm_forward_##suffix)                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                             \
      batch_norm_sums_##suffix(const T* x, const T* y, const T* dy, const Acc<T>* mean, const Acc<T>* variance,     \
                               const Acc<T>* scale, const Acc<T>* shift, Acc<T>* partial, BatchNormParams p) {      \
    DISPATCH(T, sums, x, y, dy, mean, variance, scale, shift, partial, p)                                           \
  }                                                                                                                 \
  KERNEL_EXPORT(batch_norm_sums_##suffix)                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                          \
      batch_norm_backward_##suffix(const T* x, const T* y, const T* dy, const Acc<T>* mean, const Acc<T>* variance, \
                                   const Acc<T>* scale, const Acc<T>* shift, const Acc<T>* dscale,                  \
                                   const Acc<T>* dshift, T* dx, T* dresidual, BatchNormParams p) {                  \
    Gradients<T> of = {x, y, dy, mean, variance, scale, shift, dscale, dshift, dx, dresidual};                      \
    DISPATCH_IMAGES(T, backward, of, p)                                                                             \
  }                                                                                                                 \
  KERNEL_EXPORT(batch_norm_backward_##suffix)
FOR_FLOATS(BATCH_NORM)

#define FINISH(A, suffix)                                                                                             \
  extern "C" __global__ void __launch_bounds__(MOST_THREADS)                                                          \
      batch_norm_moments_finish_##suffix(const A* partial, A* mean, A* biased, A* unbiased, BatchNormParams p) {      \
    DISPATCH(A, moments_finish, partial, mean, biased, unbiased, p)                                                   \
  }                                                                                                                   \
  KERNEL_EXPORT(batch_norm_moments_finish_##suffix)                                                                   \
  extern "C" __global__ void __launch_bounds__(MOST_THREADS)                                                          \
      batch_norm_sums_finish_##suffix(const A* partial, const A* variance, A* dscale, A* dshift, A* total_scale,      \
                                      A* total_shift, BatchNormParams p) {                                            \
    DISPATCH(A, sums_finish, partial, variance, dscale, dshift, total_scale, total_shift, p)                          \
  }                                                                                                                   \
  KERNEL_EXPORT(batch_norm_sums_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)
