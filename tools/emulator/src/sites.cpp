#include "sites.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "runtime.h"

namespace emu {
namespace {
std::mutex lock;
// Leaked on purpose: other threads may still launch while the process ends.
std::vector<Site>& all() {
  static auto* sites = new std::vector<Site>;
  return *sites;
}
std::deque<Skip>& skips() {
  static auto* skips = new std::deque<Skip>;
  return *skips;
}
}  // namespace

bool Site::is(const char* other_kind, const char* other_file, int other_line) const {
  return line == other_line && same_text(kind, other_kind) && same_text(file, other_file);
}

void note_site(const char* kind, const char* file, int line) {
  // By address: the literals of one call never move, and a second address of an equal one only costs a look-up.
  static thread_local std::vector<Site> noted;
  static thread_local Site latest[256];  // by line
  Site& last = latest[line & 255];
  if (last.line == line && last.file == file && last.kind == kind) return;
  last = {kind, file, line};
  for (const Site& s : noted)
    if (s.line == line && s.file == file && s.kind == kind) return;
  noted.push_back({kind, file, line});
  std::lock_guard<std::mutex> guard(lock);
  for (const Site& s : all())
    if (s.is(kind, file, line)) return;
  all().push_back({kind, file, line});
}

Skip* skip(uint32_t number) {
  std::lock_guard<std::mutex> guard(lock);
  return number >= 1 && number <= skips().size() ? &skips()[number - 1] : nullptr;
}

constinit Export* Export::first = nullptr;

}  // namespace emu

// What the Rust side calls.
extern "C" emu::Entry emu_find(const char* name) {
  for (const emu::Export* e = emu::Export::first; e; e = e->next)
    if (strcmp(e->name, name) == 0) return e->entry;
  return nullptr;
}
// Name of the kernel at this place of the table; null past its end.
extern "C" const char* emu_kernel(size_t index) {
  const emu::Export* e = emu::Export::first;
  while (e && index--) e = e->next;
  return e ? e->name : nullptr;
}
// The site with this index; false past the last.
extern "C" bool emu_site(size_t index, const char** kind, const char** file, int* line) {
  std::lock_guard<std::mutex> guard(emu::lock);
  if (index >= emu::all().size()) return false;
  const emu::Site& site = emu::all()[index];
  *kind = site.kind, *file = site.file, *line = site.line;
  return true;
}
// A new number for Schedule::skipped_site; 0 if there is no such site.
extern "C" uint32_t emu_new_skip(size_t index) {
  std::lock_guard<std::mutex> guard(emu::lock);
  if (index >= emu::all().size()) return 0;
  emu::skips().emplace_back().site = emu::all()[index];
  return uint32_t(emu::skips().size());
}
extern "C" uint64_t emu_times_skipped(uint32_t number) {
  emu::Skip* skip = emu::skip(number);
  return skip ? skip->times.load() : 0;
}
