// A model of shared memory's banks: 32 of 4 bytes. A warp's access takes a wavefront for each 128 bytes, and one more for
// every further row of a bank that is asked for at the same time. Accesses of 16 bytes come in four parts of 8 lanes, those
// of 8 bytes in two of 16.
//
// The lanes of a warp are fibers that reach an access one after the other: the n-th counted access of each lane is taken for
// one access of the warp, which holds where they do not diverge between.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

namespace emu {

// A place where kernels access shared memory, and what its accesses took over all launches so far.
struct BankSite {
  const char *kind, *file;
  int line;
  std::atomic<uint64_t> accesses{0};    // of whole warps
  std::atomic<uint64_t> wavefronts{0};  // that they took
  std::atomic<uint64_t> least{0};       // that they would take without conflicts
};

// What the lanes of one warp have asked for and not all lanes have reached yet.
class WarpBanks {
 public:
  void clear();
  void access(unsigned lane, unsigned lanes, const void* p, int bytes, BankSite* site);

 private:
  struct Access {
    BankSite* site;
    int bytes;
    unsigned arrived;
    uintptr_t at[32];
  };
  std::deque<Access> open_;
  size_t closed_ = 0, reached_[32] = {};
};

BankSite* bank_site(const char* kind, const char* file, int line);

}  // namespace emu
