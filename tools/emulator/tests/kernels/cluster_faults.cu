// Blocks of clusters that break a rule, each in one way. Launch: two blocks of 128 threads in one cluster, 9 KiB of shared memory;
// the map has boxes of 64 x 64 bf16.
#include "hopper.cuh"

struct Shared {
  char box[BLOCK_BYTES];
  uint64_t full, empty;
};

__device__ __forceinline__ Shared* open() {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 0) {
    mbarrier_init(&shared->full, 1);
    mbarrier_init(&shared->empty, 1);
    mbarrier_init_fence();
  }
  return shared;
}

#define FAULT(name)                                                                                       \
  __device__ __forceinline__ void name(const CUtensorMap* map, Shared* shared);                           \
  extern "C" __global__ void __launch_bounds__(128)                                                       \
      test_cluster_##name(const GRID_CONSTANT CUtensorMap map) {                             \
    name(&map, open());                                                                            \
  }                                                                                                       \
  KERNEL_EXPORT(test_cluster_##name)                                                                      \
  __device__ __forceinline__ void name([[maybe_unused]] const CUtensorMap* map, [[maybe_unused]] Shared* shared)

FAULT(arrives_outside) {
  cluster_sync();
  if (threadIdx.x == 0) mbarrier_arrive_at(&shared->empty, 2);  // a cluster of two has no third
  cluster_sync();
}
FAULT(shares_outside) {
  cluster_sync();
  if (threadIdx.x == 0) tma_share_2d(shared->box, map, &shared->full, 0, 0, 5);  // nor does a mask
  cluster_sync();
}
FAULT(arrives_late) {
  cluster_sync();
  if (cluster_rank() == 0) return;
  // Only in a schedule in which block 0 goes first has it ended by now.
  if (threadIdx.x == 0) mbarrier_arrive_at(&shared->empty, 0);  // nobody keeps block 0 waiting
}
FAULT(shares_late) {
  cluster_sync();
  if (cluster_rank() == 0) return;
  if (threadIdx.x == 0) tma_share_2d(shared->box, map, &shared->full, 0, 0, 1);  // nor here
}
FAULT(not_initialised_yet) {
  // No cluster_sync.
  if (threadIdx.x == 0) mbarrier_arrive_at(&shared->empty, 1 - cluster_rank());  // perhaps too early
  cluster_sync();
}
FAULT(returns_early) {
  if (cluster_rank() == 1) return;
  cluster_sync();  // without the other block
}
FAULT(diverges) {
  if (cluster_rank() == 1)
    cluster_sync();  // block 1
  else
    cluster_sync();  // block 0
}
FAULT(never_comes) {
  cluster_sync();
  if (threadIdx.x == 0) mbarrier_wait(&shared->full, 0);  // nothing is on its way
  cluster_sync();
}
