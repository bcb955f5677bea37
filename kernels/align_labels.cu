// Labels at the places where align_corners upsampling puts the cells of a feature map: src/ops/align_labels.
//   align_labels   out[n][y][x] = in[n][place of y][place of x], 255 outside the image     writes (=)
// Layout: in u8 [N, rows, columns], out u8 [N, height * each, width * each].
// Launch: a thread an element of out, blocks of 256 in x.
#include "label_sampling.cuh"

struct LabelGrid {
  int rows, columns, height, width, each, count;
};
static_assert(sizeof(LabelGrid) == 24, "as in src/ops/align_labels/cuda.rs");

extern "C" __global__ void align_labels(const uint8_t* __restrict__ in, uint8_t* __restrict__ out, LabelGrid g) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= g.count) return;
  int across = g.width * g.each, down = g.height * g.each, x = i % across, y = i / across % down, n = i / across / down;
  int row = place_of(y, g.height, g.each, g.rows), column = place_of(x, g.width, g.each, g.columns);
  bool inside = row >= 0 && row < g.rows && column >= 0 && column < g.columns;
  out[i] = inside ? in[(static_cast<size_t>(n) * g.rows + row) * g.columns + column] : 255;
}
KERNEL_EXPORT(align_labels)
