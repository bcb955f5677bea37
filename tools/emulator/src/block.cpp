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
  check_cluster_return(block, *me);
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
  switch_fiber(static_cast<Lane*>(current)->fiber, block->cluster[0]->scheduler, true);
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

Block* Block::next_block() {
  const size_t size = cluster.size();
  if (size == 1) return queued ? this : nullptr;
  // Forward, a block goes on as long as it can; in reverse, and where the last warp runs ahead, the last block does.
  size_t first = schedule.order == FORWARD ? rank : schedule.order == RANDOM ? draw(size) : size - 1;
  for (size_t i = 0; i < size; i++) {
    const bool up = schedule.order == FORWARD || schedule.order == RANDOM;
    Block* block = cluster[(up ? first + i : first + size - i) % size];
    if (block->queued) return block;
  }
  return nullptr;
}

bool Block::progress() {
  const size_t size = cluster.size(), first = size > 1 && schedule.order == RANDOM ? draw(size) : rank;
  for (size_t i = 0; i < size; i++) {
    Block* block = cluster[(first + i) % size];
    if (block->asynchronous.progress(*block)) return true;
  }
  return false;
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
  Block* block = next_block();
  // In the name of the thread that stops last.
  while (!block && progress()) block = next_block();
  Lane* lane = block ? block->next() : nullptr;
  if (lane == me) return;
  if (lane) running = block, current = lane;
  switch_fiber(me->fiber, lane ? lane->fiber : cluster[0]->scheduler, last);
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

bool Block::open(const Schedule& s, const Extent& e, void (*call)(void*), void* arg) {
  schedule = s;
  skip = emu::skip(s.skipped_site);
  grid = dim3(e.grid[0], e.grid[1], e.grid[2]);
  extent = dim3(e.block[0], e.block[1], e.block[2]);
  threads = extent.x * extent.y * extent.z;
  dynamic_bytes = e.shared_bytes;
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

void Block::begin(uint64_t index) {
  const uint3 at{unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y)};
  // By block, not by worker: the same seed gives the same run over any number of OS threads.
  random = mix(schedule.seed ^ mix(index));
  head = queued = 0;
  live = threads;
  left = nullptr;
  failed = false;
  barrier.arrived = barrier.votes = 0;
  barrier.waiting.clear();
  cluster_barrier.arrived = 0;
  cluster_barrier.waiting.clear();
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
}

bool Block::run(const std::vector<Block*>& cluster, uint64_t index) {
  // Along x, in which blocks are numbered first.
  for (Block* block : cluster) block->begin(index * cluster.size() + block->rank);
  Block* lead = cluster[0];
  running = lead->next_block();
  Lane* first = running->next();
  current = first;
  switch_fiber(lead->scheduler, first->fiber);
  current = nullptr;
  bool sound = true;
  for (Block* block : cluster) {
    SYNC_ACQUIRE(block);
    sound = sound && !block->failed;
  }
  for (Block* block : cluster)
    if (sound && block->live) {
      block->report_deadlock();
      sound = false;
    }
  return sound;
}

void Block::close() { MEMORY_UNPOISON(arena, SHARED_LIMIT + 1024); }

}  // namespace emu
