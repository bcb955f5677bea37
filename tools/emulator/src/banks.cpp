#include "banks.h"

#include <algorithm>
#include <mutex>

#include "sites.h"

namespace emu {

namespace {
std::mutex lock;
// Leaked on purpose, as the table of sites.cpp; entries never move.
std::deque<BankSite>& all() {
  static auto* sites = new std::deque<BankSite>;
  return *sites;
}
}  // namespace

BankSite* bank_site(const char* kind, const char* file, int line) {
  static thread_local std::vector<BankSite*> known;
  for (BankSite* site : known)
    if (site->line == line && site->file == file && site->kind == kind) return site;
  std::lock_guard<std::mutex> guard(lock);
  for (BankSite& site : all())
    if (site.line == line && same_text(site.kind, kind) && same_text(site.file, file)) {
      known.push_back(&site);
      return &site;
    }
  BankSite& site = all().emplace_back();
  site.kind = kind, site.file = file, site.line = line;
  known.push_back(&site);
  return &site;
}

void WarpBanks::clear() {
  open_.clear();
  closed_ = 0;
  std::fill(reached_, reached_ + 32, 0);
}

void WarpBanks::access(unsigned lane, unsigned lanes, const void* p, int bytes, BankSite* site) {
  const size_t index = reached_[lane]++ - closed_;
  if (index == open_.size()) open_.push_back({site, bytes, 0, {}});
  Access& access = open_[index];
  access.at[lane] = reinterpret_cast<uintptr_t>(p);
  if (++access.arrived < lanes) return;
  // Lanes arrive in order of their accesses, so the oldest one is full first.
  unsigned together = 128 / bytes, wavefronts = 0, parts = 0;
  for (unsigned first = 0; first < lanes; first += together, parts++) {
    std::vector<uintptr_t> rows[32];  // by bank
    size_t most = 1;
    for (unsigned l = first; l < std::min(first + together, lanes); l++)
      for (uintptr_t word = access.at[l] / 4; word < (access.at[l] + bytes) / 4; word++) {
        auto& asked = rows[word % 32];
        if (std::find(asked.begin(), asked.end(), word) == asked.end()) asked.push_back(word);
        most = std::max(most, asked.size());
      }
    wavefronts += most;
  }
  access.site->accesses++, access.site->wavefronts += wavefronts, access.site->least += parts;
  open_.pop_front();
  closed_++;
}

}  // namespace emu

// What the Rust side calls.
extern "C" void emu_forget_banks() {
  std::lock_guard<std::mutex> guard(emu::lock);
  for (emu::BankSite& site : emu::all()) site.accesses = 0, site.wavefronts = 0, site.least = 0;
}
// What the site with this index took; false past the last.
extern "C" bool emu_bank_site(size_t index, const char** kind, const char** file, int* line, uint64_t* counts) {
  std::lock_guard<std::mutex> guard(emu::lock);
  if (index >= emu::all().size()) return false;
  const emu::BankSite& site = emu::all()[index];
  *kind = site.kind, *file = site.file, *line = site.line;
  counts[0] = site.accesses, counts[1] = site.wavefronts, counts[2] = site.least;
  return true;
}
