// Several neighbouring elements in one access: 16 bytes is the most that a thread moves at a time. Tensors begin at multiples of
// 64 bytes, so that an element whose index is a multiple of W is aligned.
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

template <int W, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, W>& v) {
  *reinterpret_cast<Pack<T, W>*>(p) = v;
}

// Walks over `count` elements, W for each thread of a one-dimensional launch: body(Width<W>(), i) for a whole pack from i on,
// body(Width<1>(), i) for each element of the last one where it is not whole.
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
