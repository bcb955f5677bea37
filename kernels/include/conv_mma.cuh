// Implicit GEMM on tensor cores (mma.sync: sm_80 and newer), for the convolutions of conv2d_mma.cu.
//
//   C[i, j] = sum over d of A[i, d] B[d, j]     factors bf16, or f32 rounded to tf32; sums in f32
//
// The plain version is conv_simt.cuh. A block of 128 threads computes a tile of C, each of its
// four warps a part in registers. What is done beyond that, one step at a time:
//   1. mma: a warp multiplies 16 x 8 tiles of C at once, in two steps of 32 bytes along d for each K tile.
//   2. cp.async: K tiles travel to shared memory without passing through registers, STAGES - 1 of them on the way while
//      one is multiplied. What lies outside an image or beyond an edge is not read: the copy writes zeros.
//   3. One barrier a K tile: it says that the K tile has come for all threads, and that all have read the K tile
//      before, whose place the next copy takes.
//   4. ldmatrix: a warp's factors come from shared memory in the fragments that mma wants, 16 bytes a row.
//   5. A swizzle instead of padding: the 16-byte chunks of a line are permuted by its number, so that the eight rows of
//      an ldmatrix, and the threads of a copy, meet all 32 banks once.
//   6. No K tile straddles two taps: tap and first channel of a K tile are the same for all threads, and addresses take
//      two additions. Channels that do not fill a K tile are zeros.
//   7. Results leave through shared memory, so that every store to global memory has 16 bytes (conv_store.cuh).
//
// An operand lies in shared memory as it lies in global memory:
//   deep   a line for each row (column) of the product, d along it: 64 bytes
//   flat   a line for each d, rows (columns) of the product along it; transposed on the way into registers
// The operands come from loaders (conv_mma_loaders.cuh): fetch(tile, walk) copies the K tile at `walk`.
#pragma once
#include "conv_gather.cuh"
#include "conv_store.cuh"

constexpr int MMA_THREADS = 128;
constexpr int STAGES = 4;
// A K tile's bytes along d, for each row and each column of the tile.
constexpr int K_TILE_BYTES = 64;
template <class T>
constexpr int MMA_K_TILE = K_TILE_BYTES / sizeof(T);
// A tile of BM x BN by four warps, of which DOWN lie below each other.
template <int BM_, int BN_, int DOWN>
struct MmaTile : BlockTeam<MMA_THREADS> {
  static constexpr int BM = BM_, BN = BN_, ACROSS = 4 / DOWN, WM = BM / DOWN, WN = BN / ACROSS;
  // Blocks that a multiprocessor is to hold at once; said, since ptxas would spill registers for more.
  static constexpr int TOGETHER = BM * BN >= 128 * 128 ? 2 : BM * BN >= 128 * 64 ? 4 : 5;
  static constexpr int DOWN_16 = WM / 16, ACROSS_8 = WN / 8, STAGE_BYTES = (BM + BN) * K_TILE_BYTES;
  // What the results may take: the place of the K tiles.
  static constexpr int RESULT_BYTES = STAGES * STAGE_BYTES;
  static_assert(WM % 16 == 0 && WN % 16 == 0, "a warp loads 16 rows and 16 columns at once");
  // 16 x 8 tiles, each in the fragments of mma.cuh.
  using Sums = float[DOWN_16][ACROSS_8][4];

  __device__ static int row() { return threadIdx.x / 32 / ACROSS * WM; }
  __device__ static int column() { return threadIdx.x / 32 % ACROSS * WN; }
};

template <class T>
struct DeepTile {
  __device__ static int at(int line, int chunk) { return place<K_TILE_BYTES, false>(line, chunk); }

  // 16 rows from `row`, as the left factor.
  __device__ static void left(uint32_t (&a)[4], const char* tile, int row, int step) {
    int lane = threadIdx.x & 31;
    ldmatrix_x4(a, tile + at(row + (lane & 15), step * 2 + (lane >> 4)));
    round(a);
  }
  // Twice 8 columns from `column`, as the right factor.
  __device__ static void right(uint32_t (*b)[2], const char* tile, int column, int step) {
    int lane = threadIdx.x & 31;
    uint32_t q[4];
    ldmatrix_x4(q, tile + at(column + (lane & 7) + (lane >> 4 << 3), step * 2 + (lane >> 3 & 1)));
    round(q);
    b[0][0] = q[0], b[0][1] = q[1], b[1][0] = q[2], b[1][1] = q[3];
  }
  __device__ static void round(uint32_t (&words)[4]) {
    if (sizeof(T) == 4)
#pragma unroll
      for (int e = 0; e < 4; e++) words[e] = to_tf32(__uint_as_float(words[e]));
  }
};

template <class T, int EXTENT>
struct FlatTile;

template <int EXTENT>
struct FlatTile<bf16, EXTENT> {
  __device__ static int at(int line, int chunk) { return place<EXTENT * 2, false>(line, chunk); }

  __device__ static void left(uint32_t (&a)[4], const char* tile, int row, int step) {
    int lane = threadIdx.x & 31;
    ldmatrix_x4_trans(a, tile + at(step * 16 + (lane & 7) + (lane >> 4 << 3), (row >> 3) + (lane >> 3 & 1)));
  }
  __device__ static void right(uint32_t (*b)[2], const char* tile, int column, int step) {
    int lane = threadIdx.x & 31;
    uint32_t q[4];
    ldmatrix_x4_trans(q, tile + at(step * 16 + (lane & 15), (column >> 3) + (lane >> 4)));
    b[0][0] = q[0], b[0][1] = q[1], b[1][0] = q[2], b[1][1] = q[3];
  }
};

// ldmatrix transposes 16-bit values only: words one by one.
template <int EXTENT>
struct FlatTile<float, EXTENT> {
  __device__ static int at(int line, int chunk) { return place<EXTENT * 4, true>(line, chunk); }
  __device__ static uint32_t word(const char* tile, int line, int i) {
    return to_tf32(load_shared(reinterpret_cast<const float*>(tile + at(line, i >> 2)) + (i & 3)));
  }

  __device__ static void left(uint32_t (&a)[4], const char* tile, int row, int step) {
    int lane = threadIdx.x & 31, line = step * 8 + (lane & 3), i = row + (lane >> 2);
#pragma unroll
    for (int e = 0; e < 4; e++) a[e] = word(tile, line + (e >> 1) * 4, i + (e & 1) * 8);
  }
  __device__ static void right(uint32_t (*b)[2], const char* tile, int column, int step) {
    int lane = threadIdx.x & 31, line = step * 8 + (lane & 3), i = column + (lane >> 2);
#pragma unroll
    for (int e = 0; e < 4; e++) b[e >> 1][e & 1] = word(tile, line + (e & 1) * 4, i + (e >> 1) * 8);
  }
};

template <class T, int N>
__device__ __forceinline__ void mma(float (*sums)[4], const uint32_t (&a)[4], const uint32_t (*b)[2]) {
  if constexpr (sizeof(T) == 4)
    mma_tf32<N>(sums, a, b);
  else
    mma_bf16<N>(sums, a, b);
}

// Adds the products of all K tiles of `walk` to `sums`. `shared` has STAGES stages of the tile.
template <class T, class Tile, class A, class B, class Walk>
__device__ __forceinline__ void multiply(char* shared, A& a, B& b, Walk walk, typename Tile::Sums& sums) {
  constexpr int B_AT = Tile::BM * K_TILE_BYTES;
  int k_tiles = walk.k_tiles(), fetched = 0;
  char *into = shared, *end = shared + STAGES * Tile::STAGE_BYTES;
  // A group is committed for every K tile, there or not, so that the waits can count.
  auto fetch = [&] {
    if (fetched < k_tiles) {
      a.fetch(into, walk);
      b.fetch(into + B_AT, walk);
      walk.next();
      fetched++;
    }
    cp_async_commit();
    into += Tile::STAGE_BYTES;
    if (into == end) into = shared;
  };
  for (int stage = 0; stage < STAGES - 1; stage++) fetch();
  const char* from = shared;
  for (int k_tile = 0; k_tile < k_tiles; k_tile++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    fetch();
#pragma unroll
    for (int step = 0; step < 2; step++) {
      uint32_t left[Tile::DOWN_16][4], right[Tile::ACROSS_8][2];
#pragma unroll
      for (int i = 0; i < Tile::DOWN_16; i++) A::Tile::left(left[i], from, Tile::row() + i * 16, step);
#pragma unroll
      for (int j = 0; j < Tile::ACROSS_8; j += 2) B::Tile::right(right + j, from + B_AT, Tile::column() + j * 8, step);
#pragma unroll
      for (int i = 0; i < Tile::DOWN_16; i++) mma<T, Tile::ACROSS_8>(sums[i], left[i], right);
    }
    from += Tile::STAGE_BYTES;
    if (from == end) from = shared;
  }
}
