// Asynchronous copies to shared memory, and the tensor-core instructions of sm_80: each with its PTX and its emulation.
// Included by dev.cuh.
//
//   cp_async16(dst, src, src_bytes = 16)   copies 16 bytes from global to shared memory; past src_bytes it writes zeros
//   cp_async8, cp_async4                   the same for 8 and 4 bytes
//   cp_async_commit(); cp_async_wait<N>()  close a group; wait until at most the N youngest groups are pending
// A wait covers the thread's own copies: a __syncthreads must follow before other threads read them.
//
//   load_shared(p); store_shared(p, x)     4, 8 or 16 bytes, as `*p` and `*p = x`; the emulator counts their bank
//   conflicts ldmatrix_x4(r, row), ldmatrix_x4_trans   four 8x8 matrices of 16-bit values; lane l gives row l%8 of
//                                                      matrix l/8
//   mma_bf16<N>(d, a, b)   d[j] += a * b[j], j < N: m16n8k16, bf16 factors, f32 sums
//   mma_tf32<N>(d, a, b)   the same with m16n8k8 and factors from to_tf32 (round to nearest, ties away from zero)
// Fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for mma"):
//   d[j]: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//   bf16 a: (g, 2t..) (g+8, 2t..) (g, 2t+8..) (g+8, 2t+8..), the lower k in the lower half; b[j]: k = 2t.., 2t+8..,
//   column g tf32 a: (g, t) (g+8, t) (g, t+4) (g+8, t+4); b[j]: k = t, t+4, column g
#pragma once

#ifndef EMU_HOST

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void cp_async16(void* dst, const void* src, int src_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(src_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async8(void* dst, const void* src, int src_bytes = 8) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(src_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async4(void* dst, const void* src, int src_bytes = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(src_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

template <class T>
__device__ __forceinline__ T load_shared(const T* p) {
  return *p;
}
template <class T>
__device__ __forceinline__ void store_shared(T* p, T x) {
  *p = x;
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

template <int N>
__device__ __forceinline__ void mma_bf16(float (*d)[4], const uint32_t (&a)[4], const uint32_t (*b)[2]) {
#pragma unroll
  for (int j = 0; j < N; j++)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[j][0]), "r"(b[j][1]));
}
template <int N>
__device__ __forceinline__ void mma_tf32(float (*d)[4], const uint32_t (&a)[4], const uint32_t (*b)[2]) {
#pragma unroll
  for (int j = 0; j < N; j++)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[j][0]), "r"(b[j][1]));
}
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

#else

inline void cp_async16(void* dst, const void* src, int src_bytes = 16, EMU_HERE) {
  emu::async_copy(dst, src, 16, src_bytes, file_, line_);
}
inline void cp_async8(void* dst, const void* src, int src_bytes = 8, EMU_HERE) {
  emu::async_copy(dst, src, 8, src_bytes, file_, line_);
}
inline void cp_async4(void* dst, const void* src, int src_bytes = 4, EMU_HERE) {
  emu::async_copy(dst, src, 4, src_bytes, file_, line_);
}
inline void cp_async_commit() { emu::async_commit(); }
template <int N>
void cp_async_wait(EMU_HERE) {
  emu::async_wait(N, file_, line_);
}

template <class T>
T load_shared(const T* p, EMU_HERE) {
  emu::check_shared(p, sizeof(T), "load_shared", file_, line_);
  emu::bank_access(p, sizeof(T), "load_shared", file_, line_);
  return *p;
}
template <class T>
void store_shared(T* p, T x, EMU_HERE) {
  emu::check_shared(p, sizeof(T), "store_shared", file_, line_);
  emu::bank_access(p, sizeof(T), "store_shared", file_, line_);
  emu::shared_written(p, sizeof(T));
  *p = x;
}

// A launch that leaves the address out reads the start of shared memory: tests must notice that too.
inline const void* emu_matrix_row(const void* row, const char* kind, const char* file, int line) {
  emu::check_shared(row, 16, kind, file, line);
  emu::bank_access(row, 16, kind, file, line);
  return emu::left_out(kind, file, line) ? emu::dynamic_shared() : row;
}

struct EmuLdmatrix {
  const uint16_t* row;
  uint32_t* r;
};
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_HERE) {
  row = emu_matrix_row(row, "ldmatrix", file_, line_);
  EmuLdmatrix slot{static_cast<const uint16_t*>(row), r};
  auto load = [](void** slots, unsigned) {
    for (int m = 0; m < 4; m++)
      for (int l = 0; l < 32; l++) {
        const uint16_t* from = static_cast<EmuLdmatrix*>(slots[m * 8 + l / 4])->row + l % 4 * 2;
        static_cast<EmuLdmatrix*>(slots[l])->r[m] = from[0] | uint32_t(from[1]) << 16;
      }
  };
  emu::collective(~0u, &slot, load, "ldmatrix", file_, line_, true);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_HERE) {
  row = emu_matrix_row(row, "ldmatrix.trans", file_, line_);
  EmuLdmatrix slot{static_cast<const uint16_t*>(row), r};
  auto load = [](void** slots, unsigned) {
    for (int m = 0; m < 4; m++)
      for (int l = 0; l < 32; l++) {
        auto at = [&](int i) { return static_cast<EmuLdmatrix*>(slots[m * 8 + l % 4 * 2 + i])->row[l / 4]; };
        static_cast<EmuLdmatrix*>(slots[l])->r[m] = at(0) | uint32_t(at(1)) << 16;
      }
  };
  emu::collective(~0u, &slot, load, "ldmatrix.trans", file_, line_, true);
}

struct EmuMma {
  float (*d)[4];
  const uint32_t* a;
  const uint32_t (*b)[2];
};
// d[16][8] += a[16][K] * b[K][8] for N matrices b; the instruction's fragments decide who holds what.
template <int N, int K, class Gather>
void emu_mma(void** slots, Gather gather) {
  EMU_NO_INIT float a[16][K], b[K][8], d[16][8];
  for (int l = 0; l < 32; l++) gather.a(*static_cast<EmuMma*>(slots[l]), l / 4, l % 4, a);
  for (int j = 0; j < N; j++) {
    for (int l = 0; l < 32; l++) {
      auto& lane = *static_cast<EmuMma*>(slots[l]);
      gather.b(lane.b[j], l / 4, l % 4, b);
      for (int e = 0; e < 4; e++) d[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2] = lane.d[j][e];
    }
    for (int i = 0; i < 16; i++)
      for (int k = 0; k < K; k++)
        for (int n = 0; n < 8; n++) d[i][n] += a[i][k] * b[k][n];
    for (int l = 0; l < 32; l++)
      for (int e = 0; e < 4; e++) static_cast<EmuMma*>(slots[l])->d[j][e] = d[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2];
  }
}
struct EmuBf16Fragments {
  static float half(uint32_t v, int h) { return emu_float(h ? v & 0xffff0000u : v << 16); }
  void a(const EmuMma& lane, int g, int t, float (*a)[16]) const {
    for (int q = 0; q < 4; q++)
      for (int h = 0; h < 2; h++) a[g + q % 2 * 8][2 * t + q / 2 * 8 + h] = half(lane.a[q], h);
  }
  void b(const uint32_t (&b)[2], int g, int t, float (*out)[8]) const {
    for (int q = 0; q < 2; q++)
      for (int h = 0; h < 2; h++) out[2 * t + q * 8 + h][g] = half(b[q], h);
  }
};
struct EmuTf32Fragments {
  // The tensor core ignores the 13 low bits.
  static float value(uint32_t v) { return emu_float(v & 0xffffe000u); }
  void a(const EmuMma& lane, int g, int t, float (*a)[8]) const {
    for (int q = 0; q < 4; q++) a[g + q % 2 * 8][t + q / 2 * 4] = value(lane.a[q]);
  }
  void b(const uint32_t (&b)[2], int g, int t, float (*out)[8]) const {
    for (int q = 0; q < 2; q++) out[t + q * 4][g] = value(b[q]);
  }
};
template <int N>
void mma_bf16(float (*d)[4], const uint32_t (&a)[4], const uint32_t (*b)[2], EMU_HERE) {
  EmuMma slot{d, a, b};
  auto multiply = [](void** slots, unsigned) { emu_mma<N, 16>(slots, EmuBf16Fragments{}); };
  emu::collective(~0u, &slot, multiply, "mma.m16n8k16.bf16", file_, line_, true);
}
template <int N>
void mma_tf32(float (*d)[4], const uint32_t (&a)[4], const uint32_t (*b)[2], EMU_HERE) {
  EmuMma slot{d, a, b};
  auto multiply = [](void** slots, unsigned) { emu_mma<N, 8>(slots, EmuTf32Fragments{}); };
  emu::collective(~0u, &slot, multiply, "mma.m16n8k8.tf32", file_, line_, true);
}
inline uint32_t to_tf32(float x) {
  uint32_t u = emu_bits(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
}

#endif
