// Tiny kernels that show on a card where hopper.cuh's copies and products put each element: one for each assumption on
// which the emulator and the kernels for whole warpgroups rest. tests/it/kernels/layouts.rs knows the answers. Nothing
// else calls them.
//   layout_tma_swizzle       `lines` = a swizzled box of 16 lines of 64 bf16 as it lies in shared memory
//   layout_tma_zero_outside  the same for a box from element x, line y on, which may hang over every edge
//   layout_tma_im2col        32 pixels of 64 channels, as they lie
//   layout_tma_share         the same for two boxes of 16 lines below each other, of which each of two blocks copies
//                            one for both: lines[block][32][64]
//   layout_cluster_arrive    places[block] = 10 * the cluster's size + the block's rank, once the other one has
//                            arrived: of two
//   layout_cluster_of_one    the same in a launch that says nothing of clusters
//   layout_tma_store_clips   stores `source`, 64 lines of 64 bf16, from line y of layer 0 on
//   layout_wgmma_*           sums = A B, row-major f32 of 64 rows, by the warpgroup's fragments
// Maps: boxes of 64 bf16 by as many lines as the factor has, swizzled. `KEPT` factors have a line for each row of A
// (column of B), 64 of the depth long; `TURNED` ones a line for each of 64 of the depth, 64 rows (columns) long.
// Launch: one block (two in a cluster where it says so) of 128 threads, LAYOUT_SHARED bytes
// (src/doctor/layouts/cuda.rs). All write (=).
#include "hopper.cuh"

constexpr int KEPT = 0, TURNED = 1;
// The largest factors: A of 64 rows, B of 256 columns. A barrier lies behind them.
constexpr int FACTOR_BYTES = 5 * BLOCK_BYTES;

// The barrier of the one round of copies, ready for all threads.
__device__ __forceinline__ uint64_t* layout_barrier(unsigned char* shared) {
  uint64_t* bar = reinterpret_cast<uint64_t*>(shared + FACTOR_BYTES);
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  return bar;
}

// Shared memory as it is, not as the swizzle means it.
__device__ __forceinline__ void copy_out(const unsigned char* shared, bf16* __restrict__ out, int count) {
  const bf16* from = reinterpret_cast<const bf16*>(shared);
  for (int i = threadIdx.x; i < count; i += WARPGROUP) out[i] = from[i];
}

__device__ __forceinline__ void box_as_it_lies(const CUtensorMap* map, bf16* __restrict__ lines, int x, int y) {
  HOPPER_SMEM(unsigned char, shared);
  uint64_t* bar = layout_barrier(shared);
  if (threadIdx.x == 0) {
    mbarrier_expect(bar, 16 * LINE_BYTES);
    tma_load_2d(shared, map, bar, x, y);
  }
  mbarrier_wait(bar, 0);
  copy_out(shared, lines, 16 * 64);
}

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    layout_tma_swizzle(const GRID_CONSTANT CUtensorMap map, bf16* __restrict__ lines) {
  box_as_it_lies(&map, lines, 0, 0);
}
KERNEL_EXPORT(layout_tma_swizzle)

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    layout_tma_zero_outside(const GRID_CONSTANT CUtensorMap map, bf16* __restrict__ lines, int x, int y) {
  box_as_it_lies(&map, lines, x, y);
}
KERNEL_EXPORT(layout_tma_zero_outside)

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    layout_tma_im2col(const GRID_CONSTANT CUtensorMap map, bf16* __restrict__ lines, int channel, int x, int y,
                      int image, int right, int down) {
  HOPPER_SMEM(unsigned char, shared);
  uint64_t* bar = layout_barrier(shared);
  if (threadIdx.x == 0) {
    mbarrier_expect(bar, 32 * LINE_BYTES);
    tma_load_im2col(shared, &map, bar, channel, x, y, image, right, down);
  }
  mbarrier_wait(bar, 0);
  copy_out(shared, lines, 32 * 64);
}
KERNEL_EXPORT(layout_tma_im2col)

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    layout_tma_share(const GRID_CONSTANT CUtensorMap map, bf16* __restrict__ lines) {
  HOPPER_SMEM(unsigned char, shared);
  uint64_t* bar = layout_barrier(shared);
  cluster_sync();
  int rank = cluster_rank();
  if (threadIdx.x == 0) {
    mbarrier_expect(bar, 32 * LINE_BYTES);
    tma_share_2d(shared + rank * 16 * LINE_BYTES, &map, bar, 0, 16 * rank, 3);
  }
  mbarrier_wait(bar, 0);
  copy_out(shared, lines + rank * 32 * 64, 32 * 64);
}
KERNEL_EXPORT(layout_tma_share)

extern "C" __global__ void __launch_bounds__(WARPGROUP) layout_cluster_arrive(unsigned* __restrict__ places) {
  HOPPER_SMEM(uint64_t, bar);
  int rank = cluster_rank();
  if (threadIdx.x == 0) {
    // Different numbers, so that who arrives at its own barrier goes short.
    mbarrier_init(bar, 1 + rank);
    mbarrier_init_fence();
  }
  cluster_sync();
  if (int(threadIdx.x) < 2 - rank) mbarrier_arrive_at(bar, 1 - rank);
  mbarrier_wait(bar, 0);
  if (threadIdx.x == 0) places[blockIdx.x] = 10 * cluster_size() + rank;
}
KERNEL_EXPORT(layout_cluster_arrive)

extern "C" __global__ void __launch_bounds__(WARPGROUP) layout_cluster_of_one(unsigned* __restrict__ places) {
  if (threadIdx.x == 0) places[blockIdx.x] = 10 * cluster_size() + cluster_rank();
}
KERNEL_EXPORT(layout_cluster_of_one)

extern "C" __global__ void __launch_bounds__(WARPGROUP)
    layout_tma_store_clips(const bf16* __restrict__ source, const GRID_CONSTANT CUtensorMap map, int y) {
  HOPPER_SMEM(unsigned char, shared);
  for (int i = threadIdx.x; i < BLOCK_BYTES / 16; i += WARPGROUP)
    store_shared(reinterpret_cast<uint4*>(shared + swizzled(16 * i)), reinterpret_cast<const uint4*>(source)[i]);
  proxy_fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_3d(&map, shared, 0, y, 0);
    tma_store_commit();
    tma_store_wait_read<0>();
  }
}
KERNEL_EXPORT(layout_tma_store_clips)

// sums = A B. A has ROWS rows, of which the last 64 count, B has N columns; STEPS of 16 are taken of the depth.
template <int ROWS, int N, int A, int B, int STEPS>
__device__ __forceinline__ void product(const CUtensorMap* a_map, const CUtensorMap* b_map, float* __restrict__ out) {
  constexpr int A_BYTES = ROWS * LINE_BYTES, B_BYTES = N * LINE_BYTES;
  // From one step of the depth to the next.
  constexpr int A_STEP = A == TURNED ? 16 * LINE_BYTES : 32, B_STEP = B == TURNED ? 16 * LINE_BYTES : 32;
  static_assert(A_BYTES + B_BYTES <= FACTOR_BYTES, "the barrier lies behind");
  HOPPER_SMEM(unsigned char, a);
  unsigned char* b = a + A_BYTES;
  uint64_t* bar = layout_barrier(a);
  if (threadIdx.x == 0) {
    mbarrier_expect(bar, A_BYTES + B_BYTES);
    tma_load_2d(a, a_map, bar, 0, 0);
    // Lines hold 64 columns: more of them lie in blocks one after the other.
    for (int block = 0; block < (B == TURNED ? N / 64 : 1); block++)
      tma_load_2d(b + block * BLOCK_BYTES, b_map, bar, 64 * block, 0);
  }
  mbarrier_wait(bar, 0);

  WgmmaSums<N> sums = {};
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    uint64_t left = wgmma_operand(a + A_BYTES - BLOCK_BYTES + step * A_STEP, BLOCK_BYTES);
    uint64_t right = wgmma_operand(b + step * B_STEP, BLOCK_BYTES);
    wgmma<A, B>(sums, left, right);
  }
  wgmma_commit();
  wgmma_wait<0>();

  int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int c = 0; c < N / 64; c++)
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = 16 * warp + g + e / 2 * 8, column = 64 * c + 8 * j + 2 * t + e % 2;
        out[row * N + column] = sums[c][0][j][e];
      }
}

#define PRODUCT(name, ROWS, N, A, B, STEPS)                                                                       \
  extern "C" __global__ void __launch_bounds__(WARPGROUP)                                                         \
      name(const GRID_CONSTANT CUtensorMap a, const GRID_CONSTANT CUtensorMap b, float* __restrict__ sums) {      \
    product<ROWS, N, A, B, STEPS>(&a, &b, sums);                                                                  \
  }                                                                                                               \
  KERNEL_EXPORT(name)
// 16 of the depth: the first 32 bytes of each line.
PRODUCT(layout_wgmma_sums_n64, 64, 64, KEPT, KEPT, 1)
PRODUCT(layout_wgmma_sums_n128, 64, 128, KEPT, KEPT, 1)
PRODUCT(layout_wgmma_sums_n256, 64, 256, KEPT, KEPT, 1)
// 64 of the depth, 32 bytes a step, inside the swizzled atom.
PRODUCT(layout_wgmma_depth_step, 64, 64, KEPT, KEPT, 4)
// 64 of the depth, 2048 bytes a step.
PRODUCT(layout_wgmma_a_rows, 64, 64, TURNED, KEPT, 4)
PRODUCT(layout_wgmma_b_columns, 64, 128, KEPT, TURNED, 4)
// Rows 64..127 of A.
PRODUCT(layout_wgmma_tall, 128, 64, KEPT, KEPT, 4)
