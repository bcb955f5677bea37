// Implicit GEMM by warpgroups (wgmma: sm_90a), for the convolutions of conv2d_sm90.cu.
//
//   C[m, n] = sum over k of A[m, k] B[k, n]     bf16 operands, f32 sums
//
// conv_mma.cuh computes the same by warps (mma.sync). This one differs step by step:
//   1. wgmma: four warps multiply 64 rows by up to 256 columns at once, straight from shared memory. No operand passes
//      through registers, which all belong to the accumulators.
//   2. TMA: one thread loads a whole K tile; the copy engine does addresses, edges, padding, dilation and swizzle
//      (conv_wgmma_mainloop_loads.cuh).
//   3. Warp specialization: a producer warpgroup loads, two consumer warpgroups multiply. They share a ring of STAGES K
//      tiles and no other barrier: a stage is `full` when its bytes have arrived, `empty` when it has been multiplied.
//   4. Registers move from the producer to the consumers.
//   5. Persistent blocks: one for each multiprocessor, which computes one tile after the other (tile_scheduler.cuh).
//      The K tiles of the next tile are in flight while this one is stored.
//   6. Pingpong: each consumer warpgroup has a tile of its own, and stores it while the other one multiplies.
//      Cooperative: both share a tile. In pingpong an ordered barrier lets them multiply one after the other: a wait
//      knows only the parity of a phase, so none may wait for a K tile further ahead than the ring.
//   7. Clusters: two blocks with the same columns of B multicast half of each K tile of them to each other.
//   8. The epilogue loads and stores by TMA too (conv_wgmma_epilogue_loads.cuh, conv_wgmma_epilogue.cuh).
#pragma once
#include "tile_scheduler.cuh"
#include "hopper.cuh"

constexpr int CONSUMERS = 2;
constexpr int WGMMA_THREADS = (1 + CONSUMERS) * WARPGROUP;
// K of a K tile, and of one wgmma.
constexpr int WGMMA_K_TILE = 64, WGMMA_DEPTH = 16;
// Registers of a thread: one producer and two consumer warpgroups share a multiprocessor's 65,536.
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert(WARPGROUP * (PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS) <= 65536,
              "registers of a multiprocessor");

// Scratch of a consumer warpgroup: vectors over 64 columns, votes of warps, a message to the producer.
constexpr int SCRATCH_BYTES = ATOM_BYTES;

// A tile of BM x BN: of each warpgroup (PINGPONG), or of both together, one below the other (cooperative). A ring of
// STAGES K tiles with room for SPAN columns, and for each warpgroup's epilogue SLOTS of 64 x 64.
template <int BM_, int BN_, bool PINGPONG_, int STAGES_, int SLOTS_, int SPAN_ = BN_>
struct WgmmaTile {
  static constexpr int BM = BM_, BN = BN_, SPAN = SPAN_, STAGES = STAGES_, SLOTS = SLOTS_;
  static constexpr bool PINGPONG = PINGPONG_;
  // A warpgroup's rows, in blocks of 64.
  static constexpr int ROWS = PINGPONG ? BM : BM / CONSUMERS, BLOCKS = ROWS / 64, CHUNKS = BN / 64;
  static constexpr int A_BYTES = BM * LINE_BYTES, B_BYTES = BN * LINE_BYTES, STAGE_BYTES = A_BYTES + SPAN * LINE_BYTES;
  static constexpr int SLOTS_AT = STAGES * STAGE_BYTES, SCRATCH_AT = SLOTS_AT + CONSUMERS * SLOTS * BLOCK_BYTES;
  static constexpr int BARRIERS_AT = SCRATCH_AT + CONSUMERS * SCRATCH_BYTES,
                       SLOT_BARRIERS_AT = BARRIERS_AT + (2 * STAGES + CONSUMERS) * 8;
  static constexpr int SHARED_BYTES = SLOT_BARRIERS_AT + CONSUMERS * (2 * SLOTS + 2) * 8;
  static_assert(ROWS % 64 == 0 && BN % 64 == 0 && SHARED_BYTES <= 227 * 1024, "a block's shared memory");
  static_assert(BLOCKS * BN <= 256, "the sums take half of the registers");
  using Sums = WgmmaChunk[BLOCKS][CHUNKS];
  // 64 of the columns of such a tile.
  using Strip = WgmmaTile<BM, 64, PINGPONG, STAGES, SLOTS, SPAN>;
};

// Which consumer warpgroup this thread is in; -1: the producer.
__device__ __forceinline__ int consumer() { return static_cast<int>(threadIdx.x / WARPGROUP) - 1; }
// Which part of a cooperative tile a consumer has.
template <class Tile>
__device__ __forceinline__ int sharer(int consumer) {
  return Tile::PINGPONG ? 0 : consumer;
}

template <class Tile>
struct Ring {
  Cluster cluster;
  char* shared;
  uint64_t* full;

  __device__ __forceinline__ Ring(const Cluster& cluster, char* shared)
      : cluster(cluster), shared(shared), full(reinterpret_cast<uint64_t*>(shared + Tile::BARRIERS_AT)) {}
  __device__ __forceinline__ uint64_t* empty() const { return full + Tile::STAGES; }
  __device__ __forceinline__ uint64_t* order() const { return full + 2 * Tile::STAGES; }
  __device__ __forceinline__ void init() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Tile::STAGES; stage++) {
        mbarrier_init(full + stage, 1);
        // Each consumer warp of the cluster arrives, since all its blocks fill the stage.
        mbarrier_init(empty() + stage, (Tile::PINGPONG ? 1 : CONSUMERS) * 4 * cluster.size);
      }
      for (int group = 0; Tile::PINGPONG && group < CONSUMERS; group++) mbarrier_init(order() + group, 4);
    }
  }
  __device__ __forceinline__ char* stage(int i) const { return shared + i * Tile::STAGE_BYTES; }
};

// A stage of a ring of COUNT, and the parity of the phase in which it is used. Counted on, as a remainder takes longer.
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

// The producer: loads all K tiles of the block's work tiles. loads.begin(tile) goes to the first one of a tile,
// loads.fetch(to, bar) issues one and goes on.
template <class Tile, class Loads>
__device__ __forceinline__ void produce(const Ring<Tile>& ring, const TileScheduler& scheduler, Loads loads) {
  const Cluster& cluster = ring.cluster;
  RingPlace<Tile::STAGES> place;
  for (int i = blockIdx.x / cluster.size; i < scheduler.work_tiles; i += gridDim.x / cluster.size) {
    WorkTile tile = scheduler.work_tile(i, cluster);
    if (tile.from >= tile.to) continue;
    loads.begin(tile);
    int bytes = tile.strip < 0 ? Tile::A_BYTES + Tile::B_BYTES : Tile::A_BYTES + Tile::Strip::B_BYTES;
    for (int k_tile = tile.from; k_tile < tile.to; k_tile++, place = place + 1) {
      mbarrier_wait(ring.empty() + place.at, place.parity ^ 1);
      mbarrier_expect(ring.full + place.at, bytes);
      loads.fetch(ring.stage(place.at), ring.full + place.at);
    }
  }
}

// The main loop: adds the products of `k_tiles` K tiles to `sums`, from the block's `at`-th on; of a strip to their
// first 64 columns. It calls arrived() when the last one is in shared memory.
template <class Tile, int A_MN, int B_MN, class Sums, class Arrived>
__device__ __forceinline__ void mainloop(const Ring<Tile>& ring, int at, int k_tiles, Sums& sums, Arrived arrived) {
  // Bytes from one step of K to the next; where a warpgroup's rows begin.
  constexpr int A_STEP = A_MN ? WGMMA_DEPTH * LINE_BYTES : WGMMA_DEPTH * 2,
                B_STEP = B_MN ? WGMMA_DEPTH * LINE_BYTES : WGMMA_DEPTH * 2;
  int first = Tile::PINGPONG ? 0 : consumer() * Tile::BLOCKS * BLOCK_BYTES;
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
  for (int k_tile = 0; k_tile < k_tiles; k_tile++) {
    mbarrier_wait(ring.full + place.at, place.parity);
    const char *a = ring.stage(place.at) + first, *b = ring.stage(place.at) + Tile::A_BYTES;
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < WGMMA_K_TILE / WGMMA_DEPTH; step++)
#pragma unroll
      for (int block = 0; block < Tile::BLOCKS; block++)
        wgmma<A_MN, B_MN>(reinterpret_cast<WgmmaChunk(&)[Tile::CHUNKS]>(sums[block]),
                          wgmma_operand(a + block * BLOCK_BYTES + step * A_STEP, BLOCK_BYTES),
                          wgmma_operand(b + step * B_STEP, BLOCK_BYTES));
    wgmma_commit();
    // All but these are done: the stage before is free.
    wgmma_wait<1>();
    if (k_tile > 0) release(before);
    before = place.at, place = place + 1;
  }
  arrived();
  wgmma_wait<0>();
  if (k_tiles > 0) release(before);
}

// Calls body(tile, at, number) for each work tile of which consumer warpgroup `consumer` has rows: the block's
// number-th, whose K tiles are the block's from the at-th on.
template <class Tile, class Body>
__device__ __forceinline__ void each_tile(const Cluster& cluster, const TileScheduler& scheduler, int consumer,
                                          Body body) {
  int at = 0, tiles = 0;
  for (int i = blockIdx.x / cluster.size; i < scheduler.work_tiles; i += gridDim.x / cluster.size) {
    WorkTile tile = scheduler.work_tile(i, cluster);
    if (tile.from >= tile.to) continue;
    if (!Tile::PINGPONG || tiles % CONSUMERS == consumer) body(tile, at, tiles);
    at += tile.to - tile.from, tiles++;
  }
}

// A consumer: multiplies the warpgroup's work tiles and calls store(tile, sums) for each.
template <class Tile, int A_MN, int B_MN, bool STRIPS, class Store>
__device__ __forceinline__ void consume(const Ring<Tile>& ring, const TileScheduler& scheduler, Store store) {
  each_tile<Tile>(ring.cluster, scheduler, consumer(), [&](const WorkTile& tile, int at, int tiles) {
    // Until the other warpgroup has all K tiles before; the first one need not wait at first.
    if (Tile::PINGPONG) mbarrier_wait(ring.order() + consumer(), tiles / CONSUMERS & 1 ^ 1 - consumer());
    typename Tile::Sums sums = {};
    auto multiply = [&](auto part) {
      mainloop<decltype(part), A_MN, B_MN>({ring.cluster, ring.shared}, at, tile.to - tile.from, sums, [&] {
        if (Tile::PINGPONG && threadIdx.x % 32 == 0) mbarrier_arrive(ring.order() + (1 - consumer()));
      });
    };
    if constexpr (STRIPS) {
      if (tile.strip >= 0) multiply(typename Tile::Strip{});
    }
    if (!STRIPS || tile.strip < 0) multiply(Tile{});
    store(tile, sums);
  });
}

// The whole kernel. Of the producer warpgroup one warp loads K tiles, and one warp for each consumer loads for its
// epilogue: init() makes those barriers, and one thread calls fill(cluster, consumer).
template <class Tile, int A_MN, int B_MN, class Loads, class Init, class Fill, class Store>
__device__ __forceinline__ void run_tiles(char* shared, const TileScheduler& scheduler, Loads loads, Init init,
                                          Fill fill, Store store) {
  Ring<Tile> ring(Cluster::own(), shared);
  ring.init();
  if (threadIdx.x == 0) {
    init();
    mbarrier_init_fence();
    loads.prefetch();
  }
  cluster_sync();
  if (threadIdx.x < WARPGROUP) {
    registers_release<PRODUCER_REGISTERS>();
    loads.cluster = ring.cluster;
    int warp = threadIdx.x / 32;
    if (threadIdx.x == 0)
      produce(ring, scheduler, loads);
    else if (threadIdx.x % 32 == 0 && warp <= CONSUMERS)
      fill(ring.cluster, warp - 1);
  } else {
    registers_claim<CONSUMER_REGISTERS>();
    consume<Tile, A_MN, B_MN, Loads::STRIPS>(ring, scheduler, store);
  }
  // Until no block of the cluster arrives at this block's barriers any more.
  cluster_sync();
}
