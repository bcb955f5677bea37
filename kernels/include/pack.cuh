// Several neighbouring elements in one access: 16 bytes is the most that a thread moves at a time. Tensors begin at
// multiples of 64 bytes, so that an element whose index is a multiple of W is aligned.
#pragma once
#include "dev.cuh"

template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T at[W];
};

// Elements of 16 bytes.
template <class T>
constexpr int PACK = 16 / int(sizeof(T));

template <int W, class T>
__device__ __forceinline__ Pack<T, W> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, W>*>(p);
}

// 16 bytes that nobody writes meanwhile, so that the load may move in front of stores. A kernel's own `const T*
// __restrict__` says that by itself, an address in a struct does not.
template <int W, class T>
__device__ __forceinline__ Pack<T, W> load_constant(const T* p) {
  static_assert(sizeof(Pack<T, W>) == sizeof(uint4), "one load");
  uint4 words = __ldg(reinterpret_cast<const uint4*>(p));
  Pack<T, W> pack;
  memcpy(&pack, &words, sizeof(pack));
  return pack;
}

template <int W, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, W>& v) {
  *reinterpret_cast<Pack<T, W>*>(p) = v;
}

// Pairs of bf16 in one word, the first in its lower half: exact as f32, and what the hardware does with both at once.
__device__ __forceinline__ float first_of(uint32_t pair) {
  uint32_t bits = pair << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
__device__ __forceinline__ float second_of(uint32_t pair) {
  uint32_t bits = pair & 0xffff0000u;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
__device__ __forceinline__ uint32_t pair_of(float first, float second) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  uint32_t word;
  memcpy(&word, &pair, 4);
  return word;
}
// Each sum rounded once: as if both were added in f32, which is exact where it matters.
__device__ __forceinline__ uint32_t add_pairs(uint32_t a, uint32_t b) {
#ifdef EMU_HOST
  return pair_of(first_of(a) + first_of(b), second_of(a) + second_of(b));
#else
  __nv_bfloat162 x, y;
  memcpy(&x, &a, 4), memcpy(&y, &b, 4);
  x = __hadd2(x, y);
  memcpy(&a, &x, 4);
  return a;
#endif
}
// All bits where an element is above zero, none elsewhere.
__device__ __forceinline__ uint32_t above_zero(uint32_t pair) {
#ifdef EMU_HOST
  return (first_of(pair) > 0 ? 0xffffu : 0) | (second_of(pair) > 0 ? 0xffff0000u : 0);
#else
  __nv_bfloat162 x;
  memcpy(&x, &pair, 4);
  return __hgt2_mask(x, __nv_bfloat162{CUDART_ZERO_BF16, CUDART_ZERO_BF16});
#endif
}

// Walks over `count` elements, W for each thread of a one-dimensional launch: body(Width<W>(), i) for a whole pack from
// i on, body(Width<1>(), i) for each element of the last one where it is not whole.
template <int W>
struct Width {
  static constexpr int value = W;
};
template <int W, class Body>
__device__ __forceinline__ void each_pack(int count, Body body) {
  unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * unsigned(W), end = count;
  if (first >= end) return;
  if (end - first >= W) {
    body(Width<W>(), first);
  } else {
    for (unsigned i = first; i < end; i++) body(Width<1>(), i);
  }
}
