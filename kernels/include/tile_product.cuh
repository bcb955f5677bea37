// A block's tile of a matrix product, with operands given as functions: what the contrastive operations are made of.
//
//   TileProduct<A, A_ALONG_K, B_ALONG_K>::run(K, a, b, sum)
//
// 128 threads compute the 64 x 32 tile  C[i][j] = sum_k a(i,k) b(k,j),  4 x 4 elements a thread: thread t holds rows
// ROW(t).. + 4 and columns COLUMN(t).. + 4 in `sum`, to which it adds. a(i,k) for i < 64 and b(k,j) for j < 32 are
// called for k < K only, and return 0 outside the matrices. A_ALONG_K tells that a(i,k) lies in memory along k (else
// along i), B_ALONG_K that b(k,j) does (else along j): consecutive threads then read consecutive addresses.
// The terms of a sum are added by rising k. Every thread of the block calls; shared memory: 12.5 KiB (f32).
#pragma once
#include "dev.cuh"

template <class A>
struct alignas(16) Quad {
  A v[4];
};

template <class A, bool A_ALONG_K, bool B_ALONG_K>
struct TileProduct {
  static constexpr int ROWS = 64, COLUMNS = 32, DEPTH = 32, THREADS = 128;
  // Rows of the tiles stay aligned to 16 bytes.
  static constexpr int PAD = 4;
  static __device__ __forceinline__ int row() { return threadIdx.x / 8 * 4; }
  static __device__ __forceinline__ int column() { return threadIdx.x % 8 * 4; }

  template <class LoadA, class LoadB>
  static __device__ __forceinline__ void run(int K, LoadA a, LoadB b, A (&sum)[4][4]) {
    SHARED(A, tile_a, [DEPTH][ROWS + PAD]);
    SHARED(A, tile_b, [DEPTH][COLUMNS + PAD]);
    int t = threadIdx.x;
    for (int first = 0; first < K; first += DEPTH) {
#pragma unroll
      for (int e = t; e < ROWS * DEPTH; e += THREADS) {
        int k = A_ALONG_K ? e % DEPTH : e / ROWS, i = A_ALONG_K ? e / DEPTH : e % ROWS;
        tile_a[k][i] = first + k < K ? a(i, first + k) : A(0);
      }
#pragma unroll 8
      for (int e = t; e < COLUMNS * DEPTH; e += THREADS) {
        int k = B_ALONG_K ? e % DEPTH : e / COLUMNS, j = B_ALONG_K ? e / DEPTH : e % COLUMNS;
        tile_b[k][j] = first + k < K ? b(first + k, j) : A(0);
      }
      __syncthreads();
#pragma unroll 8
      for (int k = 0; k < DEPTH; k++) {
        Quad<A> x = *reinterpret_cast<const Quad<A>*>(&tile_a[k][row()]);
        Quad<A> y = *reinterpret_cast<const Quad<A>*>(&tile_b[k][column()]);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) sum[i][j] += x.v[i] * y.v[j];
      }
      // The next step, or the next call, writes the tiles again.
      __syncthreads();
    }
  }
};
