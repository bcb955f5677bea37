// A kernel whose blocks work together in clusters, for the emulator's own tests.
//   test_cluster_share    each block copies its boxes to all blocks of its cluster; out[block][turn][thread] = the sum of what
//                         the thread's share of the stage holds   writes (=)
// Launch: blocks of 128 threads, whose first warp copies, 64 KiB of shared memory and a line of barriers; maps with boxes of
// 64 x 64 bf16, of which block b copies box (turn * blocks + b).
#include "hopper.cuh"

constexpr int STAGES = 2, MOST = 4, READERS = 96;

struct Stages {
  char box[STAGES][MOST][BLOCK_BYTES];
  uint64_t full[STAGES], empty[STAGES];
};

__device__ __forceinline__ Stages* open_stages() {
  HOPPER_SMEM(Stages, shared);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      mbarrier_init(shared->full + stage, 1);
      // A lane of each reading warp of each block.
      mbarrier_init(shared->empty + stage, READERS / 32 * cluster_size());
    }
    mbarrier_init_fence();
  }
  return shared;
}

__device__ __forceinline__ void share_boxes(const CUtensorMap* map, Stages* shared, int turns) {
  int size = cluster_size(), rank = cluster_rank();
  for (int turn = 0; turn < turns; turn++) {
    int stage = turn % STAGES;
    mbarrier_wait(shared->empty + stage, turn / STAGES % 2 ^ 1);
    mbarrier_expect(shared->full + stage, size * BLOCK_BYTES);
    int line = (turn * int(gridDim.x) + int(blockIdx.x)) * 64;
    tma_share_2d(shared->box[stage][rank], map, shared->full + stage, 0, line, (1 << size) - 1);
  }
}

__device__ __forceinline__ void add_boxes(Stages* shared, float* out, int turns) {
  int size = cluster_size(), reader = int(threadIdx.x) - 32;
  for (int turn = 0; turn < turns; turn++) {
    int stage = turn % STAGES;
    mbarrier_wait(shared->full + stage, turn / STAGES % 2);
    const bf16* from = reinterpret_cast<const bf16*>(shared->box[stage]);
    float sum = 0;
    for (int i = reader; i < size * BLOCK_BYTES / 2; i += READERS) sum += to_acc(from[i]);
    out[(int(blockIdx.x) * turns + turn) * READERS + reader] = sum;
    __syncwarp();
    if (reader % 32 < size) mbarrier_arrive_at(shared->empty + stage, reader % 32);
  }
}

extern "C" __global__ void __launch_bounds__(128)
    test_cluster_share(const GRID_CONSTANT CUtensorMap map, float* out, int turns) {
  Stages* shared = open_stages();
  cluster_sync();
  if (threadIdx.x == 0)
    share_boxes(&map, shared, turns);
  else if (threadIdx.x >= 32)
    add_boxes(shared, out, turns);
  cluster_sync();
}
KERNEL_EXPORT(test_cluster_share)
