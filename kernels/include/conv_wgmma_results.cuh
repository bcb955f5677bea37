// How the tiles of conv_wgmma.cuh are stored: 64 x 64 results of a warpgroup at a time, with what the convolutions of
// conv2d_mma.cu do there, and the sums of cut tiles.
#pragma once
#include "conv_norm_sums.cuh"
#include "conv_normalize.cuh"
#include "conv_wgmma.cuh"

// Behind the rest of the scratch: four votes of warps, twice.
constexpr int VOTES_BYTES = 32;

// 64 x 64 results of a warpgroup, a Tile of conv_results.cuh. They lie swizzled as a tensor map takes them.
struct ResultTile : WarpgroupTeam {
  static constexpr int BM = 64, BN = 64, DOWN_16 = 1, ACROSS_8 = 8, RESULT_BYTES = SCRATCH_BYTES - VOTES_BYTES;
  using Sums = WgmmaChunk;

  __device__ static int row() { return thread() / 32 * 16; }
  __device__ static int column() { return 0; }
  // To the copy that takes them away.
  __device__ __forceinline__ static void publish() { proxy_fence(); }
};

// A warpgroup's shared memory for results. Two tiles of them take turns, so that one is stored while the next one is made; the
// second one is also what the batch norms work in.
struct ResultBuffers {
  char* first;

  template <class Tile>
  __device__ __forceinline__ static ResultBuffers of(char* shared) {
    return {shared + Tile::RESULTS_AT + consumer() * (RESULTS_BYTES + SCRATCH_BYTES)};
  }
  __device__ __forceinline__ char* scratch() const { return first + RESULTS_BYTES; }
  // The turn-th results' place, if both are free to take turns; the store that last read it is done with it.
  __device__ __forceinline__ char* next(bool turns, int turn) const {
    if (!turns) {
      if (ResultTile::thread() == 0) tma_store_wait_read<0>();
      return first;
    }
    if (ResultTile::thread() == 0) tma_store_wait_read<1>();
    return turn % 2 ? scratch() : first;
  }
  __device__ __forceinline__ static void store(const CUtensorMap* map, const char* results, int column, int row, int layer) {
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
// `rows` of them, and of columns below `count`, which is even, from `start` on.
__device__ __forceinline__ void store_piece_moments(const char* results, char* scratch, float* moments, int rows, int start,
                                                    int count) {
  struct alignas(8) Pair {
    float at[2];
  };
  // A thread has two columns of 16 rows.
  int pair = ResultTile::thread() % 32, quarter = ResultTile::thread() / 32;
  Pack<bf16, 2> values[16];
#pragma unroll
  for (int i = 0; i < 16; i++)
    values[i] = load_shared(reinterpret_cast<const Pack<bf16, 2>*>(
        results + place<LINE_BYTES, false>(quarter * 16 + i, pair / 4) + pair % 4 * 4));
  auto over_rows = [&](int buffer, auto value) {
    Pair sum = {};
#pragma unroll
    for (int i = 0; i < 16; i++)
#pragma unroll
      for (int e = 0; e < 2; e++) sum.at[e] += quarter * 16 + i < rows ? value(e, to_acc(values[i].at[e])) : 0.0f;
    auto* parts = reinterpret_cast<Pair*>(scratch) + buffer * WARPGROUP;
    store_shared(parts + ResultTile::thread(), sum);
    sync<ResultTile>();
    Pair total = load_shared(parts + pair);
#pragma unroll
    for (int q = 1; q < 4; q++) {
      Pair part = load_shared(parts + q * 32 + pair);
      for (int e = 0; e < 2; e++) total.at[e] += part.at[e];
    }
    return total;
  };
  float size = min(rows, 64);
  Pair mean = over_rows(0, [](int, float x) { return x; });
#pragma unroll
  for (int e = 0; e < 2; e++) mean.at[e] /= size;
  Pair squares = over_rows(1, [&](int e, float x) { return (x - mean.at[e]) * (x - mean.at[e]); });
  int column = start + pair * 2;
  if (quarter == 0 && rows > 0 && column < count) {
    *reinterpret_cast<Pair*>(moments + column) = mean;
    *reinterpret_cast<Pair*>(moments + count + column) = squares;
  }
}

// Where the parts of cut tiles meet: the sums of each part of each of them, and how many threads have left theirs, which is zero
// again after a launch.
struct Meeting {
  float* partial;
  unsigned* arrived;
};

// Leaves the sums of a part of 64 x 64 results, which are the `block`-th of a Tile, and returns whether they are now those of all
// parts, of the first `rows` rows: for the last warpgroup that comes. `turn` counts the calls.
template <class Tile>
__device__ __forceinline__ bool join_parts(char* scratch, const Meeting& meeting, const Work& work, const WorkItem& tile,
                                           int turn, int block, int rows, WgmmaChunk& sums) {
  constexpr int GROUPS = Tile::OWN ? 1 : CONSUMERS, COUNT = Tile::BLOCKS * Tile::CHUNKS;
  Cluster cluster = Cluster::own();
  auto place = [&](int i) {
    return ((i * cluster.size + cluster.rank) * GROUPS + (Tile::OWN ? 0 : consumer())) * COUNT + block;
  };
  // Segments and units are numbered along the same slices, so no two parts have the same sum of both. Neighbouring threads' fours
  // lie beside each other. A thread reads what the same thread left of other parts.
  int first = tile.unit * work.slices / work.length + tile.unit;
  auto fours = [&](int part) {
    return reinterpret_cast<float4*>(meeting.partial) + size_t(place(first + part)) * 8 * WARPGROUP + ResultTile::thread();
  };
  // All a warp's rows at once: below the last one, few tiles have any.
  bool some = ResultTile::row() < rows;
  float4* mine = fours(tile.part);
#pragma unroll
  for (int j = 0; j < 8; j++) {
    float(&four)[4] = sums[0][j];
    if (some) mine[j * WARPGROUP] = make_float4(four[0], four[1], four[2], four[3]);
  }
  __threadfence();
  // Each thread for itself, so that no barrier stands before it. One of all of them is the last.
  unsigned* arrived = meeting.arrived + place(tile.unit);
  bool last = atomicAdd(arrived, 1u) == unsigned(tile.parts) * WARPGROUP - 1;
  if (last) *arrived = 0;
  unsigned* votes = reinterpret_cast<unsigned*>(scratch + SCRATCH_BYTES - VOTES_BYTES) + turn % 2 * 4;
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
#pragma unroll 2
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

// Calls store(place, sums) for the results of a warpgroup's tile, as far as they lie in a group of `group` rows and in `count`
// columns; of a cut tile once, when all parts are there. `joins` counts those. SPREAD: for many parts, which tend to end
// together, each begins with another block, so that not one of them comes last to all.
template <class Tile, bool SPREAD, class Store>
__device__ __forceinline__ void each_block(char* scratch, const Meeting& meeting, const Work& work, const WorkItem& tile,
                                           int& joins, typename Tile::Sums& sums, int group, int count, Store store) {
  constexpr int COUNT = Tile::BLOCKS * Tile::CHUNKS;
  int first = tile.row * Tile::BM + (Tile::OWN ? 0 : consumer() * Tile::ROWS);
  // Visits the blocks with `wanted` of a number; registers have no index, so each is named.
  auto visit = [&](auto wanted) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int block = i / Tile::CHUNKS, chunk = i % Tile::CHUNKS, row = first + block * 64;
      int column = tile.column * Tile::SPAN + (tile.strip < 0 ? chunk : tile.strip) * 64;
      WgmmaChunk& own = sums[block][chunk];
      if (!wanted(i) || row >= group || column >= count) continue;
      if (tile.parts > 1 && !join_parts<Tile>(scratch, meeting, work, tile, joins++, i, group - row, own)) continue;
      store(ResultPlace{tile.layer, row, group - row, column}, own);
    }
  };
  if constexpr (SPREAD) {
#pragma unroll 1
    for (int step = 0; step < COUNT; step++) visit([&](int i) { return i == (tile.part + step) % COUNT; });
  } else {
    visit([](int) { return true; });
  }
}
