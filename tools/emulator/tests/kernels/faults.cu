// Kernels that break a rule of the execution model, each in one way. The tests look for the emulator's report of it.
// Launch: one block of 64 threads unless said otherwise.
#include "dev.cuh"

extern "C" __global__ void test_deadlock(int* out) {
  if (threadIdx.x < 16) __syncthreads();
  out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}
KERNEL_EXPORT(test_deadlock)

extern "C" __global__ void test_divergent_barrier(int* out) {
  out[threadIdx.x] = 0;
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
KERNEL_EXPORT(test_divergent_barrier)

extern "C" __global__ void test_divergent_warp(unsigned* out) {
  if (threadIdx.x % 32 < 16)
    out[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
  else
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 1u, 0);
}
KERNEL_EXPORT(test_divergent_warp)

extern "C" __global__ void test_shuffle_outside(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, threadIdx.x + 1, 32);
}
KERNEL_EXPORT(test_shuffle_outside)

extern "C" __global__ void test_not_in_mask(int* out) { out[threadIdx.x] = __shfl_sync(1u, 1, 0); }
KERNEL_EXPORT(test_not_in_mask)

// Launch: 40 threads, so that the second warp is not full.
extern "C" __global__ void test_partial_warp(int* out) { out[threadIdx.x] = warp_sum(1); }
KERNEL_EXPORT(test_partial_warp)

extern "C" __global__ void test_early_exit(int* out, int count) {
  if (threadIdx.x >= count) return;
  out[threadIdx.x] = 1;
  __syncthreads();  // not by all
}
KERNEL_EXPORT(test_early_exit)

extern "C" __global__ void test_early_exit_warp(int* out, int count) {
  if (threadIdx.x >= count) return;
  out[threadIdx.x] = warp_sum(1);
}
KERNEL_EXPORT(test_early_exit_warp)

extern "C" __global__ void test_copy_outside(float* out) {
  cp_async4(out, out + 64);
  cp_async_commit();
  cp_async_wait<0>();
}
KERNEL_EXPORT(test_copy_outside)

extern "C" __global__ void test_copy_misaligned(const float* x) {
  DYN_SMEM(float, buffer);
  cp_async16(buffer + 1, x);
}
KERNEL_EXPORT(test_copy_misaligned)

extern "C" __global__ void test_ldmatrix_outside(uint32_t* out) {
  uint32_t r[4];
  ldmatrix_x4(r, out);
  out[threadIdx.x] = r[0];
}
KERNEL_EXPORT(test_ldmatrix_outside)

extern "C" __global__ void test_trap(int* out) {
  if (threadIdx.x == 40) __trap();
  out[threadIdx.x] = 1;
}
KERNEL_EXPORT(test_trap)

#ifdef EMU_HOST  // ptxas refuses it, as it should
extern "C" __global__ void test_too_much_shared(float* out) {
  SHARED(float, tile, [60000]);
  tile[threadIdx.x] = 1;
  out[threadIdx.x] = tile[threadIdx.x];
}
KERNEL_EXPORT(test_too_much_shared)
#endif

// Shared memory that nobody wrote: in the second block as in the first, although the first wrote it.
extern "C" __global__ void test_uninitialised(float* fixed, double* scalar, bf16* dynamic) {
  SHARED(float, tile, [64]);
  SHARED(double, one);
  DYN_SMEM(bf16, buffer);
  int thread = threadIdx.x, at = blockIdx.x * 64 + thread;
  fixed[at] = tile[thread];
  scalar[at] = one;
  dynamic[at] = buffer[thread];
  __syncthreads();
  tile[thread] = 1;
  if (thread == 0) one = 1;
  buffer[thread] = from_acc<bf16>(1);
}
KERNEL_EXPORT(test_uninitialised)
