#include "asynchronous.h"

#include <algorithm>

#include "block.h"
#include "hopper.h"

namespace emu {

constexpr size_t GRANULE = 16;

void Hopper::clear() {
  stores.clear(), store_groups.clear(), unfenced.clear(), product_groups.clear();
  stores_waited = stores_read = 0;
  products_fenced = false;
  products = committed = wanted = 0;
}

void Asynchronous::clear(unsigned threads) {
  // Most kernels know nothing of this.
  if (!used && named.size() && warpgroups.size() == threads / WARPGROUP_THREADS) return;
  if (used) std::fill(unfenced.begin(), unfenced.end(), uint32_t(0));
  used = false;
  barriers.clear(), loads.clear(), warpgroups.clear(), named.clear();
  warpgroups.resize(threads / WARPGROUP_THREADS);
  named.resize(16);
}

bool Asynchronous::progress(Block& block) {
  std::vector<Warpgroup*> waited;
  for (Warpgroup& group : warpgroups)
    if (!group.waiting.empty()) waited.push_back(&group);
  const size_t count = loads.size() + waited.size();
  if (!count) return false;
  // Whether copies or products come first is open, so schedules differ: a product that reads a stage too early shows where
  // products come first, a stage that is filled again too early where copies do.
  size_t chosen = block.schedule.order == AHEAD && !waited.empty() ? loads.size() : 0;
  if (block.schedule.order == RANDOM) chosen = block.draw(count);
  if (chosen >= loads.size()) {
    compute_next(block, *waited[chosen - loads.size()]);
    return true;
  }
  const Load load = loads[chosen];
  loads.erase(loads.begin() + ptrdiff_t(chosen));
  load_box(load.box, load.to->arena);
  bytes_arrive(*load.to, *load.barrier, int64_t(box_bytes(load.box.map)), load.box);
  return true;
}

void check_return(Block& block, Lane& lane) {
  const Hopper& own = lane.hopper;
  if (!block.asynchronous.used) return;
  if (own.stores.size() > (own.store_groups.empty() ? 0 : own.store_groups.back()))
    fail("tma_store: thread %u returns without tma_store_commit after its store at %s:%d", lane.linear,
         own.stores.back().file, own.stores.back().line);
  if (own.stores_waited < own.store_groups.size() && !own.stores.empty())
    fail("tma_store: thread %u returns without tma_store_wait_read<0> after its store at %s:%d", lane.linear,
         own.stores.back().file, own.stores.back().line);
  if (own.products > own.committed || !own.product_groups.empty())
    fail("wgmma: thread %u returns with products that it did not wait for", lane.linear);
  if (lane.linear / WARPGROUP_THREADS < block.asynchronous.warpgroups.size()) {
    const Warpgroup& group = block.asynchronous.warpgroups[lane.linear / WARPGROUP_THREADS];
    if (group.arrived)
      fail("early exit: thread %u returns while others of its warpgroup wait in %s at %s:%d", lane.linear, group.kind,
           group.file, group.line);
  }
  if (!block.live && !block.asynchronous.loads.empty()) {
    const Box& box = block.asynchronous.loads.front().box;
    fail("%s: the block ends before the copy of %s:%d has come", box.kind, box.file, box.line);
  }
}

void* hopper_shared() {
  running->asynchronous.used = true;
  return running->arena;
}

void shared_written(const void* p, size_t bytes) {
  Block& block = *running;
  if (!block.asynchronous.used) return;
  auto& unfenced = block.asynchronous.unfenced;
  if (unfenced.empty()) unfenced.resize(SHARED_LIMIT / GRANULE + 64);
  const size_t offset = size_t(static_cast<const unsigned char*>(p) - block.arena);
  for (size_t granule = offset / GRANULE; granule <= (offset + bytes - 1) / GRANULE; granule++) {
    auto& own = static_cast<Lane*>(current)->hopper.unfenced;
    if (!own.empty() && own.back() == granule) continue;
    own.push_back(uint32_t(granule));
    unfenced[granule]++;
  }
}

void proxy_fence(const char* file, int line) {
  if (left_out("proxy_fence", file, line)) return;
  Block& block = *running;
  block.asynchronous.used = true;
  auto& own = static_cast<Lane*>(current)->hopper.unfenced;
  for (uint32_t granule : own) block.asynchronous.unfenced[granule]--;
  own.clear();
}

void check_fenced(size_t offset, size_t bytes, const char* kind, const char* file, int line) {
  const Block& block = *running;
  const auto& unfenced = block.asynchronous.unfenced;
  if (unfenced.empty()) return;
  for (size_t granule = offset / GRANULE; granule <= (offset + bytes - 1) / GRANULE; granule++) {
    if (!unfenced[granule]) continue;
    for (unsigned t = 0; t < block.threads; t++)
      for (uint32_t written : block.lanes[t].hopper.unfenced)
        if (written == granule)
          fail("%s: thread %u reads what thread %u wrote to shared memory (byte %zu) without proxy_fence since, at %s:%d",
               kind, current->linear, t, granule * GRANULE, file, line);
  }
}

}  // namespace emu
