// How the tiles of conv_wgmma.cuh are stored: 64 x 64 results of a warpgroup at a time, with what the convolutions of
// conv2d_mma.cu do there, and the sums of cut tiles.
#pragma once
#include "conv_norm_sums.cuh"
#include "conv_normalize.cuh"
#include "conv_wgmma.cuh"

// Behind the second tile of results: four votes of warps, twice, and what a batch norm needs of the columns.
constexpr int VOTES_BYTES = 32;

// 64 x 64 results of a warpgroup, a Tile of conv_results.cuh. They lie swizzled as a tensor map takes them.
struct ResultTile : WarpgroupTeam {
  static constexpr int BM = 64, BN = 64, DOWN_16 = 1, ACROSS_8 = 8, RESULT_BYTES = BLOCK_BYTES;
  static constexpr int AHEAD = 2, NORMS_BYTES = ATOM_BYTES - VOTES_BYTES;
  static constexpr bool SHARED_NORMS = true;
  using Sums = WgmmaChunk;

  __device__ static int row() { return thread() / 32 * 16; }
  __device__ static int column() { return 0; }
};

// A warpgroup's shared memory for results: two tiles of them take turns, so that one is copied away while the next one is made.
struct ResultBuffers {
  char* first;

  template <class Tile>
  __device__ __forceinline__ static ResultBuffers of(char* shared) {
    return {shared + Tile::RESULTS_AT + consumer() * RESULTS_BYTES};
  }
  __device__ __forceinline__ char* buffer(int turn) const { return first + turn % 2 * BLOCK_BYTES; }
  __device__ __forceinline__ char* votes() const { return first + 2 * BLOCK_BYTES; }
  __device__ __forceinline__ char* norms() const { return votes() + VOTES_BYTES; }
  // The turn-th results' place. The copy that last read it is done, for who comes behind a barrier.
  __device__ __forceinline__ char* next(int turn) const {
    if (ResultTile::thread() == 0) tma_store_wait_read<1>();
    return buffer(turn);
  }
  // Copies away what all threads have put there. REST: all copies before are done then, for who comes behind the barrier.
  template <bool REST>
  __device__ __forceinline__ static void store(const CUtensorMap* map, const char* results, int column, int row, int layer) {
    if (REST && ResultTile::thread() == 0) tma_store_wait_read<0>();
    proxy_fence();
    sync<ResultTile>();
    if (ResultTile::thread() == 0) {
      tma_store_3d(map, results, column, row, layer);
      tma_store_commit();
    }
  }
  // Before the block ends.
  __device__ __forceinline__ static void drain() {
    if (ResultTile::thread() == 0) tma_store_wait_read<0>();
  }
};

// Mean and squared deviations of the columns of 64 x 64 staged results, as conv_moments.cuh has them, for pieces of 64 rows: of
// `rows` of them, and of columns below `count` from `start` on. A warp has 16 columns, which it reads turned: two chunks of eight,
// a column for four lanes, which have 16 rows each.
__device__ __forceinline__ void store_piece_moments(const char* results, float* moments, int rows, int start, int count) {
  int warp = ResultTile::thread() / 32, lane = ResultTile::thread() % 32;
  float size = min(rows, 64);
  auto counts = [&](int pair, int e) { return pair * 8 + lane % 4 * 2 + e < rows; };
  auto over_rows = [&](const uint32_t(&pairs)[2][4], auto value) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      uint32_t pair = pairs[i / 4][i % 4];
      sum += rows >= 64 || counts(i, 0) ? value(first_of(pair)) : 0.0f;
      sum += rows >= 64 || counts(i, 1) ? value(second_of(pair)) : 0.0f;
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
  };
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int chunk = warp * 2 + half;
    uint32_t pairs[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) ldmatrix_x4_trans(pairs[i], results + place<LINE_BYTES, false>(i * 32 + lane, chunk));
    float mean = over_rows(pairs, [](float x) { return x; }) / size;
    float squares = over_rows(pairs, [&](float x) { return (x - mean) * (x - mean); });
    int at = start + chunk * 8 + lane / 4;
    if (lane % 4 == 0 && rows > 0 && at < count) moments[at] = mean, moments[count + at] = squares;
  }
}

// Where the parts of cut tiles meet: the sums of each part of each of them, and how many threads have left theirs, which is zero
// again after a launch. Without `arrived` a launch of its own adds the parts up.
struct Meeting {
  float* partial;
  unsigned* arrived;
};

// Which of a warpgroup's blocks in a cut tile or strip: the `block`-th of `count`.
struct PartPlace {
  int rank, group, block, count;  // of the cluster, of the block's warpgroups that share the tile, of the warpgroup's 64 x 64

  template <class Tile>
  __device__ __forceinline__ static PartPlace of(int block, int count) {
    return {cluster_rank(), Tile::OWN ? 0 : consumer(), block, count};
  }
  // Its number among all blocks of the i-th part or unit.
  __device__ __forceinline__ int operator()(int i, int size, int groups) const {
    return ((i * size + rank) * groups + group) * count + block;
  }
};

// The first of the parts of a unit, among the parts of all. Segments and units are numbered along the same slices, so no two parts
// have the same sum of both.
__device__ __forceinline__ int first_part(const Work& work, int unit) { return unit * work.slices / work.length + unit; }

// The sums of a block of 64 x 64 in a part: eight fours a thread, each beside those of its neighbours.
__device__ __forceinline__ float4* part_fours(float* partial, size_t block, int thread) {
  return reinterpret_cast<float4*>(partial) + block * 8 * WARPGROUP + thread;
}

// Leaves a part's sums of a block. All a warp's rows at once: below the last one, few tiles have any.
__device__ __forceinline__ void leave_part(float4* fours, int rows, const WgmmaChunk& sums) {
  if (ResultTile::row() >= rows) return;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float(&four)[4] = sums[0][j];
    fours[j * WARPGROUP] = make_float4(four[0], four[1], four[2], four[3]);
  }
}

// Leaves the sums of a part of 64 x 64 results, which are the `block`-th of `count` of a tile, and returns whether they are now those
// of all parts, of the first `rows` rows: for the last warpgroup that comes. `turn` counts the calls.
template <class Tile>
__device__ __forceinline__ bool join_parts(char* votes_at, const Meeting& meeting, const Work& work, const WorkItem& tile,
                                           int turn, int block, int count, int rows, WgmmaChunk& sums) {
  constexpr int GROUPS = Tile::OWN ? 1 : CONSUMERS;
  int size = cluster_size(), first = first_part(work, tile.unit);
  PartPlace place = PartPlace::of<Tile>(block, count);
  // A thread reads what the same thread left of other parts.
  auto fours = [&](int part) {
    return part_fours(meeting.partial, place(first + part, size, GROUPS), ResultTile::thread());
  };
  leave_part(fours(tile.part), rows, sums);
  bool some = ResultTile::row() < rows;
  __threadfence();
  // Each thread for itself, so that no barrier stands before it. One of all of them is the last.
  unsigned* arrived = meeting.arrived + place(tile.unit, size, GROUPS);
  bool last = atomicAdd(arrived, 1u) == unsigned(tile.parts) * WARPGROUP - 1;
  if (last) *arrived = 0;
  unsigned* votes = reinterpret_cast<unsigned*>(votes_at) + turn % 2 * 4;
  unsigned any = __any_sync(~0u, last);
  store_shared(votes + ResultTile::thread() / 32, any);
  sync<ResultTile>();
  bool joined = false;
#pragma unroll
  for (int warp = 0; warp < 4; warp++) joined |= load_shared(votes + warp) != 0;
  if (!joined) return false;
  __threadfence();
#pragma unroll
  for (int j = 0; j < 8; j++) sums[0][j][0] = sums[0][j][1] = sums[0][j][2] = sums[0][j][3] = 0;
  if (!some) return true;
#pragma unroll 1
  for (int part = 0; part < tile.parts; part++) {
    const float4* from = fours(part);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      // Where all multiprocessors see it.
      float4 more = __ldcg(from + j * WARPGROUP);
      float(&four)[4] = sums[0][j];
      four[0] += more.x, four[1] += more.y, four[2] += more.z, four[3] += more.w;
    }
  }
  return true;
}

// 64 x 64 results: from `row` of their group on, which ends after `rows` more, and from `column` on.
struct ResultPlace {
  int layer, row, rows, column;

  // Which piece of 64 rows they are, of all groups of `group` rows.
  __device__ __forceinline__ size_t piece(int group) const { return size_t(layer) * ((group + 63) / 64) + row / 64; }
  // Where a row begins in an image of `count` channels; negative for none.
  __device__ __forceinline__ int offset(int r, int group, int count) const {
    return r < rows ? (layer * group + row + r) * count : -1;
  }
};

// 64 x 64 results of a warpgroup, rounded: of the fragments (hopper.cuh) a row's neighbours in one word.
using WgmmaRounded = uint32_t[8][2];

// Sums that are stored as they are.
struct Unprepared {
  __device__ __forceinline__ void operator()(const ResultPlace&, WgmmaChunk&) const {}
};

// Calls store(place, results) for the results of a warpgroup's tile, as far as they lie in a group of `group` rows and in `count`
// columns; of a cut tile once, when all parts are there, or (LATER) not at all. `joins` counts those. prepare(place, sums) may
// change sums, where it `prepares`.
//
// Registers have no index, so that a loop over blocks must move each to where one text finds it; a text for each would not fit
// the instruction cache. What is left of the sums meanwhile is rounded: it takes half of the registers.
template <class Tile, bool LATER, class Prepare, class Store>
__device__ __forceinline__ void each_block(char* votes, const Meeting& meeting, const Work& work, const WorkItem& tile,
                                           int& joins, typename Tile::Sums& sums, int group, int count, bool prepares,
                                           Prepare prepare, Store store) {
  constexpr int COUNT = Tile::BLOCKS * Tile::CHUNKS;
  int first = tile.row * Tile::BM + (Tile::OWN ? 0 : consumer() * Tile::ROWS);
  // Of a strip each row of blocks has one.
  int across = tile.strip < 0 ? Tile::CHUNKS : 1, blocks = Tile::BLOCKS * across;
  auto place = [&](int i) {
    int row = first + i / across * 64, column = tile.column * Tile::SPAN + (tile.strip < 0 ? i % across : tile.strip) * 64;
    return ResultPlace{tile.layer, row, group - row, column};
  };
  // Calls each(k, block) with the registers of the i-th block.
  auto with = [&](auto& all, int i, auto each) {
    int at = tile.strip < 0 ? i : i * Tile::CHUNKS;
#pragma unroll
    for (int k = 0; k < COUNT; k++)
      if (k == at) each(all[k / Tile::CHUNKS][k % Tile::CHUNKS]);
  };
  unsigned stored = 0;
  for (int i = 0; i < blocks; i++) {
    ResultPlace at = place(i);
    if (at.rows > 0 && at.column < count) stored |= 1u << i;
  }
  // Of a cut tile even where it has one part alone.
  bool later = LATER && tile.unit >= 0;
  if (tile.parts > 1 || prepares || later) {
#pragma unroll 1
    for (int i = 0; i < blocks; i++) {
      if (!(stored >> i & 1)) continue;
      WgmmaChunk own;
      with(sums, i, [&](WgmmaChunk& block) {
#pragma unroll
        for (int j = 0; j < 32; j++) own[0][j / 4][j % 4] = block[0][j / 4][j % 4];
      });
      ResultPlace at = place(i);
      if (later) {
        int block = PartPlace::of<Tile>(i, blocks)(first_part(work, tile.unit) + tile.part, cluster_size(), Tile::OWN ? 1 : CONSUMERS);
        leave_part(part_fours(meeting.partial, block, ResultTile::thread()), at.rows, own);
        continue;
      }
      if (tile.parts > 1 && !join_parts<Tile>(votes, meeting, work, tile, joins++, i, blocks, at.rows, own)) {
        stored &= ~(1u << i);
        continue;
      }
      prepare(at, own);
      with(sums, i, [&](WgmmaChunk& block) {
#pragma unroll
        for (int j = 0; j < 32; j++) block[0][j / 4][j % 4] = own[0][j / 4][j % 4];
      });
    }
  }
  if (later) return;
  WgmmaRounded rounded[Tile::BLOCKS][Tile::CHUNKS];
#pragma unroll
  for (int k = 0; k < COUNT; k++)
#pragma unroll
    for (int j = 0; j < 16; j++) {
      const float(&four)[4] = sums[k / Tile::CHUNKS][k % Tile::CHUNKS][0][j / 2];
      rounded[k / Tile::CHUNKS][k % Tile::CHUNKS][j / 2][j % 2] = pair_of(four[j % 2 * 2], four[j % 2 * 2 + 1]);
    }
#pragma unroll 1
  for (int i = 0; i < blocks; i++) {
    if (!(stored >> i & 1)) continue;
    WgmmaRounded own;
    with(rounded, i, [&](const WgmmaRounded& block) {
#pragma unroll
      for (int j = 0; j < 16; j++) own[j / 2][j % 2] = block[j / 2][j % 2];
    });
    store(place(i), own);
  }
}

// Asks for what the results of a warpgroup's tile will need of images of `count` channels, which may be null, in lines of 64 of
// them, so that it is in the L2 cache by then: a tile's loads alone are too few to keep the memory busy.
template <class Tile>
__device__ __forceinline__ void prefetch_tile(const WorkItem& tile, int group, int count, const bf16* a, const bf16* b = nullptr,
                                              const bf16* c = nullptr) {
  if (tile.parts > 1) return;
  int lines = tile.strip < 0 ? Tile::CHUNKS : 1, first = tile.row * Tile::BM + (Tile::OWN ? 0 : consumer() * Tile::ROWS);
  int column = tile.column * Tile::SPAN + max(tile.strip, 0) * 64;
#pragma unroll 1
  for (int i = ResultTile::thread(); i < Tile::ROWS * lines; i += WARPGROUP) {
    int row = first + i / lines, at = column + i % lines * 64;
    if (row >= group || at >= count) continue;
    size_t offset = size_t(tile.layer * group + row) * count + at;
    if (a) prefetch_l2(a + offset);
    if (b) prefetch_l2(b + offset);
    if (c) prefetch_l2(c + offset);
  }
}

// Puts rounded results where a tensor map takes them from. A barrier must follow.
__device__ __forceinline__ void stage_rounded(char* results, const WgmmaRounded& rounded) {
  int lane = threadIdx.x % 32;
  // All have read what lay there.
  sync<ResultTile>();
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int down = 0; down < 2; down++) {
      char* to = result<bf16, ResultTile>(results, ResultTile::row() + lane / 4 + down * 8, j) + lane % 4 * 4;
      store_shared(reinterpret_cast<uint32_t*>(to), rounded[j][down]);
    }
}
