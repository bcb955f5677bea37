// How a tile of a matrix product leaves registers: rounded, through shared memory, in accesses of 16 bytes. For the
// products of conv_mma.cuh and of conv_wgmma.cuh.
//
// A Tile says
//   THREADS, thread(), sync<Tile>()        the threads that share it, and their barrier
//   BM, BN                                 its rows and columns
//   Sums, DOWN_16, ACROSS_8                a warp's part, in 16 x 8 tiles of mma.cuh's fragments
//   row(), column()                        where that part begins
//   RESULT_BYTES                           the shared memory that the results may take
#pragma once
#include "pack.cuh"

// Elements of 16 bytes.
template <class T>
constexpr int CHUNK = PACK<T>;
template <class T>
using Vector = Pack<T, CHUNK<T>>;
template <class T>
__device__ __forceinline__ Vector<T> load_chunk(const char* shared) {
  return load_shared(reinterpret_cast<const Vector<T>*>(shared));
}

// Byte offset of a chunk in a tile whose lines have LINE bytes. Eight lines of one chunk meet all banks; so do four
// lines of two chunks, which is how single words of 4 bytes are read and written.
template <int LINE, bool WORDS>
__device__ __forceinline__ int place(int line, int chunk) {
  int swizzle = LINE == 64 ? line >> 1 & 3 : WORDS ? (line & 3) << 1 : line & 7;
  return line * LINE + ((chunk ^ swizzle) << 4);
}

// sums[i, j] += bias[start + j], for columns below `count`.
template <class T, class Tile>
__device__ __forceinline__ void add_bias(typename Tile::Sums& sums, const T* bias, int start, int count) {
#pragma unroll
  for (int j = 0; j < Tile::ACROSS_8; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      int k = start + Tile::column() + j * 8 + threadIdx.x % 4 * 2 + e;
      float add = k < count ? to_acc(bias[k]) : 0.0f;
#pragma unroll
      for (int i = 0; i < Tile::DOWN_16; i++) sums[i][j][e] += add, sums[i][j][e + 2] += add;
    }
}

// Elements first.. of a row with `count` elements, from a chunk in shared memory.
template <class T>
__device__ __forceinline__ void store_chunk(T* row, int first, int count, bool vector, const char* from) {
  Vector<T> chunk = load_chunk<T>(from);
  if (vector && first < count) {
    store_pack(row + first, chunk);
  } else {
#pragma unroll
    for (int e = 0; e < CHUNK<T>; e++)
      if (first + e < count) row[first + e] = chunk.at[e];
  }
}

// A chunk as words of two elements.
struct ChunkWords {
  uint32_t at[4];
};

// chunk += more, as if both had been stored.
__device__ __forceinline__ void add(Vector<bf16>& chunk, const Vector<bf16>& more) {
  ChunkWords a, b;
  memcpy(&a, &chunk, 16), memcpy(&b, &more, 16);
#pragma unroll
  for (int i = 0; i < 4; i++) a.at[i] = add_pairs(a.at[i], b.at[i]);
  memcpy(&chunk, &a, 16);
}
template <class T>
__device__ __forceinline__ void add(Vector<T>& chunk, const Vector<T>& more) {
#pragma unroll
  for (int e = 0; e < CHUNK<T>; e++) chunk.at[e] = from_acc<T>(to_acc(more.at[e]) + to_acc(chunk.at[e]));
}

// Where a chunk of the results lies in shared memory.
template <class T, class Tile>
__device__ __forceinline__ char* result(char* shared, int row, int chunk) {
  constexpr int LINE = Tile::BN * sizeof(T);
  static_assert(Tile::BM * LINE <= Tile::RESULT_BYTES, "the results have room");
  return shared + place<LINE, sizeof(T) == 4>(row, chunk);
}

// Rounds the sums to T and puts them there. A barrier must follow.
template <class T, class Tile>
__device__ __forceinline__ void stage_results(char* shared, const typename Tile::Sums& sums) {
  int lane = threadIdx.x & 31;
  // All have read what lay there.
  sync<Tile>();
#pragma unroll
  for (int i = 0; i < Tile::DOWN_16; i++)
#pragma unroll
    for (int j = 0; j < Tile::ACROSS_8; j++)
#pragma unroll
      for (int e = 0; e < 4; e += 2) {
        int row = Tile::row() + i * 16 + (lane >> 2) + e * 4, column = Tile::column() + j * 8 + (lane & 3) * 2;
        struct alignas(2 * sizeof(T)) Pair {
          T at[2];
        };
        Pair pair = {from_acc<T>(sums[i][j][e]), from_acc<T>(sums[i][j][e + 1])};
        char* to = result<T, Tile>(shared, row, column / CHUNK<T>) + column % CHUNK<T> * sizeof(T);
        store_shared(reinterpret_cast<Pair*>(to), pair);
      }
}

// For each 16 bytes of staged results, use(chunk, row, column), behind the barrier that they need; a thread's column is
// always the same.
template <class T, class Tile, class Use>
__device__ __forceinline__ void each_result(char* shared, Use use) {
  constexpr int CHUNKS = Tile::BN / CHUNK<T>;
  static_assert(Tile::THREADS % CHUNKS == 0, "a thread keeps its column");
  sync<Tile>();
  for (int i = Tile::thread(); i < Tile::BM * CHUNKS; i += Tile::THREADS) {
    int row = i / CHUNKS, chunk = i % CHUNKS;
    use(result<T, Tile>(shared, row, chunk), row, chunk * CHUNK<T>);
  }
}

template <class T, class Tile, class Store>
__device__ __forceinline__ void finish(char* shared, const typename Tile::Sums& sums, Store store) {
  stage_results<T, Tile>(shared, sums);
  each_result<T, Tile>(shared, [&](char* chunk, int row, int column) { store(row, column, chunk); });
}
