// The convolutions of conv2d_mma.cu in bf16 by warpgroups (conv_wgmma.cuh): the same equations, layouts and results, all outputs
// written (=). Channels c and k come in whole chunks of 8; the data gradient is for stride 1.
//
// The tile is `wide` 128 x 256 or `tall` 256 x 128, of both warpgroups together, or `square` 128 x 128 or `narrow` 128 x 64, of
// each. Launch: WGMMA_THREADS threads, SHARED_BYTES of dynamic shared memory (conv_wgmma.cuh), at most one block for each
// multiprocessor. `work` covers the product in tiles (conv_work.cuh):
//   forward:         layers are groups of `group` pixels each; rows are pixels of a group, columns filters. `moments`
//                    [layers][ceil(group / 64)][2][k] may be null, and so may the batch norm after: one of them is
//   data gradient:   layers are groups of `group` pixels of the input; columns are channels. `sums` [layers][ceil(group / 64)]
//                    [2][c] may be null, and then all of the batch norm is
//   weight gradient: one layer; rows are filters, columns blocks of 64 channels of a tap, four to a tile of 256
// Of cut tiles, `partial` [segments + units][cluster][tile or strip] takes the parts' sums, and `arrived`, a counter for each
// 64 x 64 of them, which is zero before and after, who has come. A weight gradient has so many parts that waiting for memory to
// show them to others takes longer than the products: conv2d_wgmma_weight_gradient_join adds them up in a launch of its own, in the
// order of the pixels; a block of WARPGROUP threads for each 64 x 8 results in x, units in y.
// Maps, all swizzled (conv_wgmma_sources.cuh): of the pixels that are read, of the filter, and of what is written: in
// [layers, group, channels] by 64 pixels x 64 channels, or the filter's.
#include "conv_wgmma_results.cuh"
#include "conv_wgmma_sources.cuh"

template <class Tile>
__device__ __forceinline__ void forward(const CUtensorMap* x_map, const CUtensorMap* w_map, const CUtensorMap* y_map, const bf16* bias,
                                        float* moments, const NormAfter<bf16>& norm, const Meeting& meeting, const ConvParams& p,
                                        const Work& work, int group, int plain, const NormParams& n) {
  HOPPER_SMEM(char, shared);
  TapSource<Tile, false> source = {window_of_output(x_map, p, plain), w_map, {p.r, p.s}, p.c, group};
  ResultBuffers buffers = ResultBuffers::of<Tile>(shared);
  int turn = 0, joins = 0;
  auto prepare = [&](const ResultPlace& at, ResultTile::Sums& sums) {
    if (bias) add_bias<bf16, ResultTile>(sums, bias, at.column, p.k);
  };
  auto store = [&](const ResultPlace& at, const WgmmaRounded& rounded) {
    char* results = buffers.next(turn++);
    stage_rounded(results, rounded);
    if (norm.vectors.mean)
      normalize_results<bf16, ResultTile>(
          results, buffers.norms(), norm, n, at.column, p.k, [&](int r) { return at.offset(r, group, p.k); },
          [](int, char* chunk, const Vector<bf16>& y) { store_shared(reinterpret_cast<Vector<bf16>*>(chunk), y); });
    buffers.store<false>(y_map, results, at.column, at.row, at.layer);
    if (moments) store_piece_moments(results, moments + at.piece(group) * 2 * p.k, at.rows, at.column, p.k);
  };
  auto begin = [&](const WorkItem& tile) {
    if (norm.residual) prefetch_tile<Tile>(tile, group, p.k, norm.residual);
  };
  run_tiles<Tile, 0, 0>(shared, work, source, begin, [&](const WorkItem& tile, auto& sums) {
    each_block<Tile, false>(buffers.votes(), meeting, work, tile, joins, sums, group, p.k, bias, prepare, store);
  });
  if (threadIdx.x >= WARPGROUP) buffers.drain();
}

template <class Tile>
__device__ __forceinline__ void data_gradient(const CUtensorMap* dy_map, const CUtensorMap* w_map, const CUtensorMap* dx_map,
                                              const bf16* so_far, const NormBefore<bf16>& norm, const Meeting& meeting,
                                              const ConvParams& p, const Work& work, int group, int plain, const NormParams& n) {
  HOPPER_SMEM(char, shared);
  TapSource<Tile, true> source = {window_of_input(dy_map, p, plain), w_map, {p.r, p.s}, p.k, group};
  ResultBuffers buffers = ResultBuffers::of<Tile>(shared);
  bool changed = so_far || norm.vectors.mean;
  int turn = 0, joins = 0;
  auto store = [&](const ResultPlace& at, const WgmmaRounded& rounded) {
    char *results = buffers.next(turn++), *other = buffers.buffer(turn);
    stage_rounded(results, rounded);
    if (changed)
      finish_gradient<bf16, ResultTile>(
          results, other, buffers.norms(), so_far, norm, n, at.layer, at.piece(group), at.column, p.c,
          [&](int r) { return at.offset(r, group, p.c); },
          [](int, char* chunk, const Vector<bf16>& g) { store_shared(reinterpret_cast<Vector<bf16>*>(chunk), g); },
          [&] { buffers.store<true>(dx_map, results, at.column, at.row, at.layer); });
    else
      buffers.store<false>(dx_map, results, at.column, at.row, at.layer);
  };
  auto begin = [&](const WorkItem& tile) {
    prefetch_tile<Tile>(tile, group, p.c, so_far, norm.x, norm.y);
  };
  run_tiles<Tile, 0, 1>(shared, work, source, begin, [&](const WorkItem& tile, auto& sums) {
    each_block<Tile, false>(buffers.votes(), meeting, work, tile, joins, sums, group, p.c, false, Unprepared{}, store);
  });
  if (threadIdx.x >= WARPGROUP) buffers.drain();
}

template <class Tile>
__device__ __forceinline__ void weight_gradient(const CUtensorMap* dy_map, const CUtensorMap* x_map, const CUtensorMap* dw_map,
                                                const Meeting& meeting, const ConvParams& p, const Work& work, int plain) {
  HOPPER_SMEM(char, shared);
  PixelSource<Tile> source = {window_of_output(x_map, p, plain), dy_map, p};
  ResultBuffers buffers = ResultBuffers::of<Tile>(shared);
  int turn = 0, joins = 0;
  auto store = [&](const ResultPlace& at, const WgmmaRounded& rounded) {
    char* results = buffers.next(turn++);
    stage_rounded(results, rounded);
    TapBlock block = tap_block(p, at.column / 64);
    buffers.store<false>(dw_map, results, block.channel, block.row * p.s + block.column, at.row);
  };
  int columns = p.taps() * ((p.c + 63) / 64) * 64;
  run_tiles<Tile, 1, 1>(shared, work, source, [](const WorkItem&) {}, [&](const WorkItem& tile, auto& sums) {
    each_block<Tile, true>(buffers.votes(), meeting, work, tile, joins, sums, p.k, columns, false, Unprepared{}, store);
  });
  if (threadIdx.x >= WARPGROUP) buffers.drain();
}

// The tile of a weight gradient as its parts were left.
struct JoinShape {
  int bm, bn, own, cluster;
};
static_assert(sizeof(JoinShape) == 16, "src/ops/conv2d/cuda/wgmma.rs declares the same");

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    conv2d_wgmma_weight_gradient_join_bf16(float* __restrict__ partial, bf16* __restrict__ dw, ConvParams p, Work work, JoinShape tile) {
  int groups = tile.own ? 1 : CONSUMERS, rows = tile.bm / groups, across = work.strips > 1 ? 1 : tile.bn / 64;
  int count = rows / 64 * across, j = blockIdx.x % 8, at = blockIdx.x / 8, unit = blockIdx.y, thread = threadIdx.x;
  PartPlace place = {at / count / groups, at / count % groups, at % count, count};

  int number = work.whole + unit / work.strips, line = number / work.columns;
  int row = (line * tile.cluster + place.rank) * tile.bm + place.group * rows + place.block / across * 64;
  int block = (number - line * work.columns) * (tile.bn / 64) + (work.strips > 1 ? unit % work.strips : place.block % across);
  if (block >= p.taps() * ((p.c + 63) / 64)) return;
  TapBlock tap = tap_block(p, block);
  row += thread / 32 * 16 + thread % 32 / 4;
  int channel = tap.channel + j * 8 + thread % 4 * 2;
  // Channels come in whole chunks.
  if (row >= p.k || channel >= p.c) return;

  int first = first_part(work, unit), parts = ((unit + 1) * work.slices - 1) / work.length - unit * work.slices / work.length + 1;
  float4 sum = {};
#pragma unroll 4
  for (int part = 0; part < parts; part++) {
    float4 more = part_fours(partial, place(first + part, tile.cluster, groups), thread)[j * WARPGROUP];
    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
  }
  uint32_t* to = reinterpret_cast<uint32_t*>(dw + (size_t(row) * p.taps() + tap.row * p.s + tap.column) * p.c + channel);
  *to = pair_of(sum.x, sum.y);
  // The lower pair lies eight rows on.
  if (row + 8 < p.k) to[size_t(8) * p.taps() * p.c / 2] = pair_of(sum.z, sum.w);
}
KERNEL_EXPORT(conv2d_wgmma_weight_gradient_join_bf16)

// clang-format off
#define CONV(name, ...)                                                                                            \
  extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) conv2d_wgmma_forward_##name##_bf16(               \
      const GRID_CONSTANT CUtensorMap x, const GRID_CONSTANT CUtensorMap w, const GRID_CONSTANT CUtensorMap y,     \
      const bf16* __restrict__ bias, float* __restrict__ moments, const bf16* __restrict__ residual,               \
      const float* __restrict__ mean, const float* __restrict__ variance, const float* __restrict__ scale,         \
      const float* __restrict__ shift, float* partial, unsigned* arrived, ConvParams p, Work work, int group,      \
      int plain, NormParams n) {                                                                                   \
    NormAfter<bf16> norm = {residual, {mean, variance, scale, shift}};                                             \
    forward<WgmmaTile<__VA_ARGS__>>(&x, &w, &y, bias, moments, norm, {partial, arrived}, p, work, group, plain, n); \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_wgmma_forward_##name##_bf16)                                                                \
  extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) conv2d_wgmma_data_gradient_##name##_bf16(         \
      const GRID_CONSTANT CUtensorMap dy, const GRID_CONSTANT CUtensorMap w, const GRID_CONSTANT CUtensorMap dx,   \
      const bf16* __restrict__ so_far, const bf16* __restrict__ x, const bf16* __restrict__ y,                     \
      const float* __restrict__ mean, const float* __restrict__ variance, const float* __restrict__ scale,         \
      const float* __restrict__ shift, float* __restrict__ sums, float* partial, unsigned* arrived, ConvParams p,  \
      Work work, int group, int plain, NormParams n) {                                                             \
    NormBefore<bf16> norm = {x, y, {mean, variance, scale, shift}, sums};                                          \
    data_gradient<WgmmaTile<__VA_ARGS__>>(&dy, &w, &dx, so_far, norm, {partial, arrived}, p, work, group, plain, n); \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_wgmma_data_gradient_##name##_bf16)                                                          \
  extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) conv2d_wgmma_weight_gradient_##name##_bf16(       \
      const GRID_CONSTANT CUtensorMap dy, const GRID_CONSTANT CUtensorMap x, const GRID_CONSTANT CUtensorMap dw,   \
      float* partial, ConvParams p, Work work, int plain) {                                                        \
    weight_gradient<WgmmaTile<__VA_ARGS__>>(&dy, &x, &dw, {partial, nullptr}, p, work, plain);                     \
  }                                                                                                                \
  KERNEL_EXPORT(conv2d_wgmma_weight_gradient_##name##_bf16)
CONV(wide, 128, 256, false, 4)
CONV(tall, 256, 128, false, 4)
CONV(square, 128, 128, true, 6)
CONV(narrow, 128, 64, true, 8)
// clang-format on
