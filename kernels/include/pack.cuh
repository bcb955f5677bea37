// W values that are read and written at once.
#pragma once
#include "dev.cuh"

template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T at[W];

  __device__ __forceinline__ static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  __device__ __forceinline__ static Pack load_from_shared(const char* from) {
    return load_shared(reinterpret_cast<const Pack*>(from));
  }
  __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};
