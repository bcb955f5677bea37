// Kernels that write where they may not: `at` chooses the place. For the AddressSanitizer program (tests/asan.cpp).
// Launch: one block of 64 threads, 256 bytes of dynamic shared memory.
#include "dev.cuh"

extern "C" __global__ void test_overrun_buffer(float* out, int at) { out[threadIdx.x + at] = 1; }
KERNEL_EXPORT(test_overrun_buffer)

extern "C" __global__ void test_overrun_dynamic(float* out, int at) {
  DYN_SMEM(float, buffer);
  buffer[threadIdx.x + at] = 1;
  __syncthreads();
  out[threadIdx.x] = buffer[63 - threadIdx.x];
}
KERNEL_EXPORT(test_overrun_dynamic)

extern "C" __global__ void test_overrun_variable(float* out, int at) {
  SHARED(float, first, [64]);
  SHARED(float, second, [64]);
  second[threadIdx.x] = 2;
  first[threadIdx.x + at] = 1;
  __syncthreads();
  out[threadIdx.x] = first[63 - threadIdx.x] + second[threadIdx.x];
}
KERNEL_EXPORT(test_overrun_variable)
