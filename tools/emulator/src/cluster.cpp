// What blocks of one cluster do to each other.
#include "asynchronous.h"
#include "block.h"
#include "hopper.h"
#include "sanitizer.h"

namespace emu {

int cluster_size() { return int(running->cluster.size()); }
int cluster_rank() { return int(running->rank); }

void cluster_sync(const char* file, int line) {
  if (left_out("cluster_sync", file, line)) return;
  Block& block = *running;
  Lane* me = static_cast<Lane*>(current);
  ClusterBarrier& b = block.cluster[0]->cluster_barrier;
  unsigned threads = 0;
  for (const Block* peer : block.cluster) {
    threads += peer->threads;
    if (peer->left)
      fail("early exit: thread %u reaches cluster_sync at %s:%d, but thread %u of the cluster's block %u has returned",
           me->linear, file, line, peer->left->linear, peer->rank);
  }
  if (b.arrived && (b.line != line || !same_text(b.file, file)))
    fail("divergent barrier: thread %u is in cluster_sync at %s:%d while thread %u of its cluster waits in that of %s:%d",
         me->linear, file, line, b.waiting[0]->linear, b.file, b.line);
  block.asynchronous.used = true;
  b.file = file, b.line = line;
  [[maybe_unused]] char* tag = &b.tag[b.phase & 1];
  SYNC_RELEASE(tag);
  if (++b.arrived == threads) {
    b.arrived = 0;
    b.phase++;
    for (Lane* lane : b.waiting) block.cluster[lane->block_index.x % block.cluster.size()]->make_ready(lane);
    b.waiting.clear();
  } else {
    b.waiting.push_back(me);
    block.wait(me, "cluster_sync", 0, file, line);
  }
  SYNC_ACQUIRE(tag);
}

void check_cluster_return(const Block& block, const Lane& lane) {
  const ClusterBarrier& b = block.cluster[0]->cluster_barrier;
  if (b.arrived)
    fail("early exit: thread %u returns while thread %u of its cluster waits in cluster_sync at %s:%d", lane.linear,
         b.waiting[0]->linear, b.file, b.line);
}

void mbarrier_arrive_at(uint64_t* bar, int rank, const char* file, int line) {
  const char* kind = "mbarrier_arrive_at";
  if (left_out(kind, file, line)) return;
  Block& block = *running;
  check_shared(bar, 8, kind, file, line);
  if (rank < 0 || size_t(rank) >= block.cluster.size())
    fail("%s: thread %u names block %d of a cluster of %zu, at %s:%d", kind, current->linear, rank, block.cluster.size(),
         file, line);
  Block& target = *block.cluster[size_t(rank)];
  if (!target.live)
    fail("%s: thread %u arrives at block %d of its cluster, which has ended, at %s:%d", kind, current->linear, rank, file,
         line);
  const unsigned char* there = target.arena + (reinterpret_cast<unsigned char*>(bar) - block.arena);
  if (!find_barrier(target, there, kind, file, line).fenced)
    fail("%s: thread %u arrives at an mbarrier of block %d without mbarrier_init_fence since its initialisation, at %s:%d", kind,
         current->linear, rank, file, line);
  arrive(target, there, 0, kind, file, line);
}

void tma_share(Box& box, void* to, uint64_t* bar, int rank, bool im2col, int mask) {
  const Block& block = *running;
  if (mask < 1 || mask >> block.cluster.size())
    fail("%s: thread %u passes the mask %x to a cluster of %zu, at %s:%d", box.kind, current->linear, unsigned(mask),
         block.cluster.size(), box.file, box.line);
  for (const Block* target : block.cluster)
    if (mask >> target->rank & 1 && !target->live)
      fail("%s: thread %u copies to block %u of its cluster, which has ended, at %s:%d", box.kind, current->linear,
           target->rank, box.file, box.line);
  load(box, to, bar, rank, im2col, unsigned(mask));
}

}  // namespace emu
