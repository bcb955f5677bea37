// Sound Hopper kernels with every kind of asynchronous work, for the emulator's own tests.
//   test_hopper_gemm_*   C[z][M,N] = A[M,K] B[z][N,K]^T in bf16; a warpgroup that copies, one or two that multiply 64 rows by
//                        64 CHUNKS columns each, three stages; a block takes its rows through all columns   writes (=)
//   test_hopper_gather   out[tap][pixel][channel], the taps of a convolution's pixels   writes (=)
// Launch: gemm (1, ceil(M / (64 CONSUMERS)), z) blocks of 128 (1 + CONSUMERS) threads, shared memory as in Gemm below, maps
// with boxes of 64 x 64; gather ceil(pixels / 64) blocks of 64 threads and 8192 + 8 bytes.
#include "hopper.cuh"

constexpr int STAGES = 3, TILE = 64;

template <int CHUNKS, int CONSUMERS>
struct Gemm {
  static constexpr int A = CONSUMERS * BLOCK_BYTES, B = CHUNKS * BLOCK_BYTES, STAGE = A + B;
  static constexpr int OUT = STAGES * STAGE, BARRIERS = OUT + CONSUMERS * B;
};

template <int CHUNKS, int CONSUMERS, int A_MN, int B_MN>
__device__ __forceinline__ void produce(const CUtensorMap* a, const CUtensorMap* b, char* shared, int columns, int depths) {
  using G = Gemm<CHUNKS, CONSUMERS>;
  uint64_t *full = reinterpret_cast<uint64_t*>(shared + G::BARRIERS), *empty = full + STAGES;
  int row = blockIdx.y * CONSUMERS * TILE, batch = blockIdx.z;
  for (int step = 0; step < columns * depths; step++) {
    int stage = step % STAGES, column = step / depths * CHUNKS * TILE, k = step % depths * TILE;
    mbarrier_wait(empty + stage, step / STAGES % 2 ^ 1);
    mbarrier_expect(full + stage, G::STAGE);
    char* to = shared + stage * G::STAGE;
    for (int i = 0; i < CONSUMERS; i++) {
      int at = row + i * TILE;
      tma_load_2d(to + i * BLOCK_BYTES, a, full + stage, A_MN ? at : k, A_MN ? k : at);
    }
    for (int j = 0; j < CHUNKS; j++) {
      int at = column + j * TILE;
      tma_load_3d(to + G::A + j * BLOCK_BYTES, b, full + stage, B_MN ? at : k, B_MN ? k : at, batch);
    }
  }
}

template <int CHUNKS, int CONSUMERS, int A_MN, int B_MN>
__device__ __forceinline__ void consume(const CUtensorMap* c, char* shared, int columns, int depths) {
  using G = Gemm<CHUNKS, CONSUMERS>;
  uint64_t *full = reinterpret_cast<uint64_t*>(shared + G::BARRIERS), *empty = full + STAGES;
  int consumer = threadIdx.x / WARPGROUP - 1, thread = threadIdx.x % WARPGROUP, warp = thread / 32, lane = thread % 32;
  char* out = shared + G::OUT + consumer * G::B;
  for (int column = 0; column < columns; column++) {
    WgmmaSums<CHUNKS * TILE> sums = {};
    int step = column * depths;
    for (int k = 0; k < depths; k++, step++) {
      char* at = shared + step % STAGES * G::STAGE;
      mbarrier_wait(full + step % STAGES, step / STAGES % 2);
      wgmma_fence();
      for (int q = 0; q < TILE / 16; q++) {
        uint64_t a = wgmma_operand(at + consumer * BLOCK_BYTES + q * (A_MN ? 2048 : 32), BLOCK_BYTES);
        uint64_t b = wgmma_operand(at + G::A + q * (B_MN ? 2048 : 32), BLOCK_BYTES);
        wgmma<A_MN, B_MN>(sums, a, b);
      }
      wgmma_commit();
      wgmma_wait<1>();
      // The products of the stage before are done.
      if (thread == 0 && k > 0) {
        mbarrier_arrive(empty + (step - 1) % STAGES);
      }
    }
    wgmma_wait<0>();
    if (thread == 0) {
      mbarrier_arrive(empty + (step - 1) % STAGES);
      tma_store_wait_read<0>();
    }
    warpgroup_sync(1 + consumer, WARPGROUP);  // the columns before are stored
    for (int chunk = 0; chunk < CHUNKS; chunk++)
      for (int j = 0; j < 8; j++)
        for (int half = 0; half < 2; half++) {
          int row = 16 * warp + lane / 4 + half * 8, col = 8 * j + lane % 4 * 2;
          __nv_bfloat162 pair =
              __floats2bfloat162_rn(sums[chunk][0][j][half * 2], sums[chunk][0][j][half * 2 + 1]);
          char* to = out + chunk * BLOCK_BYTES + swizzled(row * LINE_BYTES + col * 2);
          store_shared(reinterpret_cast<__nv_bfloat162*>(to), pair);
        }
    proxy_fence();
    warpgroup_sync(1 + consumer, WARPGROUP);  // this one is written
    if (thread == 0) {
      for (int chunk = 0; chunk < CHUNKS; chunk++)
        tma_store_3d(c, out + chunk * BLOCK_BYTES, (column * CHUNKS + chunk) * TILE,
                     (blockIdx.y * CONSUMERS + consumer) * TILE, blockIdx.z);
      tma_store_commit();
    }
  }
  if (thread == 0) {
    tma_store_wait_read<0>();
  }
}

template <int CHUNKS, int CONSUMERS, int A_MN, int B_MN>
__device__ __forceinline__ void gemm(const CUtensorMap* a, const CUtensorMap* b, const CUtensorMap* c, int columns,
                                     int depths) {
  using G = Gemm<CHUNKS, CONSUMERS>;
  HOPPER_SMEM(char, shared);
  uint64_t *full = reinterpret_cast<uint64_t*>(shared + G::BARRIERS), *empty = full + STAGES;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      mbarrier_init(full + stage, 1);
      mbarrier_init(empty + stage, CONSUMERS);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < WARPGROUP) {
    registers_release<40>();
    if (threadIdx.x == 0) produce<CHUNKS, CONSUMERS, A_MN, B_MN>(a, b, shared, columns, depths);
  } else {
    registers_claim<232>();
    consume<CHUNKS, CONSUMERS, A_MN, B_MN>(c, shared, columns, depths);
  }
}

#define GEMM(CHUNKS, CONSUMERS, A_MN, B_MN, name)                                                                      \
  extern "C" __global__ void __launch_bounds__(WARPGROUP*(1 + CONSUMERS), 1)                                           \
      test_hopper_gemm_##name(const GRID_CONSTANT CUtensorMap a, const GRID_CONSTANT CUtensorMap b,                    \
                              const GRID_CONSTANT CUtensorMap c, int columns, int depths) {                            \
    gemm<CHUNKS, CONSUMERS, A_MN, B_MN>(&a, &b, &c, columns, depths);                                                  \
  }                                                                                                                    \
  KERNEL_EXPORT(test_hopper_gemm_##name)
GEMM(1, 1, 0, 0, 64)
GEMM(2, 2, 0, 0, 128)
GEMM(4, 1, 0, 0, 256)
GEMM(1, 2, 1, 1, 64_mn)
GEMM(2, 1, 1, 1, 128_mn)
GEMM(4, 2, 1, 1, 256_mn)

// The pixel of row m of the products lies at (m % Q, m / Q % P) stride - pad of image m / (P Q).
extern "C" __global__ void test_hopper_gather(const GRID_CONSTANT CUtensorMap map, bf16* out, int P, int Q, int taps,
                                              int dilation, int stride, int pad) {
  HOPPER_SMEM(char, shared);
  uint64_t* full = reinterpret_cast<uint64_t*>(shared + BLOCK_BYTES);
  int thread = threadIdx.x, first = blockIdx.x * TILE, pixels = gridDim.x * TILE;
  if (thread == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  for (int tap = 0; tap < taps * taps; tap++) {
    if (thread == 0) {
      mbarrier_expect(full, BLOCK_BYTES);
      tma_load_im2col(shared, &map, full, 0, first % Q * stride - pad, first / Q % P * stride - pad, first / (P * Q),
                      tap % taps * dilation, tap / taps * dilation);
    }
    mbarrier_wait(full, tap % 2);
    for (int row = 0; row < TILE; row++) {
      const char* from = shared + swizzled(row * LINE_BYTES + thread * 2 / 16 * 16) + thread * 2 % 16;
      out[(tap * pixels + first + row) * TILE + thread] = *reinterpret_cast<const bf16*>(from);
    }
    sync<BlockTeam<TILE>>();  // before the next tap is written
  }
}
KERNEL_EXPORT(test_hopper_gather)
