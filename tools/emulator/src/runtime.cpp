// Barriers, collectives, asynchronous copies, shared memory and launches.
#include "runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "block.h"
#include "sanitizer.h"

namespace emu {

int barrier(const char* kind, bool vote, const char* file, int line) {
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  if (block.skips(kind, file, line)) return 0;
  BlockBarrier& b = block.barrier;
  if (block.left)
    fail("early exit: thread %u reaches %s at %s:%d, but thread %u has returned", me->linear, kind, file, line,
         block.left->linear);
  if (b.arrived && (b.line != line || !same_text(b.file, file) || !same_text(b.kind, kind)))
    fail("divergent barrier: thread %u is in %s at %s:%d while thread %u waits in %s at %s:%d", me->linear, kind, file,
         line, b.waiting[0]->linear, b.kind, b.file, b.line);
  b.kind = kind, b.file = file, b.line = line;
  b.arrived++;
  b.votes += vote;
  // A clock for each phase: the next arrival of a fast thread is not ordered before this phase's end.
  [[maybe_unused]] char* tag = &b.tag[b.phase & 1];
  SYNC_RELEASE(tag);
  if (b.arrived == block.threads) {
    b.result = b.votes;
    b.arrived = b.votes = 0;
    b.phase++;
    for (Lane* lane : b.waiting) block.make_ready(lane);
    b.waiting.clear();
    note_site(kind, file, line);
  } else {
    b.waiting.push_back(me);
    block.wait(me, kind, 0, file, line);
  }
  SYNC_ACQUIRE(tag);
  // Nobody can finish the next phase before this thread arrives there, so the result still stands.
  return int(b.result);
}

void collective(unsigned mask, void* slot, Combine combine, const char* kind, const char* file, int line, bool same_line) {
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  const unsigned first = me->warp * WARP;
  const unsigned present = block.threads - first >= WARP ? ~0u : (1u << (block.threads - first)) - 1;
  if (!(mask >> me->lane & 1))
    fail("%s: thread %u (lane %u) is not in its own mask %08x at %s:%d", kind, me->linear, me->lane, mask, file, line);
  if (mask & ~present)
    fail("%s: mask %08x names lanes that the block of %u threads does not have, at %s:%d", kind, mask, block.threads, file,
         line);
  if (mask & block.returned[me->warp])
    fail("early exit: thread %u reaches %s at %s:%d, but lanes %08x of its mask %08x have returned", me->linear, kind, file,
         line, mask & block.returned[me->warp], mask);
  auto& meetings = block.warps[me->warp];
  Meeting* meeting = nullptr;
  for (Meeting& m : meetings)
    if (m.mask == mask) meeting = &m;
  if (!meeting) {
    for (Meeting& m : meetings)
      if (!m.arrived) meeting = &m;
    if (!meeting) {
      // Masks of lanes that wait are disjoint in a sound kernel, so 32 places are enough and none ever moves.
      if (meetings.capacity() < WARP) meetings.reserve(WARP);
      if (meetings.size() == WARP) fail("%s: more than 32 masks at once in one warp, at %s:%d", kind, file, line);
      meeting = &meetings.emplace_back();
    }
    meeting->mask = mask;
  }
  if (meeting->arrived && (!same_text(meeting->kind, kind) ||
                           (same_line && (meeting->line != line || !same_text(meeting->file, file)))))
    fail("divergent warp: lane %u is in %s at %s:%d while lane %d of the same mask waits in %s at %s:%d", me->lane, kind,
         file, line, __builtin_ctz(meeting->arrived), meeting->kind, meeting->file, meeting->line);
  meeting->kind = kind, meeting->file = file, meeting->line = line;
  meeting->slots[me->lane] = slot;
  meeting->arrived |= 1u << me->lane;
  [[maybe_unused]] char* tag = &meeting->tag[meeting->phase & 1];
  SYNC_RELEASE(tag);
  if (meeting->arrived == mask) {
    SYNC_ACQUIRE(tag);
    if (combine) combine(meeting->slots, mask);
    SYNC_RELEASE(tag);
    meeting->arrived = 0;
    meeting->phase++;
    for (unsigned lane = 0; lane < WARP; lane++)
      if (mask >> lane & 1 && lane != me->lane) block.make_ready(&block.lanes[first + lane]);
  } else {
    block.wait(me, kind, mask, file, line);
    SYNC_ACQUIRE(tag);
  }
}

void warp_barrier(unsigned mask, const char* file, int line) {
  if (left_out("__syncwarp", file, line)) return;
  collective(mask, nullptr, nullptr, "__syncwarp", file, line, false);
}

void* dynamic_shared() { return running->arena; }

void* shared_variable(const void* key, size_t bytes, const char* name) {
  Block& block = *running;
  for (const Variable& v : block.variables)
    if (v.key == key) return block.arena + v.offset;
  const size_t offset = block.arena_used;
  if (bytes > SHARED_LIMIT - std::min(offset, SHARED_LIMIT))
    fail("shared memory: %s (%zu bytes) does not fit behind the %zu bytes in use, of %zu", name, bytes, offset,
         SHARED_LIMIT);
  MEMORY_UNPOISON(block.arena + offset, bytes);
  memset(block.arena + offset, 0xFF, bytes);
  block.variables.push_back({key, offset, bytes});
  block.arena_used = (offset + bytes + SHARED_GAP + 15) / 16 * 16;
  return block.arena + offset;
}

void check_shared(const void* p, size_t alignment, const char* what, const char* file, int line) {
  const Block& block = *running;
  const auto offset = static_cast<const unsigned char*>(p) - block.arena;
  if (offset < 0 || size_t(offset) >= block.shared_end())
    fail("%s: thread %u passes an address outside shared memory at %s:%d", what, current->linear, file, line);
  if (reinterpret_cast<uintptr_t>(p) % alignment)
    fail("%s: thread %u passes an address not aligned to %zu bytes at %s:%d", what, current->linear, alignment, file, line);
}

void bank_access(const void* p, int bytes, const char* kind, const char* file, int line) {
  Block& block = *running;
  if (!block.schedule.count_banks) return;
  const unsigned lanes = std::min(WARP, block.threads - current->warp * WARP);
  block.banks[current->warp].access(current->lane, lanes, p, bytes, bank_site(kind, file, line));
}

bool left_out(const char* kind, const char* file, int line) {
  if (running->skips(kind, file, line)) return true;
  note_site(kind, file, line);
  return false;
}

static void perform(const Copy& copy) {
  memcpy(copy.to, copy.from, copy.from_bytes);
  memset(static_cast<char*>(copy.to) + copy.from_bytes, 0, copy.bytes - copy.from_bytes);
}

void async_copy(void* to, const void* from, int bytes, int from_bytes, const char* file, int line) {
  check_shared(to, bytes, "cp.async", file, line);
  bank_access(to, bytes, "cp.async", file, line);
  if (reinterpret_cast<uintptr_t>(from) % bytes)
    fail("cp.async: thread %u passes a source not aligned to %d bytes at %s:%d", current->linear, bytes, file, line);
  if (from_bytes < 0 || from_bytes > bytes)
    fail("cp.async: thread %u asks for %d of %d bytes at %s:%d", current->linear, from_bytes, bytes, file, line);
  const Copy copy{to, from, bytes, from_bytes};
  if (running->schedule.late_copies) static_cast<Lane*>(current)->copies.push_back(copy);
  else perform(copy);
}

void async_commit() {
  Lane* me = static_cast<Lane*>(current);
  me->groups.push_back(me->copies.size());
}

void async_wait(int pending, const char* file, int line) {
  if (left_out("cp_async_wait", file, line)) return;
  Lane* me = static_cast<Lane*>(current);
  while (me->groups.size() - me->waited > size_t(pending)) {
    const size_t end = me->groups[me->waited++];
    while (me->copied < end) perform(me->copies[me->copied++]);
  }
  if (me->waited == me->groups.size() && me->copied == me->copies.size()) {
    me->copies.clear(), me->groups.clear();
    me->copied = me->waited = 0;
  }
}

namespace {

// Blocks at rest: setting one up means mapping a stack for every thread.
struct Pool {
  std::mutex lock;
  std::vector<std::unique_ptr<Block>> blocks;
  std::unique_ptr<Block> take() {
    std::lock_guard<std::mutex> guard(lock);
    if (blocks.empty()) return std::make_unique<Block>();
    auto block = std::move(blocks.back());
    blocks.pop_back();
    return block;
  }
  void give(std::unique_ptr<Block> block) {
    std::lock_guard<std::mutex> guard(lock);
    blocks.push_back(std::move(block));
  }
};
Pool& pool() {
  static auto* pool = new Pool;  // leaked on purpose, as threads may outlive main's statics
  return *pool;
}

// Position `i` of `count` blocks in the schedule's order.
uint64_t pick(const Schedule& schedule, uint64_t i, uint64_t count) {
  if (schedule.order == REVERSE) return count - 1 - i;
  if (schedule.order == FORWARD || schedule.order == AHEAD || count < 3) return i;
  // A stride without a common divisor visits every block once.
  uint64_t stride = schedule.seed % count;
  auto gcd = [](uint64_t a, uint64_t b) {
    while (b) a = std::exchange(b, a % b);
    return a;
  };
  while (gcd(stride, count) != 1) stride = (stride + 1) % count;
  return uint64_t((static_cast<unsigned __int128>(i) * stride + schedule.seed) % count);
}

// What is wrong with the launch itself; null if nothing.
const char* refuse(const uint32_t* grid, const uint32_t* block, size_t shared_bytes, uint32_t cluster) {
  for (int d = 0; d < 3; d++)
    if (!grid[d] || !block[d]) return "an extent is zero";
  if (grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) return "the grid exceeds 2147483647 x 65535 x 65535";
  if (block[0] > 1024 || block[1] > 1024 || block[2] > 64) return "the block exceeds 1024 x 1024 x 64";
  if (uint64_t(block[0]) * block[1] * block[2] > 1024) return "the block has more than 1024 threads";
  if (shared_bytes > SHARED_LIMIT) return "more than 227 KiB of shared memory";
  if (cluster < 1 || cluster > 8) return "a cluster has 1 to 8 blocks";
  if (grid[0] % cluster) return "the grid is not made of whole clusters";
  return nullptr;
}

}  // namespace

int launch(const Extent& extent, void (*body)(void*), void* argument, const Schedule& schedule, char* error,
           size_t error_capacity) {
  const uint32_t *grid = extent.grid, *block = extent.block, size = extent.cluster;
  if (const char* why = refuse(grid, block, extent.shared_bytes, size)) {
    snprintf(error, error_capacity, "bad launch: %s (grid %u,%u,%u; block %u,%u,%u; %u bytes; clusters of %u)", why, grid[0],
             grid[1], grid[2], block[0], block[1], block[2], extent.shared_bytes, size);
    return 1;
  }
  const uint64_t count = uint64_t(grid[0]) * grid[1] * grid[2] / size;
  std::atomic<uint64_t> taken{0};
  std::atomic<bool> failed{false};
  std::mutex lock;
  uint64_t failed_at = UINT64_MAX;
  auto work = [&] {
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<Block*> cluster;
    for (uint32_t rank = 0; rank < size; rank++) {
      blocks.push_back(pool().take());
      cluster.push_back(blocks[rank].get());
      blocks[rank]->rank = rank;
      if (blocks[rank]->open(schedule, extent, body, argument)) continue;
      std::lock_guard<std::mutex> guard(lock);
      failed = true;
      snprintf(error, error_capacity, "out of memory for the stacks of %u threads", blocks[rank]->threads);
      return;
    }
    for (Block* block : cluster) block->cluster = cluster;
    for (uint64_t i; !failed && (i = taken++) < count;) {
      if (Block::run(cluster, pick(schedule, i, count))) continue;
      std::lock_guard<std::mutex> guard(lock);
      for (Block* block : cluster)
        if (block->failed && i < failed_at) snprintf(error, error_capacity, "%s", block->error);
      failed_at = std::min(failed_at, i);
      failed = true;
    }
    running = nullptr;
    for (auto& block : blocks) {
      block->close();
      pool().give(std::move(block));
    }
  };
  unsigned wanted = schedule.workers ? schedule.workers : std::max(1u, std::thread::hardware_concurrency());
  const uint64_t workers = std::min<uint64_t>(wanted, count);
  std::vector<std::thread> helpers;
  try {
    for (uint64_t w = 1; w < workers; w++) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // Fewer threads than wanted do the same work.
  }
  work();
  for (auto& helper : helpers) helper.join();
  return failed ? 1 : 0;
}

}  // namespace emu
