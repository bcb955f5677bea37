#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMU_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
}
#endif

#ifndef EMU_UCONTEXT
// Saves the registers that a call preserves (System V AMD64 ABI) and the stack pointer, and takes over the other's.
asm(R"(.text
.globl emu_switch_stack
.type emu_switch_stack,@function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size emu_switch_stack,.-emu_switch_stack
)");
extern "C" void emu_switch_stack(void** save, void* to);
#endif

namespace emu {

unsigned char* new_stack() {
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  mprotect(memory, page, PROT_NONE);
  return static_cast<unsigned char*>(memory) + page;
}

void prepare(Fiber& fiber, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  // An abandoned fiber leaves the red zones of its frames behind.
  __asan_unpoison_memory_region(fiber.stack, STACK_BYTES);
#endif
#if defined(EMU_TSAN)
  if (!fiber.sanitizer) fiber.sanitizer = __tsan_create_fiber(0);
#endif
#ifdef EMU_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = STACK_BYTES;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  // As if `entry` had been called: a null return address on top, 16-byte alignment before it.
  // Stacks lie at multiples of a page: shifted against each other, their tops do not compete for one cache set.
  const size_t shift = reinterpret_cast<uintptr_t>(fiber.stack) / STACK_BYTES % 32 * 128;
  void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES - shift);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  top -= 6;
  memset(top, 0, 6 * sizeof(void*));
  fiber.stack_pointer = top;
#endif
}

void switch_fiber(Fiber& from, Fiber& to, bool last) {
  (void)last;
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = to.stack;
  size_t size = STACK_BYTES;
  if (!to.stack) {
    pthread_attr_t attributes;
    void* address;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &address, &size);
    pthread_attr_destroy(&attributes);
    bottom = address;
  }
  __sanitizer_start_switch_fiber(last ? nullptr : &from.sanitizer, bottom, size);
#endif
#if defined(EMU_TSAN)
  if (!from.stack) from.sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.sanitizer, 1 /* no happens-before: only barriers order the threads */);
#endif
#ifdef EMU_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  emu_switch_stack(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

void entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace emu
