// One block of a launch: its threads, who waits for whom, and its shared memory. Kept and used again between launches.
#pragma once
#include <cstdint>
#include <vector>

#include "asynchronous.h"
#include "banks.h"
#include "fiber.h"
#include "runtime.h"
#include "sites.h"

namespace emu {

// The most that an H100 grants a block, static and dynamic together.
constexpr size_t SHARED_LIMIT = 227 << 10;
constexpr unsigned WARP = 32;

enum State { READY, WAITING, DONE };

struct Copy {
  void* to;
  const void* from;
  int bytes, from_bytes;
};

struct Lane : Thread {
  Fiber fiber;
  State state = DONE;
  const char *kind = "", *file = "";
  int line = 0;
  unsigned mask = 0;             // of the collective it waits in; 0: a block barrier
  std::vector<Copy> copies;      // asynchronous ones not done yet
  std::vector<size_t> groups;    // ends of the committed groups in `copies`
  size_t copied = 0, waited = 0; // how many of them are done
  Hopper hopper;
};

// Lanes of one warp that meet under one mask.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  const char *kind = nullptr, *file = nullptr;
  int line = 0;
  void* slots[WARP];
  char tag[2];
  unsigned phase = 0;
};

struct BlockBarrier {
  unsigned arrived = 0, votes = 0, result = 0, phase = 0;
  const char *kind = nullptr, *file = nullptr;
  int line = 0;
  std::vector<Lane*> waiting;
  char tag[2];
};

// Of all threads of a cluster's blocks.
struct ClusterBarrier {
  unsigned arrived = 0;
  const char* file = nullptr;
  int line = 0;
  std::vector<Lane*> waiting;
  char tag[2];
  unsigned phase = 0;
};

struct Variable {
  const void* key;
  size_t offset, bytes;
};

struct Block {
  // Set up once a launch.
  Schedule schedule{};
  Skip* skip = nullptr;
  dim3 grid, extent;
  unsigned threads = 0;
  size_t dynamic_bytes = 0;
  // The blocks that run at the same time, by rank, itself among them; only this one where there are no clusters.
  std::vector<Block*> cluster;
  unsigned rank = 0;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;

  // Anew for every block.
  std::vector<Lane> lanes;
  std::vector<Lane*> ready;  // a ring; a lane is in it at most once
  size_t head = 0, queued = 0;
  std::vector<uint32_t> ready_lanes;  // AHEAD: instead of the ring, a bit for each lane of each warp
  unsigned live = 0;
  const Lane* left = nullptr;  // the first thread that returned
  BlockBarrier barrier;
  ClusterBarrier cluster_barrier;  // rank 0's is the cluster's
  std::vector<std::vector<Meeting>> warps;
  std::vector<unsigned> returned;  // per warp, lanes that returned
  std::vector<WarpBanks> banks;    // per warp
  std::vector<Variable> variables;
  Asynchronous asynchronous;
  uint64_t random = 1;
  bool failed = false;
  char error[512];

  Fiber scheduler;
  unsigned char* arena = nullptr;  // SHARED_LIMIT bytes and a tail that stays unused
  size_t arena_used = 0;

  bool open(const Schedule&, const Extent&, void (*)(void*), void*);
  // Runs the blocks of one cluster, number `index`; false if one failed.
  static bool run(const std::vector<Block*>& cluster, uint64_t index);
  void close();
  // Makes all threads of block `index` ready.
  void begin(uint64_t index);

  // Shared memory in use ends here, counted from `arena`.
  size_t shared_end() const { return arena_used > dynamic_bytes ? arena_used : dynamic_bytes; }
  // A number below `count` from the schedule's stream.
  size_t draw(size_t count);
  size_t wrap(size_t i) const { return i < threads ? i : i - threads; }
  Lane* next();
  // The block of the cluster whose thread runs next; null if no thread can.
  Block* next_block();
  // Performs something that was held back in the cluster; false if there is nothing.
  bool progress();
  void make_ready(Lane*);
  void leave(Lane* me, bool last);
  void wait(Lane* me, const char* kind, unsigned mask, const char* file, int line);
  void report_deadlock();
  bool skips(const char* kind, const char* file, int line) const {
    if (!skip || line != skip->site.line || !skip->site.is(kind, file, line)) return false;
    skip->times++;
    return true;
  }
};

// The block that this OS thread runs.
extern __thread Block* running;

}  // namespace emu
