// Hopper kernels that break a rule, each in one way. The tests look for the emulator's report, or for schedules that differ.
// Launch: one block of 128 threads and 36 KiB of shared memory; boxes of 64 x 64 bf16, of which the tensor has a pair of ones
// and a pair of twos.
#include "hopper.cuh"

struct Shared {
  char a[BLOCK_BYTES], b[BLOCK_BYTES], out[BLOCK_BYTES];
  uint64_t full, empty;
};

// Barriers that all may use, then both boxes of this number.
__device__ __forceinline__ void ask(Shared* shared, const CUtensorMap* map, int pair) {
  if (threadIdx.x) return;
  mbarrier_expect(&shared->full, 2 * BLOCK_BYTES);
  tma_load_2d(shared->a, map, &shared->full, 0, pair * 128);
  tma_load_2d(shared->b, map, &shared->full, 0, pair * 128 + 64);
}
__device__ __forceinline__ Shared* open(const CUtensorMap* map) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 0) {
    mbarrier_init(&shared->full, 1);
    mbarrier_init(&shared->empty, 127);
    mbarrier_init_fence();
  }
  __syncthreads();
  ask(shared, map, 0);
  return shared;
}
// sums += A B of 64 x 64 and a depth of 64.
__device__ __forceinline__ void multiply(Shared* shared, WgmmaChunk (&sums)[1]) {
  wgmma_fence();
  for (int k = 0; k < 4; k++)
    wgmma<0, 0>(sums, wgmma_operand(shared->a + 32 * k, 0), wgmma_operand(shared->b + 32 * k, 0));
  wgmma_commit();
}

#define FAULT(name)                                                                                            \
  __device__ __forceinline__ void name(const CUtensorMap* map, const CUtensorMap* pixels, bf16* out);          \
  extern "C" __global__ void __launch_bounds__(128)                                                            \
      test_hopper_##name(const GRID_CONSTANT CUtensorMap map, const GRID_CONSTANT CUtensorMap pixels, bf16* out) { \
    name(&map, &pixels, out);                                                                                  \
  }                                                                                                            \
  KERNEL_EXPORT(test_hopper_##name)                                                                            \
  __device__ __forceinline__ void name(const CUtensorMap* map, [[maybe_unused]] const CUtensorMap* pixels,     \
                                       [[maybe_unused]] bf16* out)

// ---- schedules differ
FAULT(sums_read_early) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  WgmmaSums<64> sums = {};
  multiply(shared, sums);
  out[threadIdx.x] = from_acc<bf16>(sums[0][0][0][0]);
  wgmma_wait<0>();
}
FAULT(stage_released_early) {
  Shared* shared = open(map);
  WgmmaSums<64> sums = {};
  for (int step = 0; step < 2; step++) {
    mbarrier_wait(&shared->full, step);
    multiply(shared, sums);
    if (threadIdx.x) mbarrier_arrive(&shared->empty);
    if (step == 0 && threadIdx.x == 0) {
      mbarrier_wait(&shared->empty, 0);
      ask(shared, map, 1);
    }
    wgmma_wait<0>();
  }
  out[threadIdx.x] = from_acc<bf16>(sums[0][0][0][0]);
}

// ---- barriers in memory
FAULT(no_init_fence) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 0) {
    mbarrier_init(&shared->full, 1);
    mbarrier_expect(&shared->full, BLOCK_BYTES);
    tma_load_2d(shared->a, map, &shared->full, 0, 0);  // the barrier is not known to copies
  }
}
FAULT(no_init) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 5) mbarrier_arrive(&shared->full);  // never initialised
}
FAULT(initialised_again) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x < 2) mbarrier_init(&shared->full, 1);  // by two threads
}
FAULT(never_completed) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  mbarrier_wait(&shared->empty, 0);  // nobody arrives
}
FAULT(too_many_arrivals) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x) return;
  mbarrier_init(&shared->full, 1);
  mbarrier_expect(&shared->full, 64);
  mbarrier_arrive(&shared->full);  // the bytes are still to come
}
FAULT(too_many_bytes) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x) return;
  mbarrier_init(&shared->full, 1);
  mbarrier_init_fence();
  tma_load_2d(shared->a, map, &shared->full, 0, 0);
  mbarrier_expect(&shared->full, BLOCK_BYTES / 2);
  mbarrier_wait(&shared->full, 0);
}
FAULT(copy_not_awaited) {
  open(map);
}

// ---- copies
FAULT(box_misaligned) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_2d(shared->out + 128, map, &shared->full, 0, 0);  // not to an atom
}
FAULT(box_outside) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_2d(shared->a + 4 * BLOCK_BYTES, map, &shared->full, 0, 0);  // 4 KiB are left
}
FAULT(column_misaligned) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_2d(shared->out, map, &shared->full, 4, 0);  // four elements on
}
FAULT(wrong_rank) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_3d(shared->out, map, &shared->full, 0, 0, 0);  // the map has two
}
FAULT(tiled_as_im2col) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_im2col(shared->out, map, &shared->full, 0, 0, 0, 0, 0, 0);  // of a tiled map
}
FAULT(im2col_as_tiled) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_2d(shared->out, pixels, &shared->full, 0, 0);  // of an im2col map
}
FAULT(offset_too_large) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_im2col(shared->out, pixels, &shared->full, 0, 0, 0, 0, 256, 0);  // to the right
}
FAULT(pixel_outside) {
  Shared* shared = open(map);
  if (threadIdx.x == 0) tma_load_im2col(shared->out, pixels, &shared->full, 0, -2, 0, 0, 0, 0);  // the corner is -1
}

// ---- products
FAULT(no_product_fence) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  WgmmaSums<64> sums = {};
  multiply(shared, sums);
  wgmma_wait<0>();
  wgmma<0, 0>(sums, wgmma_operand(shared->a, 0), wgmma_operand(shared->b, 0));  // the fence was before the wait
}
FAULT(not_committed) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  WgmmaSums<64> sums = {};
  wgmma_fence();
  wgmma<0, 0>(sums, wgmma_operand(shared->a, 0), wgmma_operand(shared->b, 0));
  wgmma_wait<0>();  // for a product in no group
}
FAULT(product_not_awaited) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  WgmmaSums<64> sums = {};
  multiply(shared, sums);
}
FAULT(operand_outside) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  WgmmaSums<64> sums = {};
  wgmma_fence();
  uint64_t b = wgmma_operand(shared->a + 4 * BLOCK_BYTES, 0);
  wgmma<0, 0>(sums, wgmma_operand(shared->a, 0), b);  // 4 KiB are left
}
FAULT(operands_differ) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  WgmmaSums<64> sums = {};
  wgmma_fence();
  uint64_t a = wgmma_operand(shared->a + threadIdx.x / 96 * 32, 0);
  wgmma<0, 0>(sums, a, wgmma_operand(shared->b, 0));  // in the last warp
}
FAULT(part_of_a_warpgroup) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  if (threadIdx.x >= 96) return;
  WgmmaSums<64> sums = {};
  wgmma_fence();
  wgmma<0, 0>(sums, wgmma_operand(shared->a, 0), wgmma_operand(shared->b, 0));  // three warps
}
FAULT(divergent_warpgroup) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  if (threadIdx.x < 64)
    registers_release<40>();  // the lower half
  else
    registers_release<40>();  // the upper half
}
FAULT(no_proxy_fence_product) {
  Shared* shared = open(map);
  mbarrier_wait(&shared->full, 0);
  if (threadIdx.x == 77) store_shared(reinterpret_cast<uint32_t*>(shared->b + 4096), 0u);
  __syncthreads();
  WgmmaSums<64> sums = {};
  wgmma_fence();
  wgmma<0, 0>(sums, wgmma_operand(shared->a, 0), wgmma_operand(shared->b, 0));  // what thread 77 wrote
}

// ---- stores; the map of pixels stands for none of theirs, so they take `map` with a third dimension
FAULT(no_proxy_fence_store) {
  HOPPER_SMEM(Shared, shared);
  store_shared(reinterpret_cast<float4*>(shared->out) + threadIdx.x, make_float4(0, 0, 0, 0));
  if (threadIdx.x != 77) proxy_fence();
  __syncthreads();
  if (threadIdx.x == 0) tma_store_3d(map, shared->out, 0, 0, 0);  // what was written here
}
FAULT(store_not_committed) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 0) tma_store_3d(map, shared->out, 0, 0, 0);  // in no group
}
FAULT(store_not_awaited) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x) return;
  tma_store_3d(map, shared->out, 0, 0, 0);  // of the older group
  tma_store_commit();
  tma_store_3d(map, shared->out, 0, 0, 0);  // of the younger group
  tma_store_commit();
  tma_store_wait_read<1>();
}
FAULT(store_from_im2col) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 0) tma_store_3d(pixels, shared->out, 0, 0, 0);  // through an im2col map
}

FAULT(store_before) {
  HOPPER_SMEM(Shared, shared);
  if (threadIdx.x == 0) tma_store_3d(map, shared->out, 0, -1, 0);  // from the line before the first
}

// ---- barriers with numbers
FAULT(barrier_zero) {
  (void)map;
  warpgroup_sync(0, 128);  // belongs to __syncthreads
}
FAULT(half_a_warp) {
  (void)map;
  warpgroup_sync(1, 48);  // not whole warps
}
FAULT(divergent_number) {
  (void)map;
  if (threadIdx.x < 64)
    warpgroup_sync(1, 128);  // the lower half
  else
    warpgroup_sync(1, 128);  // the upper half
}
FAULT(too_few) {
  (void)map;
  if (threadIdx.x < 96) warpgroup_sync(2, 128);  // three warps of four
}
