// Loads and stores of the epilogue of conv_wgmma.cuh, by TMA: a ring of slots of 64 x 64 bf16 in shared memory for each
// consumer warpgroup. One thread of the producer warpgroup fills a ring as far ahead as it has room. So an epilogue's
// loads are in flight while its tile is multiplied, and hold no registers.
//
// A slot is `full` when its bytes have arrived, and `empty` when all warps and the store from it have read it. An
// epilogue without loads (BARE) has no producer: a slot is full as soon as the store that read it before is done; the
// stores of all other slots may be in flight. A store queues behind the loads of K tiles, for longer than the next 64 x
// 64 results take.
#pragma once
#include "conv_norm.cuh"
#include "conv_wgmma.cuh"

// 64 x 64 results of a warpgroup, a Tile of conv_store.cuh, swizzled as a tensor map expects.
struct ResultTile : WarpgroupTeam {
  static constexpr int BM = 64, BN = 64, DOWN_16 = 1, ACROSS_8 = 8;
  using Sums = WgmmaChunk;

  __device__ static int row() { return thread() / 32 * 16; }
  __device__ static int column() { return 0; }
};

// Where a block of 64 x 64 results lies: from `row` of its group on, which has `rows` more, and from `column` on.
struct ResultPlace {
  int layer, row, rows, column;

  // The number of its 64 rows among those of all groups of `group` rows.
  __device__ __forceinline__ size_t piece(int group) const { return size_t(layer) * ((group + 63) / 64) + row / 64; }
};

// The blocks of 64 x 64 that a warpgroup has of a tile, in groups of `group` rows and `count` columns: COUNT of them,
// CHUNKS to a row, or of a strip the first of each row.
template <class Tile>
struct TileBlocks {
  static constexpr int COUNT = Tile::BLOCKS * Tile::CHUNKS;
  const WorkTile& tile;
  int consumer, group, count;

  __device__ __forceinline__ ResultPlace place(int k) const {
    int row = tile.row * Tile::BM + sharer<Tile>(consumer) * Tile::ROWS + k / Tile::CHUNKS * 64;
    int column = tile.column * Tile::SPAN + (tile.strip < 0 ? k % Tile::CHUNKS : tile.strip) * 64;
    return {tile.layer, row, group - row, column};
  }
  // A bit for each block that has results.
  __device__ __forceinline__ unsigned some() const {
    unsigned some = 0;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
      ResultPlace at = place(k);
      if (at.rows > 0 && at.column < count && (k % Tile::CHUNKS == 0 || tile.strip < 0)) some |= 1u << k;
    }
    return some;
  }
};

// Images that an epilogue loads, each with the extents of the output; each may be null. A block's slots in order: what
// is added to it, what tells its ReLU mask, x. The block is stored from the first of add and mask, or from an empty
// slot before x.
struct BlockInputs {
  static constexpr int MOST = 3;
  const CUtensorMap *add, *mask, *x;

  __device__ __forceinline__ bool in_place() const { return add || mask; }
  __device__ __forceinline__ int mask_at() const { return add ? 1 : 0; }
  __device__ __forceinline__ int x_at() const { return add && mask ? 2 : 1; }
  __device__ __forceinline__ int slots() const { return x_at() + (x ? 1 : 0); }
};

// The ring of one consumer warpgroup. Producer and consumer each count the slots that they have passed. BARE: no loads.
template <class Tile, bool BARE = false>
struct Slots {
  static constexpr unsigned COUNT = Tile::SLOTS;
  // Addresses are computed anew at each use: pointers would take twice the registers.
  char* shared;
  unsigned consumer;
  RingPlace<COUNT> next;
  int messages = 0, leaving = -1;

  __device__ __forceinline__ Slots(char* shared, int consumer) : shared(shared), consumer(consumer) {}
  __device__ __forceinline__ char* scratch() const { return shared + (Tile::SCRATCH_AT + consumer * SCRATCH_BYTES); }
  __device__ __forceinline__ uint64_t* full() const {
    return reinterpret_cast<uint64_t*>(shared + (Tile::SLOT_BARRIERS_AT + consumer * ((2 * COUNT + 2) * 8)));
  }
  __device__ __forceinline__ uint64_t* empty() const { return full() + COUNT; }
  __device__ __forceinline__ uint64_t* sent() const { return full() + 2 * COUNT; }
  __device__ __forceinline__ uint64_t* read() const { return full() + 2 * COUNT + 1; }
  __device__ __forceinline__ static void init(char* shared) {
    for (int consumer = 0; consumer < CONSUMERS; consumer++) {
      Slots slots(shared, consumer);
      for (int i = 0; i < COUNT; i++) mbarrier_init(slots.full() + i, 1), mbarrier_init(slots.empty() + i, 4);
      mbarrier_init(slots.sent(), 1), mbarrier_init(slots.read(), 1);
    }
  }
  // The i-th from now on.
  __device__ __forceinline__ char* slot(int i) const {
    return shared + (Tile::SLOTS_AT + consumer * (COUNT * BLOCK_BYTES) + unsigned((next + i).at) * BLOCK_BYTES);
  }

  // Which blocks of a tile of the tail this warpgroup stores is known after the fixup. The consumer tells the producer.
  __device__ __forceinline__ unsigned* message() const { return reinterpret_cast<unsigned*>(scratch()) + 8; }
  __device__ __forceinline__ void send(unsigned blocks) {
    if (BARE) return;
    if (ResultTile::thread() == 0) {
      await_room(read(), messages & 1);
      *message() = blocks;
      mbarrier_arrive(sent());
    }
    messages++;
  }
  __device__ __forceinline__ unsigned receive() {
    mbarrier_wait(sent(), messages++ & 1);
    unsigned blocks = *message();
    mbarrier_arrive(read());
    return blocks;
  }
  // Waits until what lay there before has been used, for the phase of this parity.
  __device__ __forceinline__ static void await_room(uint64_t* used, int parity) { mbarrier_wait(used, parity ^ 1); }

  // Fills the next slot from a map, or with nothing.
  __device__ __forceinline__ void fill(const CUtensorMap* map, const ResultPlace& from) {
    uint64_t* bar = full() + next.at;
    await_room(empty() + next.at, next.parity);
    if (map) {
      mbarrier_expect(bar, BLOCK_BYTES);
      tma_load_3d(slot(0), map, bar, from.column, from.row, from.layer);
    } else {
      mbarrier_arrive(bar);
    }
    next = next + 1;
  }

  // Consumer: begins a block of `count` slots. Waits for the store of the block before, or (BARE) of the one that was
  // in this slot.
  __device__ __forceinline__ void begin(int count) {
    if (!BARE) {
      leave();
    } else if (ResultTile::thread() == 0) {
      tma_store_wait_read<COUNT - 1>();
      mbarrier_arrive(full() + next.at);
    }
#pragma unroll
    for (int i = 0; i < BlockInputs::MOST; i++) {
      RingPlace<COUNT> place = next + i;
      if (i < count) mbarrier_wait(full() + place.at, place.parity);
    }
  }
  // Stores the first slot, which all threads have written, by TMA. A barrier for them.
  __device__ __forceinline__ void store(const CUtensorMap* map, int column, int row, int layer) {
    proxy_fence();
    sync<ResultTile>();
    if (ResultTile::thread() == 0) {
      tma_store_3d(map, slot(0), column, row, layer);
      tma_store_commit();
    }
  }
  // Consumer: the warp has read all slots of the block; its last reads were converged.
  __device__ __forceinline__ void end(int count) {
    if (!BARE && threadIdx.x % 32 == 0) {
#pragma unroll
      for (int i = 0; i < BlockInputs::MOST; i++)
        if (i < count && (i > 0 || ResultTile::thread() != 0)) mbarrier_arrive(empty() + (next + i).at);
    }
    leaving = next.at;
    next = next + count;
  }
  // Waits until the store of the last block has read its slot.
  __device__ __forceinline__ void leave() {
    if (!BARE && leaving >= 0 && ResultTile::thread() == 0) {
      tma_store_wait_read<0>();
      mbarrier_arrive(empty() + leaving);
    }
    leaving = -1;
  }
  // Before the block ends.
  __device__ __forceinline__ static void drain() {
    if (threadIdx.x >= WARPGROUP && ResultTile::thread() == 0) tma_store_wait_read<0>();
  }
};

// Producer: fills a warpgroup's ring, for all blocks that it stores of its tiles.
template <class Tile>
__device__ __forceinline__ void fill_slots(char* shared, const Cluster& cluster, const TileScheduler& scheduler,
                                           int consumer, int count, const BlockInputs& in) {
  Slots<Tile> slots(shared, consumer);
  each_tile<Tile>(cluster, scheduler, consumer, [&](const WorkTile& tile, int, int) {
    TileBlocks<Tile> blocks{tile, consumer, scheduler.group, count};
    unsigned some = tile.peers > 1 ? slots.receive() : blocks.some();
    for (int k = 0; k < blocks.COUNT; k++) {
      if (!(some >> k & 1)) continue;
      ResultPlace at = blocks.place(k);
      if (in.add) slots.fill(in.add, at);
      if (in.mask) slots.fill(in.mask, at);
      if (!in.in_place()) slots.fill(nullptr, at);
      if (in.x) slots.fill(in.x, at);
    }
  });
}
