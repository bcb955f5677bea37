// What every kernel file includes: one source for nvcc (sm_80 and newer) and for the emulator, which compiles it with
// g++ (tools/emulator). Whatever differs between the two has both bodies here or in mma.cuh; kernels hold no PTX.
//
//   SHARED(float, tile, [32][33]);   static shared memory: declares `float tile[32][33]`, 16-byte aligned
//   DYN_SMEM(float, buffer);         the launch's dynamic shared memory as `float* buffer`, 128-byte aligned
// Plain `__shared__` does not compile under the emulator: only these let it fill shared memory with NaN before each
// block, and fence every variable off from the next.
//
//   extern "C" __global__ void foo_f32(...) {...}  KERNEL_EXPORT(foo_f32)     makes the kernel known to the emulator
//   #define FOO(T, suffix) ... KERNEL_EXPORT(foo_##suffix)
//   FOR_FLOATS(FOO)                                                           one kernel for each float type
//
//   const GRID_CONSTANT Table table                                  a large parameter by value, indexed where it lies
//
// Arithmetic runs in the accumulator type Acc<T>: double for double, float for float and bf16.
//   to_acc(x)        storage to accumulator, exact
//   from_acc<T>(a)   accumulator to storage, rounded to nearest even
//
// Reductions use a fixed order and give every thread the same bits, whatever the schedule:
//   warp_sum, warp_max, warp_min    over the 32 lanes of a full warp
//   block_sum, block_max, block_min over a block of whole warps; every thread calls; includes two __syncthreads
// The maximum and the minimum pass NaN on.
#pragma once

#ifdef EMU_HOST
#define SHARED(T, name, ...)                                                                                   \
  static char name##_variable_;                                                                                \
  using name##_type_ = T __VA_ARGS__;                                                                          \
  name##_type_& name =                                                                                         \
      *static_cast<name##_type_*>(emu::shared_variable(&name##_variable_, sizeof(name##_type_), #name))
#define DYN_SMEM(T, name) T* name = static_cast<T*>(emu::dynamic_shared())
// The trampoline has the signature of bicl::device::EmulatedEntry and joins a table when the program starts.
#define GRID_CONSTANT
#define KERNEL_EXPORT(name)                                                                                         \
  static int name##_trampoline_(const emu::Extent* extent, void** args, const emu::Schedule* schedule, char* error, \
                                size_t error_capacity) {                                                            \
    return emu::launch_packed(&name, *extent, args, *schedule, error, error_capacity);                              \
  }                                                                                                                 \
  static emu::Export name##_export_{#name, &name##_trampoline_};
#else
#include <cuda_bf16.h>

#include <cstdint>
#define SHARED(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__
#define DYN_SMEM(T, name)                                             \
  extern __shared__ __align__(128) unsigned char dynamic_shared_[];   \
  T* name = reinterpret_cast<T*>(dynamic_shared_)
#define GRID_CONSTANT __grid_constant__
#define KERNEL_EXPORT(name)
#endif

using bf16 = __nv_bfloat16;

// clang-format off
#define FOR_FLOATS(M) M(float, f32) M(double, f64) M(bf16, bf16)
// clang-format on

template <class T>
struct AccOf {
  using type = T;
};
template <>
struct AccOf<bf16> {
  using type = float;
};
// The type in which values stored as T are added up.
template <class T>
using Acc = typename AccOf<T>::type;

__device__ __forceinline__ float to_acc(float x) { return x; }
__device__ __forceinline__ double to_acc(double x) { return x; }
__device__ __forceinline__ float to_acc(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_acc(Acc<T> a) {
  return a;
}
template <>
__device__ __forceinline__ bf16 from_acc<bf16>(float a) {
  return __float2bfloat16(a);
}

// Threads of the block in one dimension, x fastest: the order in which warps are made.
__device__ __forceinline__ int block_threads() { return blockDim.x * blockDim.y * blockDim.z; }
__device__ __forceinline__ int block_thread() {
  return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

// sync<Team>() is the barrier of those threads of a block that work together.
//   BlockTeam<N>: all N of them
#ifdef EMU_HOST
template <class Team>
void sync(EMU_HERE) {
  Team::meet(file_, line_);
}
#else
template <class Team>
__device__ __forceinline__ void sync() {
  Team::meet();
}
#endif
template <int N>
struct BlockTeam {
  static constexpr int THREADS = N;
  __device__ static int thread() { return threadIdx.x; }
#ifdef EMU_HOST
  static void meet(const char* file, int line) { __syncthreads(file, line); }
#else
  __device__ __forceinline__ static void meet() { __syncthreads(); }
#endif
};

struct Sum {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct Max {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return b > a || b != b ? b : a;
  }
};
struct Min {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return b < a || b != b ? b : a;
  }
};

template <class A, class Combine>
__device__ __forceinline__ A warp_reduce(A value, Combine combine) {
  // A butterfly: the partners of a step combine the same two values, so all lanes end with the same bits.
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

template <class A, class Combine>
__device__ __forceinline__ A block_reduce(A value, Combine combine) {
  SHARED(A, partial, [32]);
  int thread = block_thread(), warps = block_threads() / 32;
  value = warp_reduce(value, combine);
  if (thread % 32 == 0) partial[thread / 32] = value;
  __syncthreads();
  A total = partial[0];
  for (int warp = 1; warp < warps; warp++) total = combine(total, partial[warp]);
  // The next call writes `partial` again.
  __syncthreads();
  return total;
}

// clang-format off
template <class A> __device__ __forceinline__ A warp_sum(A value) { return warp_reduce(value, Sum{}); }
template <class A> __device__ __forceinline__ A warp_max(A value) { return warp_reduce(value, Max{}); }
template <class A> __device__ __forceinline__ A warp_min(A value) { return warp_reduce(value, Min{}); }
template <class A> __device__ __forceinline__ A block_sum(A value) { return block_reduce(value, Sum{}); }
template <class A> __device__ __forceinline__ A block_max(A value) { return block_reduce(value, Max{}); }
template <class A> __device__ __forceinline__ A block_min(A value) { return block_reduce(value, Min{}); }
// clang-format on

#include "mma.cuh"
