// A step that must not be taken where a loss is NaN or infinite, decided where the loss lies: no one waits for it.
#pragma once
#include "dev.cuh"

// Whether all `count` elements are finite; also where there are none.
__device__ __forceinline__ bool finite_gate(const float* gate, int count) {
  bool finite = true;
  // 0 for finite values, else NaN.
  for (int i = 0; i < count; i++) finite = finite && gate[i] - gate[i] == 0;
  return finite;
}
