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

// Leaves the sums of a part, and returns whether they are now those of the whole tile, of its first `rows` rows: for the last
// warpgroup that comes. `turn` counts the calls.
template <class Tile>
__device__ __forceinline__ bool join_parts(char* scratch, const Meeting& meeting, const Work& work, const WorkItem& tile,
                                           int turn, int rows, typename Tile::Sums& sums) {
  constexpr int FOURS = Tile::BLOCKS * Tile::CHUNKS * 8, GROUPS = Tile::OWN ? 1 : CONSUMERS;
  Cluster cluster = Cluster::own();
  int group = Tile::OWN ? 0 : consumer();
  unsigned* arrived = meeting.arrived + (tile.unit * cluster.size + cluster.rank) * GROUPS + group;
  // Segments and units are numbered along the same slices, so no two parts have the same sum of both. Neighbouring threads' fours
  // lie beside each other. A thread reads what the same thread left of other parts.
  int first = tile.unit * work.slices / work.length + tile.unit;
  auto fours = [&](int part) {
    size_t place = (size_t(first + part) * cluster.size + cluster.rank) * GROUPS + group;
    return reinterpret_cast<float4*>(meeting.partial) + place * FOURS * WARPGROUP + ResultTile::thread();
  };
  // All a warp's rows at once: below the last one, few tiles have any.
  auto each = [&](auto visit) {
#pragma unroll
    for (int block = 0; block < Tile::BLOCKS; block++)
      if (block * 64 + ResultTile::row() < rows)
#pragma unroll
        for (int chunk = 0; chunk < Tile::CHUNKS; chunk++)
#pragma unroll
          for (int j = 0; j < 8; j++) visit(((block * Tile::CHUNKS + chunk) * 8 + j) * WARPGROUP, sums[block][chunk][0][j]);
  };
  float4* mine = fours(tile.part);
  each([&](int at, float (&four)[4]) { mine[at] = make_float4(four[0], four[1], four[2], four[3]); });
  __threadfence();
  // Each thread for itself, so that no barrier stands before it. One of all of them is the last.
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
  each([&](int, float (&four)[4]) { four[0] = four[1] = four[2] = four[3] = 0; });
  // The sums of a whole tile have the registers; of a strip, two parts can travel at once.
#pragma unroll (FOURS > 8 ? 1 : 2)
  for (int part = 0; part < tile.parts; part++) {
    const float4* from = fours(part);
    each([&](int at, float (&four)[4]) {
      // Where all multiprocessors see it.
      float4 more = __ldcg(from + at);
      four[0] += more.x, four[1] += more.y, four[2] += more.z, four[3] += more.w;
    });
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
// columns; of a cut tile once, when all its parts are there. `joins` counts those.
template <class Tile, class Store>
__device__ __forceinline__ void each_block(char* scratch, const Meeting& meeting, const Work& work, const WorkItem& tile,
                                           int& joins, typename Tile::Sums& sums, int group, int count, Store store) {
  int first = tile.row * Tile::BM + (Tile::OWN ? 0 : consumer() * Tile::ROWS);
  // No row of this warpgroup's.
  if (first >= group) return;
  if (tile.parts > 1 && !join_parts<Tile>(scratch, meeting, work, tile, joins++, group - first, sums)) return;
#pragma unroll
  for (int block = 0; block < Tile::BLOCKS; block++)
#pragma unroll
    for (int chunk = 0; chunk < Tile::CHUNKS; chunk++) {
      int row = first + block * 64, column = tile.column * Tile::SPAN + (tile.strip < 0 ? chunk : tile.strip) * 64;
      if (row < group && column < count) store(ResultPlace{tile.layer, row, group - row, column}, sums[block][chunk]);
    }
}
