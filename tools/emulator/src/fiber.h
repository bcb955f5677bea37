// Execution contexts that switch only when told to: a block's threads. Own switch on x86-64 (some 15 ns), ucontext elsewhere.
#pragma once
#include <cstddef>
#if !defined(__x86_64__) || defined(EMU_UCONTEXT)
#include <ucontext.h>
#undef EMU_UCONTEXT
#define EMU_UCONTEXT 1
#endif

namespace emu {

constexpr size_t STACK_BYTES = 64 << 10;

struct Fiber {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;  // lowest address; null for the thread that the scheduler was called on
  void* sanitizer = nullptr;       // what the sanitizer knows about this fiber
#ifdef EMU_UCONTEXT
  ucontext_t context;
#endif
};

// A stack with a guard page below it; never freed, the scheduler keeps it for the next launch. Null if memory is short.
unsigned char* new_stack();
// Makes the next switch to `fiber` call `entry`, whatever it did before.
void prepare(Fiber& fiber, void (*entry)());
// Saves the caller in `from` and continues `to`. `last`: nobody switches back to `from` before it is prepared again.
void switch_fiber(Fiber& from, Fiber& to, bool last = false);
// The first thing that an entry calls.
void entered();

}  // namespace emu
