// Nearest-neighbour resizing of labels, source index floor(dst * in / out) (docs/method.md, "Prototypes").
//   resize_labels   out[n][y][x] = in[n][floor(y * rows / height)][floor(x * columns / width)]     writes (=)
// Layout: in u8 [N, rows, columns], out u8 [N, height, width].
// Launch: a thread an element of out, blocks of 256 in x.
#include "dev.cuh"

extern "C" __global__ void resize_labels(const uint8_t* __restrict__ in, uint8_t* __restrict__ out, int rows,
                                         int columns, int height, int width, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int x = i % width, y = i / width % height, n = i / width / height;
  int row = static_cast<int>(static_cast<long long>(y) * rows / height);
  int column = static_cast<int>(static_cast<long long>(x) * columns / width);
  out[i] = in[(static_cast<size_t>(n) * rows + row) * columns + column];
}
KERNEL_EXPORT(resize_labels)
