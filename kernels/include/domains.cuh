// Source and target in one launch.
#pragma once
#include "dev.cuh"

// What belongs to `domain`, 0 (source) or 1 (target), of tensors of `elements` elements for each: two tensors, or both
// domains in the first, the source before the target, where `second` is null.
template <class T>
__device__ __forceinline__ T* of_domain(T* first, T* second, int domain, size_t elements) {
  return domain == 0 ? first : second ? second : first + elements;
}
