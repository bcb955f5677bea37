// What the results of conv_wgmma.cuh's tiles need besides, and where they leave from: slots of 64 x 64 bf16 in shared memory, a
// ring of them for each warpgroup that multiplies. One thread of the asking warpgroup fills a ring, by tensor maps and as far ahead
// as it has room: so the loads of an epilogue are on their way while its tile is multiplied, and hold no register.
//
// A slot is `full` when its bytes are there, and `empty` when all warps have read it and the copy that stores it has. Where results
// need nothing besides, nobody fills slots: they are full as soon as the copy that read them before is done, while all others may
// be under way. A copy waits behind those that bring slices, for longer than the next results take.
#pragma once
#include "conv_norm.cuh"
#include "conv_wgmma.cuh"

// 64 x 64 results of a warpgroup, a Tile of conv_results.cuh. They lie swizzled as a tensor map takes them.
struct ResultTile : WarpgroupTeam {
  static constexpr int BM = 64, BN = 64, DOWN_16 = 1, ACROSS_8 = 8;
  using Sums = WgmmaChunk;

  __device__ static int row() { return thread() / 32 * 16; }
  __device__ static int column() { return 0; }
};

// 64 x 64 results: from `row` of their group on, which ends after `rows` more, and from `column` on.
struct ResultPlace {
  int layer, row, rows, column;

  // Which piece of 64 rows they are, of all groups of `group` rows.
  __device__ __forceinline__ size_t piece(int group) const { return size_t(layer) * ((group + 63) / 64) + row / 64; }
};

// The blocks of 64 x 64 that a warpgroup has of a tile, in groups of `group` rows and `count` columns: COUNT of them, CHUNKS to a row,
// or of a strip the first of each row.
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
  // A bit for each that has results.
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

// Images, of the results' extents, that they are stored with; each may be null. A block's slots: what is added to it, what tells its
// mask, in the first of which it is stored (a slot without bytes if there is neither), and then x.
struct BlockInputs {
  static constexpr int MOST = 3;
  const CUtensorMap *add, *mask, *x;

  __device__ __forceinline__ bool in_place() const { return add || mask; }
  __device__ __forceinline__ int mask_at() const { return add ? 1 : 0; }
  __device__ __forceinline__ int x_at() const { return add && mask ? 2 : 1; }
  __device__ __forceinline__ int slots() const { return x_at() + (x ? 1 : 0); }
};

// The ring of one warpgroup. Each side counts the slots that it has come to. BARE: results need nothing besides.
template <class Tile, bool BARE = false>
struct Slots {
  static constexpr unsigned COUNT = Tile::SLOTS;
  // Places in shared memory are worked out from its number anew: pointers would take twice the registers.
  char* shared;
  unsigned consumer;
  RingPlace<COUNT> next;
  int letters = 0, leaving = -1;

  __device__ __forceinline__ Slots(char* shared, int consumer) : shared(shared), consumer(consumer) {}
  __device__ __forceinline__ char* notes() const { return shared + (Tile::NOTES_AT + consumer * NOTES_BYTES); }
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

  // Of a cut tile only the last of those who share it knows which blocks it will store. It tells who fills.
  __device__ __forceinline__ unsigned* letter() const { return reinterpret_cast<unsigned*>(notes()) + 8; }
  __device__ __forceinline__ void send(unsigned blocks) {
    if (BARE) return;
    if (ResultTile::thread() == 0) {
      await_room(read(), letters & 1);
      *letter() = blocks;
      mbarrier_arrive(sent());
    }
    letters++;
  }
  __device__ __forceinline__ unsigned receive() {
    mbarrier_wait(sent(), letters++ & 1);
    unsigned blocks = *letter();
    mbarrier_arrive(read());
    return blocks;
  }
  // Until what was there before is used up, for the phase of this parity.
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

  // The multiplying side: begins a block of `count` slots. The block before has left now, or (BARE) the one that was in this one's
  // slot.
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
  // Copies the first slot away, which all threads have written. A barrier for them.
  __device__ __forceinline__ void store(const CUtensorMap* map, int column, int row, int layer) {
    proxy_fence();
    sync<ResultTile>();
    if (ResultTile::thread() == 0) {
      tma_store_3d(map, slot(0), column, row, layer);
      tma_store_commit();
    }
  }
  // The warp has read all slots of the block: its last reads were those of all lanes together.
  __device__ __forceinline__ void end(int count) {
    if (!BARE && threadIdx.x % 32 == 0) {
#pragma unroll
      for (int i = 0; i < BlockInputs::MOST; i++)
        if (i < count && (i > 0 || ResultTile::thread() != 0)) mbarrier_arrive(empty() + (next + i).at);
    }
    leaving = next.at;
    next = next + count;
  }
  // The copy of the last block has read its slot.
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

// Fills the slots of a warpgroup, for all blocks that it stores of its tiles.
template <class Tile>
__device__ __forceinline__ void fill_slots(char* shared, const Cluster& cluster, const TileScheduler& scheduler,
                                           int consumer, int count, const BlockInputs& in) {
  Slots<Tile> slots(shared, consumer);
  each_tile<Tile>(cluster, scheduler, consumer, [&](const WorkTile& tile, int, int) {
    TileBlocks<Tile> blocks{tile, consumer, scheduler.group, count};
    unsigned some = tile.parts > 1 ? slots.receive() : blocks.some();
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
