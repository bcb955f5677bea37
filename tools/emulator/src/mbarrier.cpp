// Barriers in shared memory, barriers with a number, and the copies that complete on the former.
#include "asynchronous.h"
#include "block.h"
#include "hopper.h"
#include "sanitizer.h"

namespace emu {
namespace {

// A barrier counts fewer bytes than this (PTX ISA, "tx-count").
constexpr int64_t BYTES_LIMIT = (1 << 20) - 1;
// And fewer arrivals than this.
constexpr int ARRIVALS_LIMIT = (1 << 20) - 1;

// Ends the phase if all have come.
void settle(Block& block, MemoryBarrier& b, const char* kind, const char* file, int line) {
  if (b.bytes > BYTES_LIMIT || b.bytes < -BYTES_LIMIT)
    fail("%s: thread %u: more than %d bytes at once on one mbarrier at %s:%d", kind, current->linear, int(BYTES_LIMIT), file,
         line);
  if (b.pending) return;
  if (b.bytes < 0)
    fail("%s: thread %u: copies bring %d bytes more than mbarrier_expect announced, at %s:%d", kind, current->linear,
         int(-b.bytes), file, line);
  if (b.bytes) return;
  b.pending = b.arrivals;
  b.phase++;
  for (Lane* lane : b.waiting) block.make_ready(lane);
  b.waiting.clear();
}

}  // namespace

void arrive(Block& block, const void* at, int bytes, const char* kind, const char* file, int line) {
  MemoryBarrier& b = find_barrier(block, at, kind, file, line);
  if (!b.pending)
    fail("%s: thread %u arrives, but all %d arrivals of this phase have come already, at %s:%d", kind, current->linear,
         b.arrivals, file, line);
  SYNC_RELEASE(&b);
  b.bytes += bytes;
  b.pending--;
  settle(block, b, kind, file, line);
}

MemoryBarrier& find_barrier(Block& block, const void* at, const char* kind, const char* file, int line) {
  for (MemoryBarrier& b : block.asynchronous.barriers)
    if (b.at == at) return b;
  fail("%s: thread %u uses an mbarrier before its mbarrier_init, at %s:%d", kind, current->linear, file, line);
}

void mbarrier_init(uint64_t* bar, int arrivals, const char* file, int line) {
  Block& block = *running;
  check_shared(bar, 8, "mbarrier_init", file, line);
  if (arrivals < 1 || arrivals > ARRIVALS_LIMIT)
    fail("mbarrier_init: thread %u asks for %d arrivals at %s:%d", current->linear, arrivals, file, line);
  for (const MemoryBarrier& b : block.asynchronous.barriers)
    if (b.at == bar)
      fail("mbarrier_init: thread %u initialises an mbarrier again at %s:%d", current->linear, file, line);
  block.asynchronous.used = true;
  block.asynchronous.barriers.push_back({bar, current->linear, false, arrivals, arrivals, 0, 0, {}});
}

void mbarrier_init_fence(const char* file, int line) {
  if (left_out("mbarrier_init_fence", file, line)) return;
  for (MemoryBarrier& b : running->asynchronous.barriers)
    if (b.owner == current->linear) b.fenced = true;
}

void mbarrier_arrive(uint64_t* bar, const char* file, int line) {
  if (left_out("mbarrier_arrive", file, line)) return;
  arrive(*running, bar, 0, "mbarrier_arrive", file, line);
}

void mbarrier_expect(uint64_t* bar, int bytes, const char* file, int line) {
  if (left_out("mbarrier_expect", file, line)) return;
  if (bytes < 0) fail("mbarrier_expect: thread %u announces %d bytes at %s:%d", current->linear, bytes, file, line);
  arrive(*running, bar, bytes, "mbarrier_expect", file, line);
}

void mbarrier_wait(uint64_t* bar, int parity, const char* file, int line) {
  if (left_out("mbarrier_wait", file, line)) return;
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  if (parity & ~1) fail("mbarrier_wait: thread %u passes parity %d at %s:%d", me->linear, parity, file, line);
  MemoryBarrier& b = find_barrier(block, bar, "mbarrier_wait", file, line);
  // Asked anew when the thread runs again: one that is too slow for two phases waits on, as it may on a GPU.
  while (int(b.phase & 1) == parity) {
    b.waiting.push_back(me);
    block.wait(me, "mbarrier_wait", 0, file, line);
  }
  SYNC_ACQUIRE(&b);
}

void bytes_arrive(Block& block, MemoryBarrier& b, int64_t bytes, const Box& box) {
  SYNC_RELEASE(&b);
  b.bytes -= bytes;
  settle(block, b, box.kind, box.file, box.line);
}

void load(Box& box, void* to, uint64_t* bar, int rank, bool im2col, unsigned mask) {
  Block& block = *running;
  box.shared = static_cast<unsigned char*>(to);
  check_box(box, rank, im2col);
  const ptrdiff_t place = box.shared - block.arena, bar_place = reinterpret_cast<unsigned char*>(bar) - block.arena;
  for (unsigned r = 0; r < block.cluster.size(); r++) {
    if (!(mask >> r & 1)) continue;
    Block& target = *block.cluster[r];
    MemoryBarrier& b = find_barrier(target, target.arena + bar_place, box.kind, box.file, box.line);
    if (!b.fenced)
      fail("%s: thread %u passes an mbarrier without mbarrier_init_fence since its initialisation, at %s:%d", box.kind,
           current->linear, box.file, box.line);
    box.shared = target.arena + place;
    if (block.schedule.late_copies) {
      block.asynchronous.loads.push_back({box, &target, &b});
      continue;
    }
    load_box(box, target.arena);
    bytes_arrive(target, b, int64_t(box_bytes(box.map)), box);
  }
}

void tma_load(Box& box, void* to, uint64_t* bar, int rank, bool im2col) {
  load(box, to, bar, rank, im2col, 1u << running->rank);
}

void tma_store(Box& box, const void* from, int rank) {
  Block& block = *running;
  block.asynchronous.used = true;
  box.shared = static_cast<unsigned char*>(const_cast<void*>(from));
  check_box(box, rank, false);
  check_fenced(size_t(box.shared - block.arena), box_bytes(box.map), box.kind, box.file, box.line);
  static_cast<Lane*>(current)->hopper.stores.push_back(box);
  if (!block.schedule.late_copies) store_box(box, block.arena);
}

void tma_store_commit(const char* file, int line) {
  if (left_out("tma_store_commit", file, line)) return;
  Hopper& own = static_cast<Lane*>(current)->hopper;
  own.store_groups.push_back(own.stores.size());
}

void tma_store_wait_read(int pending, const char* file, int line) {
  if (left_out("tma_store_wait_read", file, line)) return;
  Block& block = *running;
  Hopper& own = static_cast<Lane*>(current)->hopper;
  while (own.store_groups.size() - own.stores_waited > size_t(pending)) {
    const size_t end = own.store_groups[own.stores_waited++];
    for (; own.stores_read < end; own.stores_read++)
      if (block.schedule.late_copies) store_box(own.stores[own.stores_read], block.arena);
  }
  if (own.stores_waited == own.store_groups.size() && own.stores_read == own.stores.size()) {
    own.stores.clear(), own.store_groups.clear();
    own.stores_waited = own.stores_read = 0;
  }
}

void warpgroup_sync(int barrier, int threads, const char* file, int line) {
  if (left_out("warpgroup_sync", file, line)) return;
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  if (barrier < 1 || barrier > 15)
    fail("warpgroup_sync: thread %u passes barrier %d, not one of 1 to 15, at %s:%d", me->linear, barrier, file, line);
  if (threads < 1 || threads % int(WARP) || threads > int(block.threads))
    fail("warpgroup_sync: thread %u asks for %d of %u threads at %s:%d", me->linear, threads, block.threads, file, line);
  block.asynchronous.used = true;
  NamedBarrier& b = block.asynchronous.named[barrier];
  if (b.arrived && (b.line != line || !same_text(b.file, file)))
    fail("divergent barrier: thread %u is in warpgroup_sync at %s:%d while thread %u waits in barrier %d at %s:%d",
         me->linear, file, line, b.waiting[0]->linear, barrier, b.file, b.line);
  if (b.arrived && b.threads != threads)
    fail("warpgroup_sync: thread %u asks for %d threads where thread %u waits for %d, at %s:%d", me->linear, threads,
         b.waiting[0]->linear, b.threads, file, line);
  b.file = file, b.line = line, b.threads = threads;
  [[maybe_unused]] char* tag = &b.tag[b.phase & 1];
  SYNC_RELEASE(tag);
  if (++b.arrived == threads) {
    b.arrived = 0;
    b.phase++;
    for (Lane* lane : b.waiting) block.make_ready(lane);
    b.waiting.clear();
  } else {
    b.waiting.push_back(me);
    block.wait(me, "warpgroup_sync", 0, file, line);
  }
  SYNC_ACQUIRE(tag);
}

}  // namespace emu
