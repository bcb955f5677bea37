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
//   8. Results leave through shared memory by tensor maps too, and what they need besides comes there ahead of use
//      (conv_wgmma_slots.cuh, conv_wgmma_results.cuh).
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

// Shared memory of a warpgroup beside its slots: vectors over 64 columns, votes of warps, a letter.
constexpr int NOTES_BYTES = ATOM_BYTES;

// A tile of BM x BN, of each warpgroup or (not OWN) of both together, one below the other; in STAGES slices with room for SPAN
// columns, and SLOTS of 64 x 64 for each warpgroup's results and what they need besides.
template <int BM_, int BN_, bool OWN_, int STAGES_, int SLOTS_, int SPAN_ = BN_>
struct WgmmaTile {
  static constexpr int BM = BM_, BN = BN_, SPAN = SPAN_, STAGES = STAGES_, SLOTS = SLOTS_;
  static constexpr bool OWN = OWN_;
  // A warpgroup's rows, in blocks of 64.
  static constexpr int ROWS = OWN ? BM : BM / CONSUMERS, BLOCKS = ROWS / 64, CHUNKS = BN / 64;
  static constexpr int A_BYTES = BM * LINE_BYTES, B_BYTES = BN * LINE_BYTES, STAGE_BYTES = A_BYTES + SPAN * LINE_BYTES;
  static constexpr int SLOTS_AT = STAGES * STAGE_BYTES, NOTES_AT = SLOTS_AT + CONSUMERS * SLOTS * BLOCK_BYTES;
  static constexpr int BARRIERS_AT = NOTES_AT + CONSUMERS * NOTES_BYTES, SLOT_BARRIERS_AT = BARRIERS_AT + (2 * STAGES + CONSUMERS) * 8;
  static constexpr int SHARED_BYTES = SLOT_BARRIERS_AT + CONSUMERS * (2 * SLOTS + 2) * 8;
  static_assert(ROWS % 64 == 0 && BN % 64 == 0 && SHARED_BYTES <= 227 * 1024, "a block's shared memory");
  static_assert(BLOCKS * BN <= 256, "the sums take half of the registers");
  using Sums = WgmmaChunk[BLOCKS][CHUNKS];
  // 64 of the columns of such a tile.
  using Strip = WgmmaTile<BM, 64, OWN, STAGES, SLOTS, SPAN>;
};

// The warpgroup of this thread among those that multiply.
__device__ __forceinline__ int consumer() { return static_cast<int>(threadIdx.x / WARPGROUP) - 1; }
// Which of a block's warpgroups that share a tile.
template <class Tile>
__device__ __forceinline__ int sharer(int consumer) {
  return Tile::OWN ? 0 : consumer;
}

template <class Tile>
struct Ring {
  Cluster cluster;
  char* shared;
  uint64_t* full;

  __device__ __forceinline__ Ring(const Cluster& cluster, char* shared)
      : cluster(cluster), shared(shared), full(reinterpret_cast<uint64_t*>(shared + Tile::BARRIERS_AT)) {}
  __device__ __forceinline__ uint64_t* empty() const { return full + Tile::STAGES; }
  __device__ __forceinline__ uint64_t* turn() const { return full + 2 * Tile::STAGES; }
  __device__ __forceinline__ void init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Tile::STAGES; stage++) {
        mbarrier_init(full + stage, 1);
        // Each warp of the cluster that multiplies says so, as the slice is filled by all its blocks.
        mbarrier_init(empty() + stage, (Tile::OWN ? 1 : CONSUMERS) * 4 * cluster.size);
      }
      for (int group = 0; Tile::OWN && group < CONSUMERS; group++) mbarrier_init(turn() + group, 4);
    }
  }
  __device__ __forceinline__ char* slice(int stage) const { return shared + stage * Tile::STAGE_BYTES; }
};

// The place in a ring of COUNT that somebody has come to, and the parity of the phase in which it is used. Counted on, as a remainder
// takes longer.
template <int COUNT>
struct RingPlace {
  int at = 0, parity = 0;

  __device__ __forceinline__ RingPlace() {}
  // The step-th since the start.
  __device__ __forceinline__ explicit RingPlace(int step) : at(step % COUNT), parity(step / COUNT & 1) {}
  // So many further on, fewer than COUNT.
  __device__ __forceinline__ RingPlace operator+(int by) const {
    RingPlace next;
    next.at = at + by, next.parity = parity;
    if (next.at >= COUNT) next.at -= COUNT, next.parity ^= 1;
    return next;
  }
};

// Asks for all slices of the block's tiles. source.begin(tile) goes to the first slice of a tile, source.fetch(to, bar) asks for
// one and goes on.
template <class Tile, class Source>
__device__ __forceinline__ void fetch_tiles(const Ring<Tile>& ring, const TileScheduler& scheduler, Source source) {
  const Cluster& cluster = ring.cluster;
  RingPlace<Tile::STAGES> place;
  for (int item = blockIdx.x / cluster.size; item < scheduler.items; item += gridDim.x / cluster.size) {
    WorkTile tile = scheduler.item(item, cluster);
    if (tile.from >= tile.to) continue;
    source.begin(tile);
    int bytes = tile.strip < 0 ? Tile::A_BYTES + Tile::B_BYTES : Tile::A_BYTES + Tile::Strip::B_BYTES;
    for (int slice = tile.from; slice < tile.to; slice++, place = place + 1) {
      mbarrier_wait(ring.empty() + place.at, place.parity ^ 1);
      mbarrier_expect(ring.full + place.at, bytes);
      source.fetch(ring.slice(place.at), ring.full + place.at);
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
  auto release = [&](int stage) {
    uint64_t* empty = ring.empty() + stage;
    int lane = threadIdx.x % 32, size = ring.cluster.size;
    if (size == 1) {
      if (lane == 0) mbarrier_arrive(empty);
    } else if (lane < size) {
      mbarrier_arrive_at(empty, lane);
    }
  };
  RingPlace<Tile::STAGES> place(at);
  int before = 0;
  for (int slice = 0; slice < slices; slice++) {
    mbarrier_wait(ring.full + place.at, place.parity);
    const char *a = ring.slice(place.at) + first, *b = ring.slice(place.at) + Tile::A_BYTES;
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
    if (slice > 0) release(before);
    before = place.at, place = place + 1;
  }
  come();
  wgmma_wait<0>();
  if (slices > 0) release(before);
}

// Calls body(tile, at, number) for each tile of which a warpgroup that multiplies has rows: the block's number-th, whose slices are
// the block's from the at-th on.
template <class Tile, class Body>
__device__ __forceinline__ void each_tile(const Cluster& cluster, const TileScheduler& scheduler, int consumer, Body body) {
  int at = 0, tiles = 0;
  for (int item = blockIdx.x / cluster.size; item < scheduler.items; item += gridDim.x / cluster.size) {
    WorkTile tile = scheduler.item(item, cluster);
    if (tile.from >= tile.to) continue;
    if (!Tile::OWN || tiles % CONSUMERS == consumer) body(tile, at, tiles);
    at += tile.to - tile.from, tiles++;
  }
}

// Multiplies the warpgroup's tiles; store(tile, sums) has each of them, of the rows of this warpgroup.
template <class Tile, int A_MN, int B_MN, bool STRIPS, class Store>
__device__ __forceinline__ void multiply_tiles(const Ring<Tile>& ring, const TileScheduler& scheduler, Store store) {
  each_tile<Tile>(ring.cluster, scheduler, consumer(), [&](const WorkTile& tile, int at, int tiles) {
    // The other warpgroup has all slices before; the first one need not wait for it at first.
    if (Tile::OWN) mbarrier_wait(ring.turn() + consumer(), tiles / CONSUMERS & 1 ^ 1 - consumer());
    typename Tile::Sums sums = {};
    auto multiply = [&](auto part) {
      multiply_slices<decltype(part), A_MN, B_MN>({ring.cluster, ring.shared}, at, tile.to - tile.from, sums, [&] {
        if (Tile::OWN && threadIdx.x % 32 == 0) mbarrier_arrive(ring.turn() + (1 - consumer()));
      });
    };
    if constexpr (STRIPS) {
      if (tile.strip >= 0) multiply(typename Tile::Strip{});
    }
    if (!STRIPS || tile.strip < 0) multiply(Tile{});
    store(tile, sums);
  });
}

// The whole of a block's scheduler. Beside the one that asks for slices, a warp of its warpgroup fills slots for each of those that
// multiply: init() makes their barriers, fill(consumer) is one thread's scheduler.
template <class Tile, int A_MN, int B_MN, class Source, class Init, class Fill, class Store>
__device__ __forceinline__ void run_tiles(char* shared, const TileScheduler& scheduler, Source source, Init init, Fill fill,
                                          Store store) {
  Ring<Tile> ring(Cluster::own(), shared);
  ring.init();
  if (threadIdx.x == 0) {
    init();
    mbarrier_init_fence();
    source.prefetch();
  }
  cluster_sync();
  if (threadIdx.x < WARPGROUP) {
    registers_release<ASKING_REGISTERS>();
    source.cluster = ring.cluster;
    int warp = threadIdx.x / 32;
    if (threadIdx.x == 0)
      fetch_tiles(ring, scheduler, source);
    else if (threadIdx.x % 32 == 0 && warp <= CONSUMERS)
      fill(ring.cluster, warp - 1);
  } else {
    registers_claim<MULTIPLYING_REGISTERS>();
    multiply_tiles<Tile, A_MN, B_MN, Source::STRIPS>(ring, scheduler, store);
  }
  // Until nobody says anything to this block's barriers any more.
  cluster_sync();
}
