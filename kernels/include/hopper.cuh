// What sm_90a has beyond sm_80: barriers in memory, copies by tensor maps, products of a whole warpgroup. Each with its
// PTX and, in hopper_emulated.cuh, its emulation. For *_sm90.cu alone.
//
//   HOPPER_SMEM(char, buffer)            the launch's dynamic shared memory, aligned to 1024 bytes as the swizzle wants
//                                        it
//
// Barriers in shared memory (mbarrier): a phase ends when `arrivals` have come and all bytes that were announced are
// there.
//   mbarrier_init(bar, arrivals); mbarrier_init_fence()   the fence makes the barriers known to the copies and the
//                                                         cluster; a barrier of all threads must follow
//   mbarrier_arrive(bar)
//   mbarrier_expect(bar, bytes)          arrives, and announces bytes that copies will bring
//   mbarrier_wait(bar, parity)           until the phase of this parity has ended; the first phase has parity 0
//
// Clusters: blocks along x that the launch puts on neighbouring multiprocessors, so that they can reach each other's
// shared memory. Each block is one of its own unless the launch says otherwise.
//   cluster_size(), cluster_rank()
//   cluster_sync()                       a barrier of all their threads, in full warps: before the first use of another
//                                        block's memory, and after the last, as a block's memory ends with it
//   mbarrier_arrive_at(bar, rank)        at the barrier that lies in that block where `bar` lies in this one
//   tma_share_2d/3d/im2col(.., mask)     as tma_load_*, into the memory of all blocks whose rank's bit is set: at `to`
//                                        in each, complete on `bar` in each
//
// Copies by tensor maps (TMA). One thread asks for a box; coordinates count elements, fastest dimension first. What
// lies outside the tensor is read as zero and not written. Boxes lie in shared memory row by row, rows of 128 bytes
// swizzled (`swizzled` below).
//   tma_prefetch(map)                    the map itself comes into the cache where copies look for it
//   tma_load_2d/3d(to, map, bar, ..)     completes on the barrier
//   tma_load_im2col(to, map, bar, channel, x, y, image, right, down)
//                                        `pixels` of the map from (x, y, image) on, along rows of the map's bounding
//                                        box, each read `right` and `down` from where it lies
//   tma_store_3d(map, from, ..)          in the thread's open group
//   tma_store_commit()                   closes the group
//   tma_store_wait_read<N>()             until all but the N youngest groups have read shared memory
//   proxy_fence()                        what this thread wrote to shared memory is seen by copies and products that
//                                        start after a barrier behind the fence
//
// Products of a warpgroup (wgmma): four warps, from a multiple of four on, call together.
//   wgmma<A_MN, B_MN>(sums, a, b)        sums += A B, 64 x N by 16, bf16 factors in shared memory, f32 sums; N from the
//                                        type of sums, a and b from wgmma_operand()
//   wgmma_fence()                        before the first product, and after the sums were touched
//   wgmma_commit(); wgmma_wait<N>()      closes a group; waits until all but the N youngest are done: only then may the
//                                        sums be read and the factors' memory be written
//   wgmma_operand(at, block)             the factor at `at`, its blocks of 64 rows (columns) `block` bytes apart
// A factor lies as the maps leave it, in lines of 128 bytes, eight to an atom of 1024 bytes:
//   depth along the lines (A_MN = 0)     a line for each row; the next 16 of the depth begin 32 bytes on
//   rows along the lines (A_MN = 1)      a line for each of the depth, 64 rows long; the next 16 begin 2048 bytes on
// The sums of chunk c of 64 columns are fragments like mma.cuh's: sums[c][0][j][e], with g = lane / 4 and t = lane % 4,
// is row 16 warp + g + e / 2 * 8 and column 64 c + 8 j + 2 t + e % 2.
//
//   thread_read_anew()                   threadIdx.x, of which nothing is kept in a register from one use to the next
//   warpgroup_sync(barrier, threads)     a barrier of this number for as many threads; 0 belongs to __syncthreads
//   registers_release<N>(), registers_claim<N>()   a warpgroup gives registers back, or takes them
#pragma once
#include "dev.cuh"

constexpr int WARPGROUP = 128;
// Bytes of a line, of the atom in which lines are swizzled, and of a block of 64 x 64 bf16.
constexpr int LINE_BYTES = 128, ATOM_BYTES = 1024, BLOCK_BYTES = 8192;

// 64 columns of a warpgroup's sums, and N of them.
using WgmmaChunk = float[1][8][4];
template <int N>
using WgmmaSums = WgmmaChunk[N / 64];

// Where the 16 bytes at `offset` of swizzled rows of 128 bytes lie.
__device__ __forceinline__ int swizzled(int offset) { return offset ^ (offset >> 7 & 7) << 4; }

#ifdef EMU_HOST
#include "hopper_emulated.cuh"
#else
#include <cuda.h>

#define HOPPER_SMEM(T, name)                                            \
  extern __shared__ __align__(1024) unsigned char hopper_shared_[];     \
  T* name = reinterpret_cast<T*>(hopper_shared_)

__device__ __forceinline__ void mbarrier_init(uint64_t* bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
__device__ __forceinline__ void mbarrier_expect(uint64_t* bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void mbarrier_wait(uint64_t* bar, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN;\n"
      "}" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ int cluster_size() {
  int size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_sync() {
  // First the lanes of a warp, of which one may have had work of its own.
  asm volatile(
      "bar.warp.sync 0xffffffff;\n"
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// Of the scope of a block, though it reaches further: a wider one would be a fence for all of the GPU in every K tile,
// and nothing needs it. What the other block does next is a copy into memory that this one's products have been waited
// for.
__device__ __forceinline__ void mbarrier_arrive_at(uint64_t* bar, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(bar)),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ void tma_prefetch(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(i), "r"(j)
      : "memory");
}
__device__ __forceinline__ void tma_load_3d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, int k) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(i), "r"(j), "r"(k)
      : "memory");
}
__device__ __forceinline__ void tma_load_im2col(void* to, const CUtensorMap* map, uint64_t* bar, int channel, int x,
                                                int y, int image, int right, int down) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], "
      "[%2], {%7, %8};" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(channel), "r"(x), "r"(y), "r"(image), "h"(static_cast<uint16_t>(right)),
      "h"(static_cast<uint16_t>(down))
      : "memory");
}
__device__ __forceinline__ void tma_share_2d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, int mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(i), "r"(j), "h"(static_cast<uint16_t>(mask))
      : "memory");
}
__device__ __forceinline__ void tma_share_3d(void* to, const CUtensorMap* map, uint64_t* bar, int i, int j, int k,
                                             int mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(i), "r"(j), "r"(k), "h"(static_cast<uint16_t>(mask))
      : "memory");
}
__device__ __forceinline__ void tma_share_im2col(void* to, const CUtensorMap* map, uint64_t* bar, int channel, int x,
                                                 int y, int image, int right, int down, int mask) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(channel), "r"(x), "r"(y), "r"(image), "h"(static_cast<uint16_t>(right)),
      "h"(static_cast<uint16_t>(down)), "h"(static_cast<uint16_t>(mask))
      : "memory");
}
__device__ __forceinline__ void tma_store_3d(const CUtensorMap* map, const void* from, int i, int j, int k) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(shared_address(from)), "r"(i), "r"(j), "r"(k)
               : "memory");
}
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ uint64_t wgmma_operand(const void* at, int block) {
  // PTX ISA, "Matrix-descriptor": start, distance of blocks, distance of atoms, 128-byte swizzle; 16 bytes a unit.
  uint64_t start = (shared_address(at) & 0x3ffff) >> 4;
  return start | static_cast<uint64_t>(block >> 4) << 16 | static_cast<uint64_t>(ATOM_BYTES >> 4) << 32 | 1ull << 62;
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// clang-format off
#define WGMMA_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_16(i) WGMMA_4(i), WGMMA_4(i + 4), WGMMA_4(i + 8), WGMMA_4(i + 12)
#define WGMMA_32(i) WGMMA_16(i), WGMMA_16(i + 16)
#define WGMMA_REGISTERS_32                                                                                     \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"                                                      \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_REGISTERS_64 WGMMA_REGISTERS_32                                                                  \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"                                           \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_REGISTERS_128 WGMMA_REGISTERS_64                                                                 \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"                                           \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"                                           \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"                               \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// clang-format on

template <int A_MN, int B_MN, int CHUNKS>
__device__ __forceinline__ void wgmma(WgmmaChunk (&sums)[CHUNKS], uint64_t a, uint64_t b) {
  float* d = &sums[0][0][0][0];
  if constexpr (CHUNKS == 1)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_REGISTERS_32
                 "}, %32, %33, 1, 1, 1, %34, %35;"
                 : WGMMA_32(0)
                 : "l"(a), "l"(b), "n"(A_MN), "n"(B_MN));
  else if constexpr (CHUNKS == 2)
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_REGISTERS_64
                 "}, %64, %65, 1, 1, 1, %66, %67;"
                 : WGMMA_32(0), WGMMA_32(32)
                 : "l"(a), "l"(b), "n"(A_MN), "n"(B_MN));
  else
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" WGMMA_REGISTERS_128
                 "}, %128, %129, 1, 1, 1, %130, %131;"
                 : WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_32(96)
                 : "l"(a), "l"(b), "n"(A_MN), "n"(B_MN));
}

__device__ __forceinline__ unsigned thread_read_anew() {
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}
__device__ __forceinline__ void warpgroup_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
template <int N>
__device__ __forceinline__ void registers_release() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void registers_claim() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
#endif

// A warpgroup that works alone, for sync<>(): its barrier has its number, so the first one of a block has none.
struct WarpgroupTeam {
  static constexpr int THREADS = WARPGROUP;
  __device__ static int thread() { return threadIdx.x % WARPGROUP; }
#ifdef EMU_HOST
  static void meet(const char* file, int line) { warpgroup_sync(threadIdx.x / WARPGROUP, WARPGROUP, file, line); }
#else
  __device__ __forceinline__ static void meet() { warpgroup_sync(threadIdx.x / WARPGROUP, WARPGROUP); }
#endif
};
