// Barriers, warp collectives and integer atomics under their CUDA names. Included by cuda_host.h.
#pragma once

inline void __syncthreads(EMU_HERE) { emu::barrier("__syncthreads", false, file_, line_); }
inline int __syncthreads_count(int vote, EMU_HERE) {
  return emu::barrier("__syncthreads_count", vote != 0, file_, line_);
}
inline int __syncthreads_or(int vote, EMU_HERE) { return emu::barrier("__syncthreads_or", vote != 0, file_, line_) != 0; }
inline int __syncthreads_and(int vote, EMU_HERE) {
  return emu::barrier("__syncthreads_and", vote == 0, file_, line_) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_HERE) { emu::warp_barrier(mask, file_, line_); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
struct EmuShuffle {
  T value, result;
  int source;
};
template <class T>
T emu_shuffle(unsigned mask, T value, int source, const char* kind, const char* file, int line) {
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  EmuShuffle<T> slot{value, value, source};
  auto exchange = [](void** slots, unsigned mask) {
    for (int lane = 0; lane < 32; lane++) {
      if (!(mask >> lane & 1)) continue;
      auto& own = *static_cast<EmuShuffle<T>*>(slots[lane]);
      own.result = static_cast<EmuShuffle<T>*>(slots[own.source])->value;
    }
  };
  // What a lane outside the mask holds is undefined.
  if (!(mask >> source & 1))
    emu::fail("%s: lane %u reads lane %d, which is not in the mask %08x, at %s:%d", kind, emu::current->lane, source,
              mask, file, line);
  emu::collective(mask, &slot, exchange, kind, file, line, false);
  return slot.result;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_HERE) {
  int lane = emu::current->lane, from = (lane & ~(width - 1)) | (source & (width - 1));
  return emu_shuffle(mask, value, from, "__shfl_sync", file_, line_);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_HERE) {
  int lane = emu::current->lane, from = (lane & (width - 1)) + int(delta) < width ? lane + int(delta) : lane;
  return emu_shuffle(mask, value, from, "__shfl_down_sync", file_, line_);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_HERE) {
  int lane = emu::current->lane, from = (lane & (width - 1)) >= int(delta) ? lane - int(delta) : lane;
  return emu_shuffle(mask, value, from, "__shfl_up_sync", file_, line_);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_HERE) {
  int lane = emu::current->lane, from = lane ^ (lanes & 31);
  if ((from & ~(width - 1)) > (lane & ~(width - 1))) from = lane;
  return emu_shuffle(mask, value, from, "__shfl_xor_sync", file_, line_);
}

struct EmuVote {
  bool vote;
  unsigned ballot;
};
inline unsigned emu_ballot(unsigned mask, bool vote, const char* kind, const char* file, int line) {
  EmuVote slot{vote, 0};
  auto count = [](void** slots, unsigned mask) {
    unsigned ballot = 0;
    for (int lane = 0; lane < 32; lane++)
      if (mask >> lane & 1 && static_cast<EmuVote*>(slots[lane])->vote) ballot |= 1u << lane;
    for (int lane = 0; lane < 32; lane++)
      if (mask >> lane & 1) static_cast<EmuVote*>(slots[lane])->ballot = ballot;
  };
  emu::collective(mask, &slot, count, kind, file, line, false);
  return slot.ballot;
}
inline unsigned __ballot_sync(unsigned mask, int vote, EMU_HERE) {
  return emu_ballot(mask, vote != 0, "__ballot_sync", file_, line_);
}
inline int __any_sync(unsigned mask, int vote, EMU_HERE) {
  return emu_ballot(mask, vote != 0, "__any_sync", file_, line_) != 0;
}
inline int __all_sync(unsigned mask, int vote, EMU_HERE) {
  return emu_ballot(mask, vote != 0, "__all_sync", file_, line_) == mask;
}

// Integers only: the order of float additions would change the result's bits from run to run.
template <class T, class Op>
T emu_atomic(T* p, T operand, Op op) {
  static_assert(std::is_integral_v<T>, "atomics on floats are not deterministic; use a fixed-order reduction");
  T old, next;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do next = op(old, operand);
  while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
#define EMU_ATOMIC(name, expression)                                                                     \
  template <class T>                                                                                     \
  T name(T* p, std::type_identity_t<T> operand) {                                                        \
    return emu_atomic(p, operand, [](T a, [[maybe_unused]] T b) { return T(expression); });              \
  }
EMU_ATOMIC(atomicAdd, a + b)
EMU_ATOMIC(atomicSub, a - b)
EMU_ATOMIC(atomicMax, a < b ? b : a)
EMU_ATOMIC(atomicMin, b < a ? b : a)
EMU_ATOMIC(atomicAnd, a& b)
EMU_ATOMIC(atomicOr, a | b)
EMU_ATOMIC(atomicXor, a ^ b)
EMU_ATOMIC(atomicExch, b)
EMU_ATOMIC(atomicInc, a >= b ? T(0) : T(a + 1))
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  static_assert(std::is_integral_v<T>);
  __atomic_compare_exchange(p, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
