// Products of a warpgroup: its meetings, its operands, and the queue in which late schedules hold products back.
#include <cstring>

#include "block.h"
#include "hopper.h"
#include "sanitizer.h"

namespace emu {
namespace {

constexpr int ROWS = 64, DEPTH = 16;
// Stands in a descriptor of a launch that leaves the swizzle out; the field is zero on a GPU.
constexpr uint64_t UNSWIZZLED = 1ull << 61;
constexpr uint64_t KNOWN_FIELDS = 0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | UNSWIZZLED | 3ull << 62;

using Meet = void (*)(Warpgroup&, const char* file, int line);

Warpgroup& own_group(const char* kind, const char* file, int line) {
  Block& block = *running;
  block.asynchronous.used = true;
  const unsigned at = current->linear / WARPGROUP_THREADS;
  if (at >= block.asynchronous.warpgroups.size())
    fail("%s: thread %u is in no whole warpgroup, as the block has %u threads, at %s:%d", kind, current->linear,
         block.threads, file, line);
  return block.asynchronous.warpgroups[at];
}

// All threads of the warpgroup; the last runs `combine`.
void meet(const char* kind, void* slot, Meet combine, const char* file, int line) {
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  Warpgroup& group = own_group(kind, file, line);
  const unsigned first = me->linear / WARPGROUP_THREADS * WARPGROUP_THREADS;
  for (unsigned warp = first / WARP; warp < (first + WARPGROUP_THREADS) / WARP; warp++)
    if (block.returned[warp])
      fail("early exit: thread %u reaches %s at %s:%d, but thread %u of its warpgroup has returned", me->linear, kind, file,
           line, warp * WARP + unsigned(__builtin_ctz(block.returned[warp])));
  if (group.arrived && (group.line != line || !same_text(group.file, file) || !same_text(group.kind, kind)))
    fail("divergent warpgroup: thread %u is in %s at %s:%d while others of its warpgroup wait in %s at %s:%d", me->linear,
         kind, file, line, group.kind, group.file, group.line);
  group.kind = kind, group.file = file, group.line = line;
  group.slots[me->linear - first] = slot;
  [[maybe_unused]] char* tag = &group.tag[group.phase & 1];
  SYNC_RELEASE(tag);
  if (++group.arrived == WARPGROUP_THREADS) {
    SYNC_ACQUIRE(tag);
    if (combine) combine(group, file, line);
    SYNC_RELEASE(tag);
    group.arrived = 0;
    group.phase++;
    for (unsigned t = first; t < first + WARPGROUP_THREADS; t++)
      if (t != me->linear) block.make_ready(&block.lanes[t]);
  } else {
    block.wait(me, kind, 0, file, line);
    SYNC_ACQUIRE(tag);
  }
}

// Calls f(row, depth, offset in shared memory) for every 16 bytes of an operand: 8 of its depth, or of its rows where `mn`.
template <class F>
void granules(uint64_t descriptor, int rows, bool mn, F f) {
  auto field = [&](int bit) { return size_t(descriptor >> bit & 0x3fff) << 4; };
  const size_t start = field(0), block = field(16), atom = field(32);
  auto at = [&](size_t o) { return descriptor & UNSWIZZLED ? o : o ^ (o >> 7 & 7) << 4; };
  if (mn) {
    for (int k = 0; k < DEPTH; k++)
      for (int i = 0; i < rows; i += 8) f(i, k, at(start + i / 64 * block + k / 8 * atom + k % 8 * 128 + i % 64 * 2));
  } else {
    for (int i = 0; i < rows; i++)
      for (int k = 0; k < DEPTH; k += 8) f(i, k, at(start + i / 8 * atom + i % 8 * 128 + k * 2));
  }
}

void check_operand(uint64_t descriptor, int rows, bool mn, const char* file, int line) {
  if (descriptor >> 62 != 1 || descriptor & ~KNOWN_FIELDS)
    fail("wgmma: thread %u passes a descriptor %016llx that wgmma_operand does not make, at %s:%d", current->linear,
         static_cast<unsigned long long>(descriptor), file, line);
  const size_t end = running->shared_end();
  granules(descriptor, rows, mn, [&](int i, int k, size_t offset) {
    if (offset + 16 > end)
      fail("wgmma: thread %u: row %d, depth %d of an operand lies outside shared memory at %s:%d", current->linear, i, k,
           file, line);
    check_fenced(offset, 16, "wgmma", file, line);
  });
}

// As floats: to[row * row_step + depth * depth_step].
void read_operand(uint64_t descriptor, int rows, bool mn, const unsigned char* arena, float* to, int row_step,
                  int depth_step) {
  const int step = mn ? row_step : depth_step;
  granules(descriptor, rows, mn, [&](int i, int k, size_t offset) {
    uint16_t bits[8];
    memcpy(bits, arena + offset, sizeof bits);
    for (int e = 0; e < 8; e++)
      to[i * row_step + k * depth_step + e * step] = __builtin_bit_cast(float, uint32_t(bits[e]) << 16);
  });
}

// Where accumulator `e` of thread `t` belongs.
int sum_row(int t, int e) { return 16 * (t / 32) + t % 32 / 4 + e % 4 / 2 * 8; }
int sum_column(int t, int e) { return e / 32 * 64 + e % 32 / 4 * 8 + t % 4 * 2 + e % 2; }

template <int N>
void multiply(const Product& p, const unsigned char* arena) {
  // Not on the stack, of which a kernel's thread has little.
  static thread_local float a[ROWS][DEPTH], b[DEPTH][N], d[ROWS][N];
  read_operand(p.a, ROWS, p.a_mn, arena, &a[0][0], DEPTH, 1);
  read_operand(p.b, N, p.b_mn, arena, &b[0][0], 1, N);
  for (int t = 0; t < int(WARPGROUP_THREADS); t++)
    for (int e = 0; e < N / 2; e++) d[sum_row(t, e)][sum_column(t, e)] = p.sums[t][e];
  for (int i = 0; i < ROWS; i++)
    for (int k = 0; k < DEPTH; k++) {
      const float factor = a[i][k];
      for (int n = 0; n < N; n++) d[i][n] += factor * b[k][n];
    }
  for (int t = 0; t < int(WARPGROUP_THREADS); t++)
    for (int e = 0; e < N / 2; e++) p.sums[t][e] = d[sum_row(t, e)][sum_column(t, e)];
}

void compute(const Product& p, const unsigned char* arena) {
  if (p.n == 64) multiply<64>(p, arena);
  else if (p.n == 128) multiply<128>(p, arena);
  else multiply<256>(p, arena);
}

// Checks what the threads brought; computes it, or queues it where the schedule is late.
void issue(Warpgroup& group, const char* file, int line) {
  Product product = *static_cast<Product*>(group.slots[0]);
  const unsigned first = current->linear / WARPGROUP_THREADS * WARPGROUP_THREADS;
  for (unsigned t = 0; t < WARPGROUP_THREADS; t++) {
    const Product& own = *static_cast<Product*>(group.slots[t]);
    if (own.a != product.a || own.b != product.b)
      fail("wgmma: threads %u and %u of one warpgroup pass different operands at %s:%d", first, first + t, file, line);
    product.sums[t] = own.sums[t];
  }
  check_operand(product.a, ROWS, product.a_mn, file, line);
  check_operand(product.b, product.n, product.b_mn, file, line);
  group.issued++;
  if (running->schedule.late_copies) {
    group.queued.push_back(product);
  } else {
    compute(product, running->arena);
    group.computed++;
  }
}

}  // namespace

void compute_next(Block& block, Warpgroup& group) {
  const Product& product = group.queued.front();
#ifndef EMU_UCONTEXT
  // Without its wgmma_wait a thread may have left the function that holds the sums. Stacks grow downwards.
  const unsigned first = unsigned(&group - block.asynchronous.warpgroups.data()) * WARPGROUP_THREADS;
  for (unsigned t = 0; t < WARPGROUP_THREADS; t++) {
    const Fiber& fiber = block.lanes[first + t].fiber;
    const auto* sums = reinterpret_cast<unsigned char*>(product.sums[t]);
    if (&block.lanes[first + t] != current && sums >= fiber.stack && sums < fiber.stack + STACK_BYTES &&
        sums < static_cast<unsigned char*>(fiber.stack_pointer))
      fail("wgmma: thread %u has left the sums of its product at %s:%d before they were done", first + t, product.file,
           product.line);
  }
#endif
  compute(product, block.arena);
  group.queued.pop_front();
  group.computed++;
  std::erase_if(group.waiting, [&](Lane* lane) {
    if (lane->hopper.wanted > group.computed) return false;
    block.make_ready(lane);
    return true;
  });
}

uint64_t wgmma_operand(const void* at, int block, const char* file, int line) {
  check_shared(at, 16, "wgmma_operand", file, line);
  if (block < 0 || block % 16 || block >> 4 > 0x3fff)
    fail("wgmma_operand: thread %u passes blocks that are %d bytes apart at %s:%d", current->linear, block, file, line);
  const auto start = uint64_t(static_cast<const unsigned char*>(at) - running->arena);
  const uint64_t swizzle = 1ull << 62 | (left_out("wgmma_operand", file, line) ? UNSWIZZLED : 0);
  return start >> 4 | uint64_t(block >> 4) << 16 | uint64_t(1024 >> 4) << 32 | swizzle;
}

void wgmma(float* sums, int n, bool a_mn, bool b_mn, uint64_t a, uint64_t b, const char* file, int line) {
  Lane* me = static_cast<Lane*>(current);
  if (!me->hopper.products_fenced)
    fail("wgmma: thread %u without wgmma_fence since its last wgmma_wait or its start, at %s:%d", me->linear, file, line);
  // Only the slots of a meeting are shared, so each thread fills in its own sums.
  Product product;
  product.n = n, product.a_mn = a_mn, product.b_mn = b_mn, product.a = a, product.b = b;
  product.sums[me->linear % WARPGROUP_THREADS] = sums;
  product.file = file, product.line = line;
  meet("wgmma", &product, issue, file, line);
  me->hopper.products++;
}

void wgmma_fence(const char* file, int line) {
  if (left_out("wgmma_fence", file, line)) return;
  own_group("wgmma_fence", file, line);
  static_cast<Lane*>(current)->hopper.products_fenced = true;
}

void wgmma_commit(const char* file, int line) {
  if (left_out("wgmma_commit", file, line)) return;
  own_group("wgmma_commit", file, line);
  Hopper& own = static_cast<Lane*>(current)->hopper;
  own.committed = own.products;
  own.product_groups.push_back(own.products);
}

void wgmma_wait(int pending, const char* file, int line) {
  if (left_out("wgmma_wait", file, line)) return;
  Lane* me = static_cast<Lane*>(current);
  Warpgroup& group = own_group("wgmma_wait", file, line);
  Hopper& own = me->hopper;
  if (own.products > own.committed)
    fail("wgmma_wait: thread %u waits with products that no wgmma_commit closed, at %s:%d", me->linear, file, line);
  own.products_fenced = false;
  while (own.product_groups.size() > size_t(pending)) {
    own.wanted = own.product_groups.front();
    own.product_groups.pop_front();
  }
  if (own.wanted <= group.computed) return;
  // As late as possible: when nothing but products and copies can go on.
  group.waiting.push_back(me);
  running->wait(me, "wgmma_wait", 0, file, line);
}

void warpgroup_meets(const char* kind, const char* file, int line) { meet(kind, nullptr, nullptr, file, line); }

}  // namespace emu
