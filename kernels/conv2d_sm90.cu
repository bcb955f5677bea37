// The convolutions of conv2d_mma.cu in bf16 by warpgroups (conv_wgmma.cuh): the same equations, layouts and epilogues,
// all outputs written (=). Channels c and k come in whole chunks of 8; the data gradient is for stride 1.
//
// Tiles: `wide` 128 x 256 and `tall` 256 x 128 are cooperative, `square` 128 x 128 and `narrow` 128 x 64 pingpong.
// Launch: WGMMA_THREADS threads, SHARED_BYTES of dynamic shared memory (conv_wgmma.cuh), at most one block for each
// multiprocessor. `scheduler` covers the product in tiles (tile_scheduler.cuh):
//   forward:         layers are groups of `group` pixels each; rows are pixels of a group, columns filters. `moments`
//                    [layers][ceil(group / 64)][2][k] may be null, and so may the batch norm after: one of them is null
//   data gradient:   layers are groups of `group` pixels of the input; columns are channels. `sums` [layers][ceil(group
//                    / 64)] [2][c] may be null, and then all of the batch norm is
//   weight gradient: one layer; rows are filters, columns blocks of 64 channels of a tap, four to a tile of 256
// Stream-K: `workspace` [sk_units + sk_tiles][cluster][tile or strip] takes partial sums, `semaphores` one counter for
// each 64 x 64 of them, zero before and after. A weight gradient has so many partial sums that the fences of a fixup
// take longer than the products; conv2d_wgmma_weight_gradient_fixup adds them in a launch of its own, in the order of
// the pixels: a block of WARPGROUP threads for each 64 x 8 results in x, tiles of the tail in y.
// Maps, all swizzled (conv_wgmma_mainloop_loads.cuh): of the pixels that are read, of the filter, and of what is
// written: in [layers, group, channels] by 64 pixels x 64 channels, or the filter's.
#include "conv_wgmma_epilogue.cuh"
#include "conv_wgmma_mainloop_loads.cuh"

// A tile's shared memory: more stages, or (Ahead) fewer stages and more slots, for epilogues that load several images
// and for short main loops.
struct Wide {
  using Plain = WgmmaTile<128, 256, false, 4, 2>;
  using Ahead = WgmmaTile<128, 256, false, 3, 5>;
};
struct Tall {
  using Plain = WgmmaTile<256, 128, false, 4, 2>;
  using Ahead = WgmmaTile<256, 128, false, 3, 5>;
};
struct Square {
  using Plain = WgmmaTile<128, 128, true, 6, 2>;
  using Ahead = WgmmaTile<128, 128, true, 4, 6>;
};
struct Narrow {
  using Plain = WgmmaTile<128, 64, true, 8, 2>;
  using Ahead = WgmmaTile<128, 64, true, 5, 6>;
};

// The kernel for one block: store(slots, place, words, values, before) is called for each 64 x 64 results with the
// images `in` (none if BARE), and finish(place, values) for their column statistics.
template <class Tile, int A_MN, int B_MN, bool LATER, bool BARE, class Loads, class Prepare, class Store, class Finish>
__device__ __forceinline__ void run(char* shared, const TileScheduler& scheduler, const Loads& loads, int count,
                                    const BlockInputs& in, bool prepares, Prepare prepare, Store store, Finish finish) {
  Slots<Tile, BARE> slots(shared, max(consumer(), 0));
  int fixups = 0;
  run_tiles<Tile, A_MN, B_MN>(
      shared, scheduler, loads, [&] { Slots<Tile, BARE>::init(shared); },
      [&](const Cluster& cluster, int consumer) {
        if (!BARE) fill_slots<Tile>(shared, cluster, scheduler, consumer, count, in);
      },
      [&](const WorkTile& tile, auto& sums) {
        auto each = [&](const ResultPlace& at, const RoundedWords& words, ColumnValues& values, auto before) {
          store(slots, at, words, values, before);
        };
        each_block<Tile, LATER>(slots, scheduler, tile, fixups, sums, count, prepares, prepare, each, finish);
      });
  slots.drain();
}

// No column statistics.
__device__ __forceinline__ void no_statistics(const ResultPlace&, const ColumnValues&) {}

template <class Tile>
__device__ __forceinline__ void forward(const CUtensorMap* x_map, const CUtensorMap* w_map, const CUtensorMap* y_map,
                                        const ForwardEpilogue<bf16>& epilogue, const ConvProblem& p,
                                        const TileScheduler& scheduler) {
  HOPPER_SMEM(char, shared);
  TapLoads<Tile, false> loads = {window_of_output(x_map, p), w_map, {p.r, p.s}, p.c, scheduler.group};
  BlockInputs in = {};
  float* moments = epilogue.moments;
  auto store = [&](auto& slots, const ResultPlace& at, const RoundedWords& words, ColumnValues& values, auto before) {
    slots.begin(in.slots());
    stage_block(slots.slot(0), at.rows, words, [](int, int, uint32_t y) { return y; });
    slots.store(y_map, at.column, at.row, at.layer);
    before();
    if (moments) piece_moments(slots.slot(0), at.rows, values);
    slots.end(in.slots());
  };
  auto finish = [&](const ResultPlace& at, const ColumnValues& values) {
    if (moments) store_moments(values, moments + at.piece(scheduler.group) * 2 * p.k, at.column, p.k);
  };
  auto add = [&](const ResultPlace& at, WgmmaChunk& sums) {
    if (epilogue.bias) add_bias<bf16, ResultTile>(sums, epilogue.bias, at.column, p.k);
  };
  run<Tile, 0, 0, false, true>(shared, scheduler, loads, p.k, in, epilogue.bias, add, store, finish);
}

// Fused with the batch norm after it, by given statistics.
template <class Tile>
__device__ __forceinline__ void forward_normalized(const CUtensorMap* x_map, const CUtensorMap* w_map,
                                                   const CUtensorMap* y_map, const CUtensorMap* residual,
                                                   const ForwardEpilogue<bf16>& epilogue, const ConvProblem& p,
                                                   const TileScheduler& scheduler) {
  HOPPER_SMEM(char, shared);
  TapLoads<Tile, false> loads = {window_of_output(x_map, p), w_map, {p.r, p.s}, p.c, scheduler.group};
  BlockInputs in = {residual, nullptr, nullptr};
  auto store = [&](auto& slots, const ResultPlace& at, const RoundedWords& words, ColumnValues&, auto before) {
    BlockNorms norms(slots.scratch());
    norms.make(epilogue.vectors, epilogue.norm, 0, at.column, p.k);
    slots.begin(in.slots());
    norms.ready();
    ThreadWords more(slots.slot(0));
    stage_block(more.slot, at.rows, words, [&](int j, int down, uint32_t z) {
      return normalized(norms.pair(j), z, in.add ? more(j, down) : nullptr, epilogue.norm.relu != 0);
    });
    slots.store(y_map, at.column, at.row, at.layer);
    slots.end(in.slots());
  };
  auto add = [&](const ResultPlace& at, WgmmaChunk& sums) {
    if (epilogue.bias) add_bias<bf16, ResultTile>(sums, epilogue.bias, at.column, p.k);
  };
  run<Tile, 0, 0, false, false>(shared, scheduler, loads, p.k, in, epilogue.bias, add, store, no_statistics);
}

// Without an epilogue.
template <class Tile>
__device__ __forceinline__ void data_gradient(const CUtensorMap* dy_map, const CUtensorMap* w_map,
                                              const CUtensorMap* dx_map, const ConvProblem& p,
                                              const TileScheduler& scheduler) {
  HOPPER_SMEM(char, shared);
  TapLoads<Tile, true> loads = {window_of_input(dy_map, p), w_map, {p.r, p.s}, p.k, scheduler.group};
  BlockInputs in = {};
  auto store = [&](auto& slots, const ResultPlace& at, const RoundedWords& words, ColumnValues&, auto before) {
    slots.begin(in.slots());
    stage_block(slots.slot(0), at.rows, words, [](int, int, uint32_t g) { return g; });
    slots.store(dx_map, at.column, at.row, at.layer);
    slots.end(in.slots());
  };
  run<Tile, 0, 1, false, true>(shared, scheduler, loads, p.c, in, false, Unprepared(), store, no_statistics);
}

// Accumulated, masked by a ReLU, scaled by the statistics of the batch norm before.
template <class Tile>
__device__ __forceinline__ void data_gradient_changed(const CUtensorMap* dy_map, const CUtensorMap* w_map,
                                                      const CUtensorMap* dx_map, const BlockInputs& in,
                                                      const DataGradientEpilogue<bf16>& epilogue, const ConvProblem& p,
                                                      const TileScheduler& scheduler) {
  HOPPER_SMEM(char, shared);
  TapLoads<Tile, true> loads = {window_of_input(dy_map, p), w_map, {p.r, p.s}, p.k, scheduler.group};
  bool scaled = epilogue.vectors.mean && epilogue.norm.scaled;
  auto store = [&](auto& slots, const ResultPlace& at, const RoundedWords& words, ColumnValues&, auto before) {
    BlockNorms norms(slots.scratch());
    if (scaled) norms.make(epilogue.vectors, epilogue.norm, at.layer, at.column, p.c);
    slots.begin(in.slots());
    ThreadWords more(slots.slot(0)), y(slots.slot(in.mask_at()));
    if (scaled) norms.ready();
    stage_block(more.slot, at.rows, words, [&](int j, int down, uint32_t g) {
      if (in.add) g = add_pairs(g, load_shared(more(j, down)));
      if (in.mask) g &= above_zero(load_shared(y(j, down)));
      if (!scaled) return g;
      BlockNorms::Pair pair = norms.pair(j);
      return pair_of(first_of(g) * pair.slope.at[0], second_of(g) * pair.slope.at[1]);
    });
    slots.store(dx_map, at.column, at.row, at.layer);
    slots.end(in.slots());
  };
  run<Tile, 0, 1, false, false>(shared, scheduler, loads, p.c, in, false, Unprepared(), store, no_statistics);
}

// With the sums that the backward pass of the batch norm before needs.
template <class Tile>
__device__ __forceinline__ void data_gradient_with_sums(const CUtensorMap* dy_map, const CUtensorMap* w_map,
                                                        const CUtensorMap* dx_map, const BlockInputs& in,
                                                        const DataGradientEpilogue<bf16>& epilogue,
                                                        const ConvProblem& p, const TileScheduler& scheduler) {
  HOPPER_SMEM(char, shared);
  TapLoads<Tile, true> loads = {window_of_input(dy_map, p), w_map, {p.r, p.s}, p.k, scheduler.group};
  auto store = [&](auto& slots, const ResultPlace& at, const RoundedWords& words, ColumnValues& values, auto before) {
    slots.begin(in.slots());
    char *to = slots.slot(0), *mask = slots.slot(in.mask_at());
    // Without a branch in the inner loop.
    if (in.add && in.mask) {
      BlockWords more(to), y(mask);
      stage_block(to, at.rows, words, [&](int j, int down, uint32_t g) {
        return add_pairs(g, more.at[j][down]) & above_zero(y.at[j][down]);
      });
    } else if (in.add) {
      BlockWords more(to);
      stage_block(to, at.rows, words, [&](int j, int down, uint32_t g) { return add_pairs(g, more.at[j][down]); });
    } else if (in.mask) {
      BlockWords y(mask);
      stage_block(to, at.rows, words, [&](int j, int down, uint32_t g) { return g & above_zero(y.at[j][down]); });
    } else {
      stage_block(to, at.rows, words, [](int, int, uint32_t g) { return g; });
    }
    slots.store(dx_map, at.column, at.row, at.layer);
    before();
    piece_sums(to, slots.slot(in.x_at()), epilogue.vectors.mean + at.layer * p.c, at.column, p.c, values);
    slots.end(in.slots());
  };
  auto finish = [&](const ResultPlace& at, const ColumnValues& values) {
    store_sums(values, epilogue.sums + at.piece(scheduler.group) * 2 * p.c, at.column, p.c);
  };
  run<Tile, 0, 1, false, false>(shared, scheduler, loads, p.c, in, false, Unprepared(), store, finish);
}

template <class Tile>
__device__ __forceinline__ void weight_gradient(const CUtensorMap* dy_map, const CUtensorMap* x_map,
                                                const CUtensorMap* dw_map, const ConvProblem& p,
                                                const TileScheduler& scheduler) {
  HOPPER_SMEM(char, shared);
  PixelLoads<Tile> loads = {window_of_output(x_map, p), dy_map, p};
  BlockInputs in = {};
  int columns = p.taps() * ((p.c + 63) / 64) * 64;
  auto store = [&](auto& slots, const ResultPlace& at, const RoundedWords& words, ColumnValues&, auto before) {
    slots.begin(in.slots());
    stage_block(slots.slot(0), 64, words, [](int, int, uint32_t dw) { return dw; });
    TapBlock block = tap_block(p, at.column / 64);
    slots.store(dw_map, block.channel, block.row * p.s + block.column, at.row);
    slots.end(in.slots());
  };
  run<Tile, 1, 1, true, true>(shared, scheduler, loads, columns, in, false, Unprepared(), store, no_statistics);
}

// The tile whose partial sums a fixup adds.
struct FixupTile {
  int bm, bn, pingpong, cluster;
};
static_assert(sizeof(FixupTile) == 16, "src/ops/conv2d/cuda/wgmma.rs declares the same");

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    conv2d_wgmma_weight_gradient_fixup_bf16(bf16* __restrict__ dw, ConvProblem p, TileScheduler scheduler,
                                            FixupTile tile) {
  int groups = tile.pingpong ? 1 : CONSUMERS, rows = tile.bm / groups, across = scheduler.strips > 1 ? 1 : tile.bn / 64;
  int count = rows / 64 * across, j = blockIdx.x % 8, at = blockIdx.x / 8, sk_tile = blockIdx.y, thread = threadIdx.x;
  PartialBlock place = {at / count / groups, at / count % groups, at % count, count};

  int number = scheduler.dp_tiles + sk_tile / scheduler.strips, line = number / scheduler.tiles_n;
  int row = (line * tile.cluster + place.rank) * tile.bm + place.group * rows + place.block / across * 64;
  int block = scheduler.strips > 1 ? sk_tile % scheduler.strips : place.block % across;
  block += (number - line * scheduler.tiles_n) * (tile.bn / 64);
  if (block >= p.taps() * ((p.c + 63) / 64)) return;
  TapBlock tap = tap_block(p, block);
  row += thread / 32 * 16 + thread % 32 / 4;
  int channel = tap.channel + j * 8 + thread % 4 * 2;
  // Channels come in whole chunks.
  if (row >= p.k || channel >= p.c) return;

  int first = first_peer(scheduler, sk_tile), k_tiles = scheduler.k_tiles, each = scheduler.k_tiles_per_unit;
  int peers = ((sk_tile + 1) * k_tiles - 1) / each - sk_tile * k_tiles / each + 1;
  float4 sum = {};
#pragma unroll 4
  for (int peer = 0; peer < peers; peer++) {
    float4 more = partial_sums(scheduler.workspace, place(first + peer, tile.cluster, groups), thread)[j * WARPGROUP];
    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
  }
  uint32_t* to =
      reinterpret_cast<uint32_t*>(dw + (size_t(row) * p.taps() + tap.row * p.s + tap.column) * p.c + channel);
  *to = pair_of(sum.x, sum.y);
  // The lower pair lies eight rows on.
  if (row + 8 < p.k) to[size_t(8) * p.taps() * p.c / 2] = pair_of(sum.z, sum.w);
}
KERNEL_EXPORT(conv2d_wgmma_weight_gradient_fixup_bf16)

// Main loops of so few K tiles take less time than their epilogue.
constexpr int SHORT = 16;

// clang-format off
#define CONV(name, Tiles)                                                                                            \
  extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) conv2d_wgmma_forward_##name##_bf16(                 \
      const GRID_CONSTANT CUtensorMap x, const GRID_CONSTANT CUtensorMap w, const GRID_CONSTANT CUtensorMap y,       \
      const GRID_CONSTANT CUtensorMap residual, ForwardEpilogue<bf16> epilogue, ConvProblem p,                       \
      TileScheduler scheduler) {                                                                                     \
    if (epilogue.vectors.mean)                                                                                       \
      forward_normalized<Tiles::Plain>(&x, &w, &y, epilogue.residual ? &residual : nullptr, epilogue, p, scheduler); \
    else if (scheduler.k_tiles <= SHORT)                                                                             \
      forward<Tiles::Ahead>(&x, &w, &y, epilogue, p, scheduler);                                                     \
    else                                                                                                             \
      forward<Tiles::Plain>(&x, &w, &y, epilogue, p, scheduler);                                                     \
  }                                                                                                                  \
  KERNEL_EXPORT(conv2d_wgmma_forward_##name##_bf16)                                                                  \
  extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) conv2d_wgmma_data_gradient_##name##_bf16(           \
      const GRID_CONSTANT CUtensorMap dy, const GRID_CONSTANT CUtensorMap w, const GRID_CONSTANT CUtensorMap dx,     \
      const GRID_CONSTANT CUtensorMap accumulate, const GRID_CONSTANT CUtensorMap x,                                 \
      const GRID_CONSTANT CUtensorMap y, DataGradientEpilogue<bf16> epilogue, ConvProblem p,                         \
      TileScheduler scheduler) {                                                                                     \
    BlockInputs in = {epilogue.accumulate ? &accumulate : nullptr, epilogue.y ? &y : nullptr,                        \
                      epilogue.x ? &x : nullptr};                                                                    \
    if (in.x)                                                                                                        \
      data_gradient_with_sums<Tiles::Ahead>(&dy, &w, &dx, in, epilogue, p, scheduler);                               \
    else if (epilogue.vectors.mean || in.in_place())                                                                 \
      data_gradient_changed<Tiles::Plain>(&dy, &w, &dx, in, epilogue, p, scheduler);                                 \
    else if (scheduler.k_tiles <= SHORT)                                                                             \
      data_gradient<Tiles::Ahead>(&dy, &w, &dx, p, scheduler);                                                       \
    else                                                                                                             \
      data_gradient<Tiles::Plain>(&dy, &w, &dx, p, scheduler);                                                       \
  }                                                                                                                  \
  KERNEL_EXPORT(conv2d_wgmma_data_gradient_##name##_bf16)                                                            \
  extern "C" __global__ void __launch_bounds__(WGMMA_THREADS, 1) conv2d_wgmma_weight_gradient_##name##_bf16(         \
      const GRID_CONSTANT CUtensorMap dy, const GRID_CONSTANT CUtensorMap x, const GRID_CONSTANT CUtensorMap dw,     \
      ConvProblem p, TileScheduler scheduler) {                                                                      \
    weight_gradient<Tiles::Plain>(&dy, &x, &dw, p, scheduler);                                                       \
  }                                                                                                                  \
  KERNEL_EXPORT(conv2d_wgmma_weight_gradient_##name##_bf16)
CONV(wide, Wide)
CONV(tall, Tall)
CONV(square, Square)
CONV(narrow, Narrow)
// clang-format on
