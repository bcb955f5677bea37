// Matrix products with every kind of synchronisation, for the emulator's own tests.
//   test_gemm_T:     C[M,N] = A[M,K] B[K,N], 16x16 tiles of shared memory, one thread an output   writes (=)
//   test_gemm_mma:   C[M,N] = A[M,K] W[N,K]^T, 32x32x32 tiles, 4 warps, two-stage cp.async, mma   writes (=)
// Launch: test_gemm_T (ceil(N/16), ceil(M/16)) blocks of 16x16; test_gemm_mma (N/32, M/32) blocks of 128 threads, with
// M, N multiples of 32 and K of 32; 4 * 32 * 40 * 2 bytes of dynamic shared memory.
#include "dev.cuh"

template <class T>
__device__ __forceinline__ void gemm(const T* a, const T* b, T* c, int M, int N, int K) {
  SHARED(T, tile_a, [16][17]);
  SHARED(T, tile_b, [16][17]);
  int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * 16 + ty, col = blockIdx.x * 16 + tx;
  Acc<T> sum = 0;
  for (int k0 = 0; k0 < K; k0 += 16) {
    tile_a[ty][tx] = row < M && k0 + tx < K ? a[row * K + k0 + tx] : from_acc<T>(0);
    tile_b[ty][tx] = col < N && k0 + ty < K ? b[(k0 + ty) * N + col] : from_acc<T>(0);
    __syncthreads();
    for (int k = 0; k < 16; k++) sum += to_acc(tile_a[ty][k]) * to_acc(tile_b[k][tx]);
    __syncthreads();
  }
  if (row < M && col < N) c[row * N + col] = from_acc<T>(sum);
}

#define GEMM(T, suffix)                                                                                         \
  extern "C" __global__ void test_gemm_##suffix(const T* a, const T* b, T* c, int M, int N, int K) {            \
    gemm<T>(a, b, c, M, N, K);                                                                                  \
  }                                                                                                             \
  KERNEL_EXPORT(test_gemm_##suffix)
FOR_FLOATS(GEMM)

extern "C" __global__ void __launch_bounds__(128)
    test_gemm_mma(const bf16* a, const bf16* w, float* c, int M, int N, int K) {
  constexpr int TILE = 32, PITCH = TILE + 8;
  DYN_SMEM(bf16, shared);
  bf16 *tile_a = shared, *tile_w = shared + 2 * TILE * PITCH;
  int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE, warp_row = warp % 2 * 16, warp_col = warp / 2 * 16;
  auto load = [&](int stage, int k0) {
    int r = thread / 4, c = thread % 4 * 8;  // 32 rows of 4 pieces of 16 bytes
    cp_async16(tile_a + (stage * TILE + r) * PITCH + c, a + (row0 + r) * K + k0 + c);
    cp_async16(tile_w + (stage * TILE + r) * PITCH + c, w + (col0 + r) * K + k0 + c);
    cp_async_commit();
  };
  float sum[2][4] = {};
  load(0, 0);
  int steps = K / TILE;
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps) {
      load((step + 1) % 2, (step + 1) * TILE);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const bf16* at = tile_a + step % 2 * TILE * PITCH;
    const bf16* wt = tile_w + step % 2 * TILE * PITCH;
    for (int k = 0; k < TILE; k += 16) {
      uint32_t q[4], af[4], wf[2][2];
      ldmatrix_x4(af, at + (warp_row + lane % 16) * PITCH + k + lane / 16 * 8);
      ldmatrix_x4(q, wt + (warp_col + lane % 8 + lane / 16 * 8) * PITCH + k + lane / 8 % 2 * 8);
      wf[0][0] = q[0], wf[0][1] = q[1], wf[1][0] = q[2], wf[1][1] = q[3];
      mma_bf16<2>(sum, af, wf);
    }
    __syncthreads();
  }
  for (int j = 0; j < 2; j++)
    for (int e = 0; e < 4; e++)
      c[(row0 + warp_row + lane / 4 + e / 2 * 8) * N + col0 + warp_col + j * 8 + lane % 4 * 2 + e % 2] = sum[j][e];
}
KERNEL_EXPORT(test_gemm_mma)
