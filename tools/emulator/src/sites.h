// The places where kernels synchronise, numbered in the order in which launches first reach them.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>

namespace emu {

// Literals, so mostly one address.
inline bool same_text(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

// Remembers a site; cheap when this thread noted it before. Safe from any thread.
void note_site(const char* kind, const char* file, int line);

struct Site {
  const char *kind, *file;
  int line;
  bool is(const char* other_kind, const char* other_file, int other_line) const;
};
// A site that launches leave out, and how often they did.
struct Skip {
  Site site;
  std::atomic<uint64_t> times{0};
};
// The skip with this number, counted from 1; null if there is none. It stays where it is.
Skip* skip(uint32_t number);

}  // namespace emu
