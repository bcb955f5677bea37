// The emulation of hopper.cuh, which includes it: checks and state are in tools/emulator/src (hopper.h), and every call
// that a launch can leave out is told its place.
#pragma once
#include "hopper.h"

#define HOPPER_SMEM(T, name) T* name = static_cast<T*>(emu::hopper_shared())

// clang-format off
inline void mbarrier_init(uint64_t* bar, int arrivals, EMU_HERE) { emu::mbarrier_init(bar, arrivals, file_, line_); }
inline void mbarrier_init_fence(EMU_HERE) { emu::mbarrier_init_fence(file_, line_); }
inline void mbarrier_arrive(uint64_t* bar, EMU_HERE) { emu::mbarrier_arrive(bar, file_, line_); }
inline void mbarrier_expect(uint64_t* bar, int bytes, EMU_HERE) { emu::mbarrier_expect(bar, bytes, file_, line_); }
inline void mbarrier_wait(uint64_t* bar, int parity, EMU_HERE) { emu::mbarrier_wait(bar, parity, file_, line_); }
inline void mbarrier_arrive_at(uint64_t* bar, int rank, EMU_HERE) { emu::mbarrier_arrive_at(bar, rank, file_, line_); }

inline int cluster_size() { return emu::cluster_size(); }
inline int cluster_rank() { return emu::cluster_rank(); }
inline void cluster_sync(EMU_HERE) { emu::cluster_sync(file_, line_); }
// clang-format on

// Nothing to see where there is no such cache.
inline void tma_prefetch(const CUtensorMap*) {}
inline void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, EMU_HERE) {
  emu::Box box{*map, nullptr, {i, j}, 0, 0, "tma_load_2d", file_, line_};
  emu::tma_load(box, to, bar, 2, false);
}
inline void tma_load_3d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, int k, EMU_HERE) {
  emu::Box box{*map, nullptr, {i, j, k}, 0, 0, "tma_load_3d", file_, line_};
  emu::tma_load(box, to, bar, 3, false);
}
inline void tma_load_im2col(void* to, const CUtensorMap* map, uint64_t* bar, int channel, int x, int y, int image,
                            int right, int down, EMU_HERE) {
  emu::Box box{*map, nullptr, {channel, x, y, image}, right, down, "tma_load_im2col", file_, line_};
  emu::tma_load(box, to, bar, 4, true);
}
inline void tma_share_2d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, int mask, EMU_HERE) {
  emu::Box box{*map, nullptr, {i, j}, 0, 0, "tma_share_2d", file_, line_};
  emu::tma_share(box, to, bar, 2, false, mask);
}
inline void tma_share_3d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, int k, int mask, EMU_HERE) {
  emu::Box box{*map, nullptr, {i, j, k}, 0, 0, "tma_share_3d", file_, line_};
  emu::tma_share(box, to, bar, 3, false, mask);
}
inline void tma_share_im2col(void* to, const CUtensorMap* map, uint64_t* bar, int channel, int x, int y, int image,
                             int right, int down, int mask, EMU_HERE) {
  emu::Box box{*map, nullptr, {channel, x, y, image}, right, down, "tma_share_im2col", file_, line_};
  emu::tma_share(box, to, bar, 4, true, mask);
}
inline void tma_store_3d(const CUtensorMap* map, const void* from, int i, int j, int k, EMU_HERE) {
  emu::Box box{*map, nullptr, {i, j, k}, 0, 0, "tma_store_3d", file_, line_};
  emu::tma_store(box, from, 3);
}
inline void tma_store_commit(EMU_HERE) { emu::tma_store_commit(file_, line_); }
template <int N>
void tma_store_wait_read(EMU_HERE) {
  emu::tma_store_wait_read(N, file_, line_);
}
inline void proxy_fence(EMU_HERE) { emu::proxy_fence(file_, line_); }

inline uint64_t wgmma_operand(const void* at, int block, EMU_HERE) {
  return emu::wgmma_operand(at, block, file_, line_);
}
inline void wgmma_fence(EMU_HERE) { emu::wgmma_fence(file_, line_); }
inline void wgmma_commit(EMU_HERE) { emu::wgmma_commit(file_, line_); }
template <int N>
void wgmma_wait(EMU_HERE) {
  emu::wgmma_wait(N, file_, line_);
}
template <int A_MN, int B_MN, int CHUNKS>
void wgmma(WgmmaChunk (&sums)[CHUNKS], uint64_t a, uint64_t b, EMU_HERE) {
  static_assert(CHUNKS == 1 || CHUNKS == 2 || CHUNKS == 4, "N is 64, 128 or 256");
  emu::wgmma(&sums[0][0][0][0], 64 * CHUNKS, A_MN, B_MN, a, b, file_, line_);
}

inline unsigned thread_read_anew() { return threadIdx.x; }
// A wrapper passes its own caller's place on.
inline void warpgroup_sync(int barrier, int threads, EMU_HERE) { emu::warpgroup_sync(barrier, threads, file_, line_); }

template <int N>
void registers_release(EMU_HERE) {
  static_assert(N % 8 == 0 && 24 <= N && N <= 256, "what setmaxnreg takes");
  emu::warpgroup_meets("registers_release", file_, line_);
}
template <int N>
void registers_claim(EMU_HERE) {
  static_assert(N % 8 == 0 && 24 <= N && N <= 256, "what setmaxnreg takes");
  emu::warpgroup_meets("registers_claim", file_, line_);
}
