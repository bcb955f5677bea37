// A step that must not be taken where a loss is NaN or infinite, decided where the loss lies: no one waits for it.
#pragma once
#include "dev.cuh"

// Whether one of `count` losses is NaN or infinite; not where there are none.
__device__ __forceinline__ bool found_inf(const float* losses, int count) {
  bool found = false;
  // 0 for finite values, else NaN.
  for (int i = 0; i < count; i++) found = found || losses[i] - losses[i] != 0;
  return found;
}
