// What Hopper kernels call, behind kernels/include/hopper_emulated.cuh. `file` and `line` are the caller's place.
#pragma once
#include <cstdint>

#include "runtime.h"
#include "tensor_map.h"

namespace emu {

// The dynamic shared memory, aligned to 1024 bytes; from here on the block's writes through store_shared are watched.
void* hopper_shared();
void proxy_fence(const char* file, int line);

void mbarrier_init(uint64_t* bar, int arrivals, const char* file, int line);
void mbarrier_init_fence(const char* file, int line);
void mbarrier_arrive(uint64_t* bar, const char* file, int line);
void mbarrier_expect(uint64_t* bar, int bytes, const char* file, int line);
void mbarrier_wait(uint64_t* bar, int parity, const char* file, int line);

// Blocks of a cluster.
int cluster_size();
int cluster_rank();
void cluster_sync(const char* file, int line);
// At the barrier that lies in another block where `bar` lies in this one.
void mbarrier_arrive_at(uint64_t* bar, int rank, const char* file, int line);

// Coordinates beyond the rank are zero.
void tma_load(Box& box, void* to, uint64_t* bar, int rank, bool im2col);
// To all blocks of the cluster whose rank's bit is in the mask.
void tma_share(Box& box, void* to, uint64_t* bar, int rank, bool im2col, int mask);
void tma_store(Box& box, const void* from, int rank);
void tma_store_commit(const char* file, int line);
void tma_store_wait_read(int pending, const char* file, int line);

uint64_t wgmma_operand(const void* at, int block, const char* file, int line);
// sums: this thread's n / 2 accumulators.
void wgmma(float* sums, int n, bool a_mn, bool b_mn, uint64_t a, uint64_t b, const char* file, int line);
void wgmma_fence(const char* file, int line);
void wgmma_commit(const char* file, int line);
void wgmma_wait(int pending, const char* file, int line);

void warpgroup_sync(int barrier, int threads, const char* file, int line);
// All 128 threads of the warpgroup must come, from the same line.
void warpgroup_meets(const char* kind, const char* file, int line);

}  // namespace emu
