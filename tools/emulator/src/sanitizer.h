// What the sanitizer builds must be told; nothing in the ordinary build.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define MEMORY_POISON(p, bytes) __asan_poison_memory_region(p, bytes)
#define MEMORY_UNPOISON(p, bytes) __asan_unpoison_memory_region(p, bytes)
// Between shared variables: poisoned. None in the ordinary build, so that what fits here fits on the device.
constexpr size_t SHARED_GAP = 32;
#else
constexpr size_t SHARED_GAP = 0;
#define MEMORY_POISON(p, bytes) ((void)0)
#define MEMORY_UNPOISON(p, bytes) ((void)0)
#endif

#if defined(EMU_TSAN)
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define SYNC_ACQUIRE(p) __tsan_acquire(p)
#define SYNC_RELEASE(p) __tsan_release(p)
#else
#define SYNC_ACQUIRE(p) ((void)0)
#define SYNC_RELEASE(p) ((void)0)
#endif
