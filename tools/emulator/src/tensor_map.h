// Tensor maps as the emulator reads them, and the boxes that copies move through them.
#pragma once
#include <cstddef>
#include <cstdint>

// What the driver's opaque map is here; filled by the same Rust code that calls cuTensorMapEncode on a GPU.
struct alignas(8) CUtensorMap {
  uint64_t base;
  uint64_t stride[4];           // bytes, of dimensions 1..rank-1
  uint32_t extent[5];           // elements, fastest first
  uint16_t box[5];              // tiled: elements along each dimension; im2col: channels, pixels
  int16_t lower[2], upper[2];   // im2col: corners along x and y, as cuTensorMapEncodeIm2col takes them
  uint8_t step[5];              // element strides; 1 except im2col's x and y
  uint8_t rank, im2col;
  uint8_t swizzle;              // 0: none, 1: 128 bytes
  uint8_t element;              // bytes: 2 or 4
  uint8_t unused[41];
};
static_assert(sizeof(CUtensorMap) == 128, "as large as the driver's");

namespace emu {

// One copy. The map lies in it by value: kernels hold theirs on a stack that may be gone when a late copy is performed.
struct Box {
  CUtensorMap map;
  unsigned char* shared;
  int at[5];
  int right, down;  // im2col
  const char *kind, *file;
  int line;
};

size_t box_bytes(const CUtensorMap& map);
// Fails unless the map allows this copy and the box lies in shared memory as the hardware wants it.
void check_box(const Box& box, int rank, bool im2col);
// Between the tensor and shared memory that begins at `arena`.
void load_box(const Box& box, unsigned char* arena);
void store_box(const Box& box, const unsigned char* arena);

}  // namespace emu
