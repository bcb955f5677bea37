#include "tensor_map.h"

#include <algorithm>
#include <cstring>

#include "block.h"

namespace emu {
namespace {

// Where byte `i` of the box lies in shared memory; runs of 16 bytes stay together.
size_t shared_offset(const Box& box, const unsigned char* arena, size_t i) {
  size_t offset = size_t(box.shared - arena) + i;
  return box.map.swizzle ? offset ^ (offset >> 7 & 7) << 4 : offset;
}

// The element's address in the tensor; null outside.
unsigned char* element(const CUtensorMap& map, const int64_t* at) {
  uint64_t address = map.base;
  for (int d = 0; d < map.rank; d++) {
    if (at[d] < 0 || at[d] >= int64_t(map.extent[d])) return nullptr;
    address += uint64_t(at[d]) * (d ? map.stride[d - 1] : map.element);
  }
  return reinterpret_cast<unsigned char*>(address);
}

// Calls f(byte of the box, coordinates of its first element) for every row of a tiled box.
template <class F>
void tiled_rows(const Box& box, F f) {
  const CUtensorMap& map = box.map;
  const size_t row = size_t(map.box[0]) * map.element;
  const int rows = map.rank > 1 ? map.box[1] : 1, planes = map.rank > 2 ? map.box[2] : 1;
  for (int plane = 0; plane < planes; plane++)
    for (int r = 0; r < rows; r++) {
      const int64_t at[5] = {box.at[0], int64_t(box.at[1]) + r, int64_t(box.at[2]) + plane};
      f((size_t(plane) * rows + r) * row, at);
    }
}

// The same for an im2col box: a row is one pixel's channels.
template <class F>
void im2col_rows(const Box& box, F f) {
  const CUtensorMap& map = box.map;
  const size_t row = size_t(map.box[0]) * map.element;
  int64_t x = box.at[1], y = box.at[2], image = box.at[3];
  for (int pixel = 0; pixel < map.box[1]; pixel++) {
    const int64_t at[5] = {box.at[0], x + box.right, y + box.down, image};
    f(pixel * row, at);
    x += map.step[1];
    if (x <= int64_t(map.extent[1]) - 1 + map.upper[0]) continue;
    x = map.lower[0];
    y += map.step[2];
    if (y <= int64_t(map.extent[2]) - 1 + map.upper[1]) continue;
    y = map.lower[1];
    image++;
  }
}

}  // namespace

size_t box_bytes(const CUtensorMap& map) {
  size_t bytes = map.element;
  for (int d = 0; d < (map.im2col ? 2 : map.rank); d++) bytes *= map.box[d];
  return bytes;
}

void check_box(const Box& box, int rank, bool im2col) {
  const CUtensorMap& map = box.map;
  auto refuse = [&](const char* why) {
    fail("%s: thread %u: %s at %s:%d", box.kind, current->linear, why, box.file, box.line);
  };
  if (map.im2col > 1 || map.swizzle > 1 || (map.element != 2 && map.element != 4) || map.rank < 1 || map.rank > 5)
    refuse("this is no tensor map");
  if (im2col && !map.im2col) refuse("the map is tiled, not im2col");
  if (!im2col && map.im2col) refuse("the map is im2col, not tiled");
  if (map.rank != rank) refuse("the map's rank is another");
  if (map.base % 16) refuse("the tensor is not aligned to 16 bytes");
  for (int d = 1; d < rank; d++)
    if (map.stride[d - 1] % 16) refuse("a stride of the tensor is not a multiple of 16 bytes");
  const size_t row = size_t(map.box[0]) * map.element, bytes = box_bytes(map);
  if (!bytes) refuse("the box is empty");
  if (row % 16) refuse("rows of the box are not multiples of 16 bytes");
  if (map.swizzle && row != 128) refuse("rows of a swizzled box do not have 128 bytes");
  if (im2col) {
    if (!map.step[1] || !map.step[2]) refuse("a step of the map is zero");
    if (box.right < 0 || box.right > 255 || box.down < 0 || box.down > 255) refuse("an offset is not in 0..=255");
    for (int d = 0; d < 2; d++)
      if (box.at[1 + d] < map.lower[d] || box.at[1 + d] > int64_t(map.extent[1 + d]) - 1 + map.upper[d])
        refuse("the first pixel lies outside the map's bounding box");
  }
  // An H200 stops with an illegal instruction at both; loads may begin before the tensor.
  if (!im2col && box.at[0] * int64_t(map.element) % 16) refuse("the first column is not a multiple of 16 bytes");
  if (!strncmp(box.kind, "tma_store", 9))
    for (int d = 0; d < rank; d++)
      if (box.at[d] < 0) refuse("a store begins before the tensor");
  check_shared(box.shared, map.swizzle ? 1024 : 128, box.kind, box.file, box.line);
  if (size_t(box.shared - running->arena) + bytes > running->shared_end()) refuse("the box ends outside shared memory");
}

void load_box(const Box& box, unsigned char* arena) {
  const CUtensorMap& map = box.map;
  auto row = [&](size_t first, const int64_t* start) {
    int64_t at[5];
    std::copy(start, start + 5, at);
    for (int e = 0; e < map.box[0]; e++, at[0]++) {
      unsigned char* to = arena + shared_offset(box, arena, first + size_t(e) * map.element);
      if (const unsigned char* from = element(map, at)) memcpy(to, from, map.element);
      else memset(to, 0, map.element);
    }
  };
  if (map.im2col) im2col_rows(box, row);
  else tiled_rows(box, row);
}

void store_box(const Box& box, const unsigned char* arena) {
  tiled_rows(box, [&](size_t first, const int64_t* start) {
    int64_t at[5];
    std::copy(start, start + 5, at);
    for (int e = 0; e < box.map.box[0]; e++, at[0]++)
      if (unsigned char* to = element(box.map, at))
        memcpy(to, arena + shared_offset(box, arena, first + size_t(e) * box.map.element), box.map.element);
  });
}

}  // namespace emu
