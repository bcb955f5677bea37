// Run by asan.sh: `asan sound` must succeed, the others must be stopped by AddressSanitizer.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "runtime.h"
#include "tensor_map.h"

extern "C" emu::Entry emu_find(const char* name);

static bool run(const std::string& kernel, dim3 grid, dim3 block, uint32_t shared_bytes, std::vector<void*> args,
                uint32_t cluster = 1) {
  const emu::Extent extent{{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, cluster};
  for (auto order : {emu::FORWARD, emu::REVERSE, emu::RANDOM, emu::AHEAD}) {
    char error[512] = "";
    emu::Schedule schedule{order, order != emu::REVERSE, 7, 2, 0};
    emu::Entry entry = emu_find(kernel.c_str());
    if (!entry || entry(&extent, args.data(), &schedule, error, sizeof error)) {
      fprintf(stderr, "%s: %s\n", kernel.c_str(), entry ? error : "no such kernel");
      return false;
    }
  }
  return true;
}

static bool overrun(const std::string& kernel, int at) {
  std::vector<float> out(64);
  float* p = out.data();
  return run("test_overrun_" + kernel, 1, 64, 256, {&p, &at});
}

// A Hopper product of 64 x 64 and a depth of 256, all ones; `rows` of the first factor are promised to its map.
static bool hopper(uint32_t rows) {
  const uint32_t k = 256;
  std::vector<uint16_t> a(64 * k, 0x3f80), b(64 * k, 0x3f80), c(64 * 64);
  auto map = [](std::vector<uint16_t>& data, uint32_t columns, uint32_t rows, uint8_t rank) {
    CUtensorMap map{};
    map.base = reinterpret_cast<uint64_t>(data.data());
    map.stride[0] = columns * 2, map.stride[1] = columns * rows * 2;
    map.extent[0] = columns, map.extent[1] = rows, map.extent[2] = 1;
    map.box[0] = map.box[1] = 64, map.box[2] = 1;
    map.rank = rank, map.swizzle = 1, map.element = 2;
    return map;
  };
  CUtensorMap maps[] = {map(a, k, rows, 2), map(b, k, 64, 3), map(c, 64, 64, 3)};
  int columns = 1, depths = k / 64;
  if (!run("test_hopper_gemm_64", dim3(1, (rows + 63) / 64), 256, 7 * 8192 + 48,
           {&maps[0], &maps[1], &maps[2], &columns, &depths}))
    return false;
  for (uint16_t x : c)
    if (x != 0x4380) return false;  // 256
  return true;
}

// Two clusters of two blocks, three turns of ones: each thread reads some 85 of 8192 for its share.
static bool cluster() {
  const uint32_t turns = 3, blocks = 4, readers = 96;
  std::vector<uint16_t> data(turns * blocks * 4096, 0x3f80);
  std::vector<float> out(turns * blocks * readers);
  CUtensorMap map{};
  map.base = reinterpret_cast<uint64_t>(data.data());
  map.stride[0] = 128;
  map.extent[0] = 64, map.extent[1] = turns * blocks * 64;
  map.box[0] = map.box[1] = 64;
  map.rank = 2, map.element = 2;
  float* to = out.data();
  int count = turns;
  if (!run("test_cluster_share", blocks, 128, 2 * 4 * 8192 + 4 * 8, {&map, &to, &count}, 2)) return false;
  float sum = 0;
  for (float x : out) sum += x;
  return sum == turns * blocks * 8192;
}

static bool sound() {
  int m = 64, n = 32, k = 64;
  std::vector<float> x(m * k, 1.0f), w(k * n, 1.0f), c(m * n);
  std::vector<uint16_t> xh(m * k, 0x3f80), wh(n * k, 0x3f80);
  float *px = x.data(), *pw = w.data(), *pc = c.data();
  uint16_t *pxh = xh.data(), *pwh = wh.data();
  bool ok = run("test_gemm_f32", dim3(n / 16, m / 16), dim3(16, 16), 0, {&px, &pw, &pc, &m, &n, &k});
  for (float v : c) ok = ok && v == 64;
  ok = ok && run("test_gemm_mma", dim3(n / 32, m / 32), 128, 4 * 32 * 40 * 2, {&pxh, &pwh, &pc, &m, &n, &k});
  for (float v : c) ok = ok && v == 64;
  // An error abandons stacks and poisoned memory: both must serve again.
  char error[512] = "";
  const emu::Extent extent{{2, 1, 1}, {64, 1, 1}, 0, 1};
  emu::Schedule schedule{emu::FORWARD, 1, 1, 1, 0};
  int* trap_out = reinterpret_cast<int*>(pc);
  void* args[] = {&trap_out};
  ok = ok && emu_find("test_trap")(&extent, args, &schedule, error, sizeof error) == 1;
  return ok && overrun("buffer", 0) && overrun("dynamic", 0) && overrun("variable", 0) &&
         hopper(64) && cluster();
}

int main(int, char** argv) {
  const std::string what = argv[1];
  if (what == "sound") return sound() ? 0 : 1;
  if (what == "map") return hopper(65) ? 0 : 1;
  return overrun(what, what == "variable" ? 4 : 1) ? 0 : 1;
}
