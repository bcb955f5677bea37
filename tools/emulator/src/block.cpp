// Scheduling: which thread of the block runs next, and what to say when none can.
#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "sanitizer.h"

namespace emu {

__thread Thread* current;
__thread Block* running;

namespace {

uint64_t step(uint64_t& x) {  // xorshift64
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  return x;
}

uint64_t mix(uint64_t x) {  // splitmix64's finaliser: nearby seeds give unrelated streams
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ x >> 27) * 0x94D049BB133111EBull;
  return (x ^ x >> 31) | 1;
}

void thread_main() {
  entered();
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  SYNC_ACQUIRE(&block);
  block.body(block.argument);
  SYNC_RELEASE(&block);
  me->state = DONE;
  block.live--;
  block.returned[me->warp] |= 1u << me->lane;
  if (!block.left) block.left = me;
  if (block.barrier.arrived)
    fail("early exit: thread %u returns while thread %u waits in %s at %s:%d", me->linear,
         block.barrier.waiting[0]->linear, block.barrier.kind, block.barrier.file, block.barrier.line);
  for (const Meeting& m : block.warps[me->warp])
    if (m.arrived && m.mask >> me->lane & 1)
      fail("early exit: thread %u returns while other lanes of mask %08x wait for it in %s at %s:%d", me->linear, m.mask,
           m.kind, m.file, m.line);
  check_return(block, *me);
  block.leave(me, true);
  abort();  // nobody continues a thread that has returned
}

}  // namespace

void fail(const char* format, ...) {
  Block* block = running;
  va_list arguments;
  va_start(arguments, format);
  if (!block) {
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    abort();
  }
  if (!block->failed) {
    const Thread& t = *current;
    int n = vsnprintf(block->error, sizeof block->error, format, arguments);
    size_t used = n < 0 ? 0 : std::min<size_t>(n, sizeof block->error - 1);
    snprintf(block->error + used, sizeof block->error - used, " (block %u,%u,%u)", t.block_index.x, t.block_index.y,
             t.block_index.z);
  }
  va_end(arguments);
  block->failed = true;
  // The block's threads stay where they are; their stacks are set up anew before the next block.
  switch_fiber(static_cast<Lane*>(current)->fiber, block->scheduler, true);
  abort();
}

size_t Block::draw(size_t count) { return step(random) % count; }

Lane* Block::next() {
  if (!queued) return nullptr;
  if (schedule.order == AHEAD) {
    queued--;
    size_t warp = warps.size() - 1;
    while (!ready_lanes[warp]) warp--;
    unsigned lane = 31 - __builtin_clz(ready_lanes[warp]);
    ready_lanes[warp] &= ~(1u << lane);
    return &lanes[warp * WARP + lane];
  }
  auto at = [&](size_t i) -> Lane*& { return ready[wrap(head + i)]; };
  if (schedule.order == RANDOM) std::swap(at(draw(queued)), at(0));
  if (schedule.order == REVERSE) return at(--queued);
  Lane* lane = at(0);
  head = wrap(head + 1);
  queued--;
  return lane;
}

void Block::make_ready(Lane* lane) {
  lane->state = READY;
  if (schedule.order == AHEAD) {
    ready_lanes[lane->warp] |= 1u << lane->lane;
    queued++;
    return;
  }
  ready[wrap(head + queued++)] = lane;
}

void Block::leave(Lane* me, bool last) {
  Lane* lane = next();
  // In the name of the thread that stops last.
  while (!lane && asynchronous.progress(*this)) lane = next();
  if (lane == me) return;
  if (lane) current = lane;
  switch_fiber(me->fiber, lane ? lane->fiber : scheduler, last);
}

void Block::wait(Lane* me, const char* kind, unsigned mask, const char* file, int line) {
  me->state = WAITING;
  me->kind = kind, me->mask = mask, me->file = file, me->line = line;
  leave(me, false);
}

void Block::report_deadlock() {
  int used = snprintf(error, sizeof error, "deadlock: %u of %u threads never finish", live, threads);
  struct Place {
    const Lane* first;
    unsigned count;
  };
  std::vector<Place> places;
  for (const Lane& lane : lanes) {
    if (lane.linear >= threads || lane.state != WAITING) continue;
    Place* known = nullptr;
    for (Place& p : places)
      if (p.first->line == lane.line && p.first->mask == lane.mask && !strcmp(p.first->file, lane.file) &&
          p.first->warp == lane.warp)
        known = &p;
    if (known) known->count++;
    else places.push_back({&lane, 1});
  }
  const size_t shown = std::min<size_t>(places.size(), 4);
  for (size_t i = 0; i < shown; i++) {
    const Lane& l = *places[i].first;
    char mask[32] = "";
    if (l.mask) snprintf(mask, sizeof mask, " (mask %08x)", l.mask);
    used += snprintf(error + used, sizeof error - used, "; thread %u and %u more of its warp wait in %s%s at %s:%d",
                     l.linear, places[i].count - 1, l.kind, mask, l.file, l.line);
    used = std::min<int>(used, sizeof error - 1);
  }
  const Thread& t = lanes[0];
  snprintf(error + used, sizeof error - used, "%s (block %u,%u,%u)", places.size() > shown ? "; .." : "", t.block_index.x,
           t.block_index.y, t.block_index.z);
  failed = true;
}

bool Block::open(const Schedule& s, const uint32_t* g, const uint32_t* e, size_t bytes, void (*call)(void*), void* arg) {
  schedule = s;
  skip = emu::skip(s.skipped_site);
  grid = dim3(g[0], g[1], g[2]);
  extent = dim3(e[0], e[1], e[2]);
  threads = extent.x * extent.y * extent.z;
  dynamic_bytes = bytes;
  body = call;
  argument = arg;
  if (!arena) arena = static_cast<unsigned char*>(aligned_alloc(1024, SHARED_LIMIT + 1024));
  if (!arena) return false;
  if (lanes.size() < threads) lanes.resize(threads);
  for (unsigned t = 0; t < threads; t++)
    if (!lanes[t].fiber.stack && !(lanes[t].fiber.stack = new_stack())) return false;
  ready.resize(threads);
  warps.resize((threads + WARP - 1) / WARP);
  returned.resize(warps.size());
  banks.resize(warps.size());
  barrier.waiting.reserve(threads);
  return true;
}

bool Block::run(uint64_t index) {
  const uint3 at{unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y)};
  // By block, not by worker: the same seed gives the same run over any number of OS threads.
  random = mix(schedule.seed ^ mix(index));
  head = queued = 0;
  live = threads;
  left = nullptr;
  failed = false;
  barrier.arrived = barrier.votes = 0;
  barrier.waiting.clear();
  for (auto& meetings : warps) meetings.clear();
  for (auto& lanes_returned : returned) lanes_returned = 0;
  for (auto& warp : banks) warp.clear();
  ready_lanes.assign(warps.size(), 0);
  variables.clear();
  asynchronous.clear(threads);
  // Shared memory that nobody wrote reads as NaN, or -1.
  MEMORY_POISON(arena, SHARED_LIMIT + 1024);
  MEMORY_UNPOISON(arena, dynamic_bytes);
  memset(arena, 0xFF, dynamic_bytes);
  arena_used = dynamic_bytes ? (dynamic_bytes + SHARED_GAP + 15) / 16 * 16 : 0;
  for (unsigned t = 0; t < threads; t++) {
    Lane& lane = lanes[t];
    lane.linear = t, lane.lane = t % WARP, lane.warp = t / WARP;
    lane.thread_index = {t % extent.x, t / extent.x % extent.y, t / (extent.x * extent.y)};
    lane.block_index = at;
    lane.block_extent = extent, lane.grid_extent = grid;
    lane.copies.clear(), lane.groups.clear();
    lane.copied = lane.waited = 0;
    lane.hopper.clear();
    prepare(lane.fiber, thread_main);
    make_ready(&lane);
  }
  SYNC_RELEASE(this);
  Lane* first = next();
  current = first;
  switch_fiber(scheduler, first->fiber);
  SYNC_ACQUIRE(this);
  current = nullptr;
  if (!failed && live) report_deadlock();
  return !failed;
}

void Block::close() { MEMORY_UNPOISON(arena, SHARED_LIMIT + 1024); }

}  // namespace emu
