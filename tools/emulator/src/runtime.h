// What emulated kernels call. A block's threads are fibers on one OS thread that switch only here; blocks are spread over OS
// threads. Every launch has its own state and schedule, so that launches may run at the same time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The caller's place in the kernel, as trailing parameters.
#define EMU_HERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()

namespace emu {

// bicl::device::Schedule.
enum Order : uint32_t { FORWARD = 0, REVERSE = 1, RANDOM = 2, AHEAD = 3 };
struct Schedule {
  Order order;
  uint32_t late_copies;
  uint64_t seed;
  uint32_t workers;
  uint32_t skipped_site;  // number of a Skip (sites.h); 0 for none
  uint32_t count_banks;
};

// bicl::device::Launch.
struct Extent {
  uint32_t grid[3], block[3];
  uint32_t shared_bytes;
  uint32_t cluster;  // blocks along x that run at the same time
};

// A CUDA thread's built-in variables.
struct Thread {
  uint3 thread_index, block_index;
  dim3 block_extent, grid_extent;
  unsigned linear, lane, warp;
};
extern __thread Thread* current;

// Ends the launch with this one-line message.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// __syncthreads; every thread of the block must come, from the same line. Returns how many came with `vote`.
int barrier(const char* kind, bool vote, const char* file, int line);
// Meeting of the lanes in `mask`: the last one runs `combine` over all their slots. `same_line`: they must come from one line.
using Combine = void (*)(void** slots, unsigned mask);
void collective(unsigned mask, void* slot, Combine combine, const char* kind, const char* file, int line, bool same_line);
void warp_barrier(unsigned mask, const char* file, int line);

void* shared_variable(const void* key, size_t bytes, const char* name);
void* dynamic_shared();
// Fails unless p points into the block's shared memory and is aligned.
void check_shared(const void* p, size_t alignment, const char* what, const char* file, int line);
// Hopper kernels: the thread has written here, which copies and products do not see before its proxy_fence.
void shared_written(const void* p, size_t bytes);

// Counts the thread's part of a warp's access to shared memory, where banks are counted.
void bank_access(const void* p, int bytes, const char* kind, const char* file, int line);
// Whether this launch leaves out the call; notes it as one that could be left out.
bool left_out(const char* kind, const char* file, int line);

void async_copy(void* to, const void* from, int bytes, int from_bytes, const char* file, int line);
void async_commit();
void async_wait(int pending, const char* file, int line);

int launch(const Extent& extent, void (*body)(void*), void* argument, const Schedule& schedule, char* error,
           size_t error_capacity);

// Arguments as cuLaunchKernel takes them: a pointer to each parameter's value.
template <class... A>
struct Packed {
  void (*kernel)(A...);
  void** args;
};
template <class... A, size_t... I>
void call_packed(const Packed<A...>& packed, std::index_sequence<I...>) {
  packed.kernel(*static_cast<std::remove_reference_t<A>*>(packed.args[I])...);
}
template <class... A>
int launch_packed(void (*kernel)(A...), const Extent& extent, void** args, const Schedule& schedule, char* error,
                  size_t error_capacity) {
  Packed<A...> packed{kernel, args};
  auto body = [](void* p) { call_packed(*static_cast<Packed<A...>*>(p), std::index_sequence_for<A...>{}); };
  return launch(extent, body, &packed, schedule, error, error_capacity);
}

using Entry = int (*)(const Extent* extent, void** args, const Schedule* schedule, char* error, size_t error_capacity);
// An entry of the kernel table; KERNEL_EXPORT makes one, before main.
struct Export {
  Export(const char* name, Entry entry) : name(name), entry(entry), next(first) { first = this; }
  const char* name;
  Entry entry;
  Export* next;
  static constinit Export* first;
};

}  // namespace emu
