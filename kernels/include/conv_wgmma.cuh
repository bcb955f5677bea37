// Implicit matrix products by warpgroups (wgmma: sm_90a), for the convolutions of conv2d_sm90.cu.
//
//   C[i, j] = sum over d of A[i, d] B[d, j]     bf16 factors, f32 sums
//
// The same products by warps are in conv_mma.cuh. What is done beyond that, one step at a time:
//   1. wgmma: four warps multiply 64 rows by up to 256 columns at once, straight from shared memory: no factor passes through
//      registers, which all belong to the sums.
//   2. Tensor maps: one thread asks for a whole slice; addresses, edges, padding, dilation and the swizzle are the copy
//      engine's work (conv_wgmma_sources.cuh).
//   3. Roles: a warpgroup that only asks for slices, and two that only multiply. They share a ring of STAGES slices and meet
//      nowhere else: a slice is `full` when its bytes are there, `empty` when it has been multiplied.
//   4. Registers go to those who multiply.
//   5. Blocks stay: each multiprocessor has one, which takes one tile after the other (conv_work.cuh). The slices of the next
//      tile travel while this one is stored.
//   6. OWN tiles: each of the two warpgroups has a tile of its own, and stores it while the other one multiplies. They take turns:
//      a wait tells phases of a barrier apart only by turns too, so nobody may wait for a slice further ahead than the ring.
//   7. Clusters: two blocks with the same columns of B copy half of each slice of them for each other.
//   8. Results leave through shared memory by tensor maps too, while the next tile is multiplied (conv_wgmma_results.cuh).
#pragma once
#include "conv_work.cuh"
#include "hopper.cuh"

constexpr int CONSUMERS = 2;
constexpr int WGMMA_THREADS = (1 + CONSUMERS) * WARPGROUP;
// The depth of a slice and of a product.
constexpr int WGMMA_SLICE = 64, WGMMA_DEPTH = 16;
// What a block may have of a multiprocessor's 65,536 registers, by thread: a warpgroup that asks, and two that multiply.
constexpr int ASKING_REGISTERS = 40, MULTIPLYING_REGISTERS = 232;
static_assert(WARPGROUP * (ASKING_REGISTERS + CONSUMERS * MULTIPLYING_REGISTERS) <= 65536, "registers of a multiprocessor");

// Shared memory of a warpgroup for its results: 64 x 64 of them twice, and a little more.
constexpr int RESULTS_BYTES = 2 * BLOCK_BYTES + ATOM_BYTES;

// A tile of BM x BN, of each warpgroup or (not OWN) of both together, one below the other; in slices with room for SPAN columns.
template <int BM_, int BN_, bool OWN_, int STAGES_, int SPAN_ = BN_>
struct WgmmaTile {
  static constexpr int BM = BM_, BN = BN_, SPAN = SPAN_, STAGES = STAGES_;
  static constexpr bool OWN = OWN_;
  // A warpgroup's rows, in blocks of 64.
  static constexpr int ROWS = OWN ? BM : BM / CONSUMERS, BLOCKS = ROWS / 64, CHUNKS = BN / 64;
  static constexpr int A_BYTES = BM * LINE_BYTES, B_BYTES = BN * LINE_BYTES, STAGE_BYTES = A_BYTES + SPAN * LINE_BYTES;
  static constexpr int RESULTS_AT = STAGES * STAGE_BYTES, BARRIERS_AT = RESULTS_AT + CONSUMERS * RESULTS_BYTES;
  static constexpr int SHARED_BYTES = BARRIERS_AT + (2 * STAGES + CONSUMERS) * 8;
  static_assert(ROWS % 64 == 0 && BN % 64 == 0 && SHARED_BYTES <= 227 * 1024, "a block's shared memory");
  static_assert(BLOCKS * BN <= 256, "the sums take half of the registers");
  using Sums = WgmmaChunk[BLOCKS][CHUNKS];
  // 64 of the columns of such a tile.
  using Strip = WgmmaTile<BM, 64, OWN, STAGES, SPAN>;
};

// The warpgroup of this thread among those that multiply.
__device__ __forceinline__ int consumer() { return static_cast<int>(threadIdx.x) / WARPGROUP - 1; }

template <class Tile>
struct Ring {
  Cluster cluster;
  char* shared;
  uint64_t *full, *empty, *turn;

  __device__ __forceinline__ Ring(const Cluster& cluster, char* shared)
      : cluster(cluster), shared(shared), full(reinterpret_cast<uint64_t*>(shared + Tile::BARRIERS_AT)), empty(full + Tile::STAGES),
        turn(empty + Tile::STAGES) {}
  __device__ __forceinline__ void init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Tile::STAGES; stage++) {
        mbarrier_init(full + stage, 1);
        // Each warp of the cluster that multiplies says so, as the slice is filled by all its blocks.
        mbarrier_init(empty + stage, (Tile::OWN ? 1 : CONSUMERS) * 4 * cluster.size);
      }
      for (int group = 0; Tile::OWN && group < CONSUMERS; group++) mbarrier_init(turn + group, 4);
      mbarrier_init_fence();
    }
    cluster_sync();
  }
  __device__ __forceinline__ char* stage(int at) const { return shared + at % Tile::STAGES * Tile::STAGE_BYTES; }
  // The at-th slice of the block waits for the end of this phase.
  __device__ __forceinline__ static int parity(int at) { return at / Tile::STAGES & 1; }
};

// Asks for all slices of the block's tiles. source.begin(tile) goes to the first slice of a tile, source.fetch(to, bar) asks for
// one and goes on.
template <class Tile, class Source>
__device__ __forceinline__ void fetch_tiles(const Ring<Tile>& ring, const Work& work, Source source) {
  const Cluster& cluster = ring.cluster;
  int at = 0;
  for (int item = blockIdx.x / cluster.size; item < work.items; item += gridDim.x / cluster.size) {
    WorkItem tile = work.item(item, cluster);
    if (tile.from >= tile.to) continue;
    source.begin(tile);
    int bytes = tile.strip < 0 ? Tile::A_BYTES + Tile::B_BYTES : Tile::A_BYTES + Tile::Strip::B_BYTES;
    for (int slice = tile.from; slice < tile.to; slice++, at++) {
      int stage = at % Tile::STAGES;
      mbarrier_wait(ring.empty + stage, ring.parity(at) ^ 1);
      mbarrier_expect(ring.full + stage, bytes);
      source.fetch(ring.stage(at), ring.full + stage);
    }
  }
}

// Adds the products of `slices` slices, from the at-th on, to `sums`; of a strip to the first 64 columns of them. All of them have
// come when it calls come().
template <class Tile, int A_MN, int B_MN, class Sums, class Come>
__device__ __forceinline__ void multiply_slices(const Ring<Tile>& ring, int at, int slices, Sums& sums, Come come) {
  // A warpgroup's rows begin so far into the slice; the depth goes on so far on.
  constexpr int A_STEP = A_MN ? WGMMA_DEPTH * LINE_BYTES : WGMMA_DEPTH * 2, B_STEP = B_MN ? WGMMA_DEPTH * LINE_BYTES : WGMMA_DEPTH * 2;
  int first = Tile::OWN ? 0 : consumer() * Tile::BLOCKS * BLOCK_BYTES;
  auto release = [&](int at) {
    uint64_t* empty = ring.empty + at % Tile::STAGES;
    int lane = threadIdx.x % 32, size = ring.cluster.size;
    if (size == 1) {
      if (lane == 0) mbarrier_arrive(empty);
    } else if (lane < size) {
      mbarrier_arrive_at(empty, lane);
    }
  };
  for (int slice = 0; slice < slices; slice++, at++) {
    mbarrier_wait(ring.full + at % Tile::STAGES, ring.parity(at));
    const char *a = ring.stage(at) + first, *b = ring.stage(at) + Tile::A_BYTES;
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < WGMMA_SLICE / WGMMA_DEPTH; step++)
#pragma unroll
      for (int block = 0; block < Tile::BLOCKS; block++)
        wgmma<A_MN, B_MN>(reinterpret_cast<WgmmaChunk(&)[Tile::CHUNKS]>(sums[block]), wgmma_operand(a + block * BLOCK_BYTES + step * A_STEP, BLOCK_BYTES),
                          wgmma_operand(b + step * B_STEP, BLOCK_BYTES));
    wgmma_commit();
    // While these run, the slice before is done.
    wgmma_wait<1>();
    if (slice > 0) release(at - 1);
  }
  come();
  wgmma_wait<0>();
  if (slices > 0) release(at - 1);
}

// Multiplies the block's tiles; begin(tile) is told of each of them, and store(tile, sums) has it, of the rows of this warpgroup.
template <class Tile, int A_MN, int B_MN, bool STRIPS, class Begin, class Store>
__device__ __forceinline__ void multiply_tiles(const Ring<Tile>& ring, const Work& work, Begin begin, Store store) {
  const Cluster& cluster = ring.cluster;
  int at = 0, tiles = 0;
  for (int item = blockIdx.x / cluster.size; item < work.items; item += gridDim.x / cluster.size) {
    WorkItem tile = work.item(item, cluster);
    if (tile.from >= tile.to) continue;
    if (!Tile::OWN || tiles % CONSUMERS == consumer()) {
      begin(tile);
      // The other warpgroup has all slices before; the first one need not wait for it at first.
      if (Tile::OWN) mbarrier_wait(ring.turn + consumer(), tiles / CONSUMERS & 1 ^ 1 - consumer());
      typename Tile::Sums sums = {};
      auto multiply = [&](auto part) {
        multiply_slices<decltype(part), A_MN, B_MN>({cluster, ring.shared}, at, tile.to - tile.from, sums, [&] {
          if (Tile::OWN && threadIdx.x % 32 == 0) mbarrier_arrive(ring.turn + (1 - consumer()));
        });
      };
      if constexpr (STRIPS) {
        if (tile.strip >= 0) multiply(typename Tile::Strip{});
      }
      if (!STRIPS || tile.strip < 0) multiply(Tile{});
      store(tile, sums);
    }
    at += tile.to - tile.from, tiles++;
  }
}

// The whole of a block's work.
template <class Tile, int A_MN, int B_MN, class Source, class Begin, class Store>
__device__ __forceinline__ void run_tiles(char* shared, const Work& work, Source source, Begin begin, Store store) {
  Ring<Tile> ring(Cluster::own(), shared);
  ring.init();
  if (threadIdx.x < WARPGROUP) {
    registers_release<ASKING_REGISTERS>();
    source.cluster = ring.cluster;
    if (threadIdx.x == 0) fetch_tiles(ring, work, source);
  } else {
    registers_claim<MULTIPLYING_REGISTERS>();
    multiply_tiles<Tile, A_MN, B_MN, Source::STRIPS>(ring, work, begin, store);
  }
  // Until nobody says anything to this block's barriers any more.
  cluster_sync();
}
