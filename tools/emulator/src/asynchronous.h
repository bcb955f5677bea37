// What runs beside a block's threads and what they meet at on Hopper: barriers in memory, copies by tensor maps, products of
// warpgroups. Late schedules hold a copy or a product back until no thread of the block can run without it.
#pragma once
#include <cstdint>
#include <deque>
#include <vector>

#include "runtime.h"
#include "tensor_map.h"

namespace emu {

struct Block;
struct Lane;

constexpr unsigned WARPGROUP_THREADS = 128;

struct MemoryBarrier {
  const void* at;
  unsigned owner;         // the thread that initialised it
  bool fenced = false;    // known to the copies
  int arrivals, pending;  // of a phase; still to come
  int64_t bytes = 0;      // announced and not there yet; negative while copies are ahead of their announcement
  unsigned phase = 0;
  std::vector<Lane*> waiting;
};

struct Load {
  Box box;
  // Where it goes: of this block or another one of its cluster.
  Block* to;
  MemoryBarrier* barrier;
};

// One wgmma of a warpgroup.
struct Product {
  int n;
  bool a_mn, b_mn;
  uint64_t a, b;
  float* sums[WARPGROUP_THREADS];
  const char* file;
  int line;
};

struct Warpgroup {
  // Those who meet at the moment, and where.
  unsigned arrived = 0;
  const char *kind = nullptr, *file = nullptr;
  int line = 0;
  void* slots[WARPGROUP_THREADS] = {};
  char tag[2];
  unsigned phase = 0;
  // Products in the order of issue: queued.front() is number `computed`.
  std::deque<Product> queued;
  uint64_t issued = 0, computed = 0;
  std::vector<Lane*> waiting;  // in wgmma_wait, until Hopper::wanted products are computed
};

// A barrier with a number, of some of the block's threads.
struct NamedBarrier {
  int arrived = 0, threads = 0;
  const char* file = nullptr;
  int line = 0;
  std::vector<Lane*> waiting;
  char tag[2];
  unsigned phase = 0;
};

// A thread's part of it.
struct Hopper {
  std::vector<Box> stores;
  std::vector<size_t> store_groups;  // ends of the committed groups in `stores`
  size_t stores_waited = 0, stores_read = 0;
  std::vector<uint32_t> unfenced;  // granules written since the last proxy_fence
  bool products_fenced = false;
  uint64_t products = 0, committed = 0, wanted = 0;
  std::deque<uint64_t> product_groups;  // ends of the groups that are pending
  void clear();
};

struct Asynchronous {
  bool used = false;  // by this block; else the rest is as clear() left it
  std::deque<MemoryBarrier> barriers;  // never moved
  std::deque<Load> loads;              // asked for and not performed
  std::vector<uint32_t> unfenced;      // of each granule, writes without a fence
  std::vector<Warpgroup> warpgroups;
  std::vector<NamedBarrier> named;

  void clear(unsigned threads);
  // Performs something that a late schedule held back, as no thread can run; false if there is nothing.
  bool progress(Block& block);
};

// The thread returns: fails if it leaves something open.
void check_return(Block& block, Lane& lane);
// Fails if these bytes of shared memory hold a write that copies and products do not see yet.
void check_fenced(size_t offset, size_t bytes, const char* kind, const char* file, int line);
void bytes_arrive(Block& block, MemoryBarrier& barrier, int64_t bytes, const Box& box);
// The block's barrier at this address of its shared memory; fails if it was not initialised.
MemoryBarrier& find_barrier(Block& block, const void* at, const char* kind, const char* file, int line);
// The thread arrives at the block's barrier and announces bytes.
void arrive(Block& block, const void* at, int bytes, const char* kind, const char* file, int line);
// The thread returns: fails if others of the cluster wait for it.
void check_cluster_return(const Block& block, const Lane& lane);
// Asks for a box for all blocks of the cluster in `mask`, each at its own address and barrier.
void load(Box& box, void* to, uint64_t* bar, int rank, bool im2col, unsigned mask);
// Computes the oldest product that is queued and wakes those who waited for no more.
void compute_next(Block& block, Warpgroup& group);

}  // namespace emu
