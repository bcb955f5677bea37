// The epilogue of conv_wgmma.cuh: a warpgroup stores its tile 64 x 64 results at a time, fused with what the epilogues
// of conv2d_mma.cu do. A thread works on its own fragments (hopper.cuh), in words of two neighbours; the matching words
// of other images lie in shared memory (conv_wgmma_epilogue_loads.cuh). Sums over rows are products on tensor cores.
#pragma once
#include "conv_wgmma_fixup.cuh"

// Column statistics of a stored 64 x 64 block that a thread holds: three values of each of two columns.
using ColumnValues = float[3][2];
// A thread's words of 64 x 64 results, rounded: neighbours in a row, of columns 8 j + .. and 8 rows further on.
using RoundedWords = uint32_t[8][2];

// Sums that are stored as they are.
struct Unprepared {
  __device__ __forceinline__ void operator()(const ResultPlace&, WgmmaChunk&) const {}
};

// Calls store(place, words, values, before) for each 64 x 64 block of a warpgroup's tile that has rows of its layer and
// some of `count` columns. store() calls before(), and that calls finish(place, values) for the block before; the last
// block's is called at the end. A tile of the tail is stored by the unit that does its fixup, or (LATER) by another
// launch. `fixups` counts calls of fixup(). prepare(place, sums) changes the f32 sums, where `prepares`.
//
// Registers cannot be indexed at run time, so the loop over blocks copies each block to the same registers: unrolled
// code takes longer to fetch than to execute. The sums are rounded before, which halves their registers.
//
// The fence before a bulk store also waits for this thread's writes to global memory. So the statistics of a block are
// written after the fence of the next block, and have arrived by the fence after that.
template <class Tile, bool LATER, class Slots, class Prepare, class Store, class Finish>
__device__ __forceinline__ void each_block(Slots& slots, const TileScheduler& scheduler, const WorkTile& tile,
                                           int& fixups, typename Tile::Sums& sums, int count, bool prepares,
                                           Prepare prepare, Store store, Finish finish) {
  constexpr int COUNT = Tile::BLOCKS * Tile::CHUNKS;
  TileBlocks<Tile> blocks{tile, consumer(), scheduler.group, count};
  unsigned some = blocks.some();
  // Calls each(of the k-th block).
  auto with = [&](auto& all, int k, auto each) {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      if (i == k) each(all[i / Tile::CHUNKS][i % Tile::CHUNKS]);
  };
  // Also where one unit has all K tiles.
  bool later = LATER && tile.sk_tile >= 0;
  if (tile.peers > 1 || later) {
    // Blocks that the workspace holds for a warpgroup.
    int all = tile.strip < 0 ? COUNT : Tile::BLOCKS;
#pragma unroll 1
    for (int k = 0; k < COUNT; k++) {
      if (!(some >> k & 1)) continue;
      WgmmaChunk own;
      with(sums, k, [&](WgmmaChunk& block) {
#pragma unroll
        for (int j = 0; j < 32; j++) own[0][j / 4][j % 4] = block[0][j / 4][j % 4];
      });
      ResultPlace at = blocks.place(k);
      int number = tile.strip < 0 ? k : k / Tile::CHUNKS;
      if (later) {
        int partial = first_peer(scheduler, tile.sk_tile) + tile.peer;
        int block = PartialBlock::of<Tile>(number, all)(partial, cluster_size(), Tile::PINGPONG ? 1 : CONSUMERS);
        store_partial_sums(partial_sums(scheduler.workspace, block, ResultTile::thread()), at.rows, own);
        continue;
      }
      if (!fixup<Tile>(slots.scratch(), scheduler, tile, fixups++, number, all, at.rows, own)) {
        some &= ~(1u << k);
        continue;
      }
      with(sums, k, [&](WgmmaChunk& block) {
#pragma unroll
        for (int j = 0; j < 32; j++) block[0][j / 4][j % 4] = own[0][j / 4][j % 4];
      });
    }
    if (later) return;
    slots.send(some);
  }
  if (prepares) {
#pragma unroll
    for (int k = 0; k < COUNT; k++)
      if (some >> k & 1) prepare(blocks.place(k), sums[k / Tile::CHUNKS][k % Tile::CHUNKS]);
  }
  RoundedWords rounded[Tile::BLOCKS][Tile::CHUNKS];
#pragma unroll
  for (int k = 0; k < COUNT; k++)
#pragma unroll
    for (int j = 0; j < 16; j++) {
      const float (&four)[4] = sums[k / Tile::CHUNKS][k % Tile::CHUNKS][0][j / 2];
      rounded[k / Tile::CHUNKS][k % Tile::CHUNKS][j / 2][j % 2] = pair_of(four[j % 2 * 2], four[j % 2 * 2 + 1]);
    }
  ColumnValues values;
  int last = -1;
  auto before = [&] {
    if (last >= 0) finish(blocks.place(last), values);
  };
#pragma unroll 1
  for (int k = 0; k < COUNT; k++) {
    if (!(some >> k & 1)) continue;
    RoundedWords own;
    with(rounded, k, [&](const RoundedWords& block) {
#pragma unroll
      for (int j = 0; j < 16; j++) own[j / 2][j % 2] = block[j / 2][j % 2];
    });
    store(blocks.place(k), own, values, before);
    last = k;
  }
  before();
  slots.leave();
}

// Where they lie in a slot.
struct ThreadWords {
  char* slot;
  unsigned at;

  __device__ __forceinline__ explicit ThreadWords(char* slot) : slot(slot) {
    unsigned thread = thread_read_anew() % WARPGROUP, lane = thread % 32;
    at = (thread / 32 * 16 + lane / 4) * LINE_BYTES + lane / 4 * 16 + lane % 4 * 4;
  }
  __device__ __forceinline__ uint32_t* operator()(int j, int down) const {
    return reinterpret_cast<uint32_t*>(slot + (at ^ unsigned(j) << 4) + down * ATOM_BYTES);
  }
};

// A thread's words of a block, of which all are on their way before the first is used.
struct BlockWords {
  uint32_t at[8][2];
  __device__ __forceinline__ explicit BlockWords(char* slot) {
    ThreadWords word(slot);
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int down = 0; down < 2; down++) at[j][down] = load_shared(word(j, down));
  }
};

// Stores change(j, down, word) of each word in `slot`; rows from `rows` on are 0, so that sums leave them out.
template <class Change>
__device__ __forceinline__ void stage_block(char* slot, int rows, const RoundedWords& words, Change change) {
  ThreadWords word(slot);
  int row = static_cast<int>(word.at / LINE_BYTES);
  uint32_t keep[2] = {row < rows ? ~0u : 0, row + 8 < rows ? ~0u : 0};
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int down = 0; down < 2; down++) store_shared(word(j, down), change(j, down, words[j][down]) & keep[down]);
}

// A warp's 16 columns of a block in shared memory, turned, as mma takes the first factor: what a lane holds is of the
// columns column(0) and column(1).
struct WarpColumns {
  uint32_t rows[4][4];

  __device__ __forceinline__ explicit WarpColumns(const char* block) {
    unsigned thread = thread_read_anew() % WARPGROUP, lane = thread % 32, chunk = thread / 32 * 2 + lane / 8 % 2;
#pragma unroll
    for (int step = 0; step < 4; step++)
      ldmatrix_x4_trans(rows[step], block + place<LINE_BYTES, false>(step * 16 + lane / 16 * 8 + lane % 8, chunk));
  }
  __device__ __forceinline__ static int column(int which) {
    unsigned thread = thread_read_anew() % WARPGROUP;
    return thread / 32 * 16 + thread % 32 / 4 + which * 8;
  }
  // The sums of both columns, for each of their lanes: products by ones on tensor cores, exact and added up in f32.
  __device__ __forceinline__ void sum(float (&sums)[2]) const {
    constexpr uint32_t ONES = 0x3f803f80;
    const uint32_t ones[1][2] = {{ONES, ONES}};
    float all[1][4] = {};
#pragma unroll
    for (int step = 0; step < 4; step++) mma_bf16<1>(all, rows[step], ones);
    sums[0] = all[0][0], sums[1] = all[0][2];
  }
  // The same of the products with another block's columns: all with all, of which lanes that are diagonal() have what
  // is asked for.
  __device__ __forceinline__ void multiply(const WarpColumns& by, float (&sums)[2]) const {
    float all[2][4] = {};
#pragma unroll
    for (int step = 0; step < 4; step++) {
      const uint32_t (&y)[4] = by.rows[step];
      const uint32_t columns[2][2] = {{y[0], y[2]}, {y[1], y[3]}};
      mma_bf16<2>(all, rows[step], columns);
    }
    bool odd = thread_read_anew() % 8 / 4;
    sums[0] = odd ? all[0][1] : all[0][0], sums[1] = odd ? all[1][3] : all[1][2];
  }
  __device__ __forceinline__ static bool diagonal() {
    unsigned thread = thread_read_anew();
    return thread % 4 == thread % 32 / 8;
  }
};

// Mean and squared deviations of the columns of a block, as conv_moments.cuh has them, for a piece of `rows` rows,
// below which all is 0.
__device__ __forceinline__ void piece_moments(const char* block, int rows, ColumnValues& moments) {
  WarpColumns values(block);
  float (&mean)[2] = moments[0], squares[2] = {};
  values.sum(mean);
  auto add = [&](auto counts) {
    unsigned thread = thread_read_anew();
#pragma unroll
    for (int step = 0; step < 4; step++)
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          uint32_t pair = values.rows[step][i];
          float d = (e ? second_of(pair) : first_of(pair)) - mean[i % 2];
          if (counts(step * 16 + i / 2 * 8 + thread % 4 * 2 + e)) squares[i % 2] = fma(d, d, squares[i % 2]);
        }
  };
  if (rows >= 64) {
    for (float& sum : mean) sum *= 1.0f / 64;
    add([](int) { return true; });
  } else {
    // Not by its inverse: a constant channel has just that mean.
    for (float& sum : mean) sum /= rows;
    add([&](int row) { return row < rows; });
  }
#pragma unroll
  for (int which = 0; which < 2; which++) {
    squares[which] += __shfl_xor_sync(~0u, squares[which], 1);
    moments[1][which] = squares[which] + __shfl_xor_sync(~0u, squares[which], 2);
  }
}
// Stores them where those of `count` columns lie, from column `start` on.
__device__ __forceinline__ void store_moments(const ColumnValues& moments, float* to, int start, int count) {
#pragma unroll
  for (int which = 0; which < 2; which++) {
    int at = start + WarpColumns::column(which);
    if (thread_read_anew() % 4 == 0 && at < count) to[at] = moments[0][which], to[count + at] = moments[1][which];
  }
}

// A batch norm's vectors for the 64 columns of a block, each worked out by one thread: square roots and divisions by
// all threads would take longer than the products of a short sum.
struct BlockNorms {
  float* at;

  __device__ __forceinline__ explicit BlockNorms(char* scratch) : at(reinterpret_cast<float*>(scratch + 64)) {}
  // Of columns from `start` on.
  __device__ __forceinline__ void make(const NormVectors& v, const NormParams& p, int group, int start,
                                       int count) const {
    int column = ResultTile::thread(), channel = start + column < count ? start + column : 0;
    if (column >= 64) return;
    Channel<float> c = channel_of(v, p, group, count, channel);
    store_shared(at + column, c.mean), store_shared(at + 64 + column, c.slope),
        store_shared(at + 128 + column, c.shift);
  }
  // For all threads, behind make() and in front of pair().
  __device__ __forceinline__ static void ready() { sync<ResultTile>(); }
  // Those of a thread's two columns of 8 j + ..
  struct Pair {
    Pack<float, 2> mean, slope, shift;
    __device__ __forceinline__ float operator()(int e, float x) const {
      return fma(x - mean.at[e], slope.at[e], shift.at[e]);
    }
  };
  __device__ __forceinline__ Pair pair(int j) const {
    auto two = [&](int vector) {
      return load_shared(
          reinterpret_cast<const Pack<float, 2>*>(at + vector * 64 + j * 8 + thread_read_anew() % 4 * 2));
    };
    return {two(0), two(1), two(2)};
  }
};

// relu(norm(z) + more), of words of two neighbours.
__device__ __forceinline__ uint32_t normalized(const BlockNorms::Pair& norm, uint32_t z, const uint32_t* more,
                                               bool relu) {
  float values[2] = {norm(0, first_of(z)), norm(1, second_of(z))};
  if (more) {
    uint32_t residual = load_shared(more);
    values[0] += first_of(residual), values[1] += second_of(residual);
  }
  // NaN passes through.
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (relu && values[e] < 0) values[e] = 0;
  return pair_of(values[0], values[1]);
}
// The sums over a block's rows of the gradient g, and of g x, for columns below `count` from `start` on, whose means
// are read meanwhile.
__device__ __forceinline__ void piece_sums(const char* g, const char* x, const float* means, int start, int count,
                                           ColumnValues& sums) {
#pragma unroll
  for (int which = 0; which < 2; which++) {
    int at = start + WarpColumns::column(which);
    sums[2][which] = __ldg(means + (at < count ? at : 0));
  }
  WarpColumns gradient(g), before(x);
  gradient.sum(sums[0]), gradient.multiply(before, sums[1]);
}
// Stores those of conv_norm_sums.cuh, of g and of g (x - mean), where those of `count` columns lie.
__device__ __forceinline__ void store_sums(const ColumnValues& sums, float* to, int start, int count) {
#pragma unroll
  for (int which = 0; which < 2; which++) {
    int at = start + WarpColumns::column(which);
    if (WarpColumns::diagonal() && at < count)
      to[at] = sums[0][which], to[count + at] = fma(-sums[2][which], sums[0][which], sums[1][which]);
  }
}
