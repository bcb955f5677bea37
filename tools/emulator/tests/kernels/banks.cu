// Accesses to shared memory whose bank conflicts are known, for the emulator's own tests. Each thread writes one word and
// reads one, then reads four words at once.
// Launch: one block of 32 threads, 4 KiB + 128 bytes of dynamic shared memory; `pitch` words from thread to thread, at most 32.
#include "dev.cuh"

extern "C" __global__ void test_banks(float* out, int pitch) {
  DYN_SMEM(float, buffer);
  struct alignas(16) Quad {
    float at[4];
  };
  for (int i = threadIdx.x; i < 1024 + 32; i += 32) store_shared(buffer + i, 1.0f);
  __syncthreads();
  float word = load_shared(buffer + threadIdx.x * pitch);
  Quad quad = load_shared(reinterpret_cast<const Quad*>(buffer + threadIdx.x * (pitch / 4) * 4));
  out[threadIdx.x] = word + quad.at[3];
}
KERNEL_EXPORT(test_banks)
