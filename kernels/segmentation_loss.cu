// Cross entropy and entropy of bilinearly upsampled logits, fused (the equations: src/ops/segmentation_loss/mod.rs).
//
//   segmentation_count     numbers[block] = labels that are a class
//   segmentation_small     for the output pixels of a tile: sums of both losses, and the tile's part of the gradient of the
//   segmentation_large     logits around it. small: C <= 24, everything in registers; large: C <= 255
//   segmentation_finish    the scalars from the tiles' sums, in the tiles' order
//   segmentation_gradient  dx = seed * sum of the (at most four) parts of the tiles that touch a logit        all write (=)
//
// A *band* is the output rows between two rows of logits, a *cell* the output columns between two columns of logits; a tile is
// `cells` cells of one band. A thread owns a column: it interpolates its two rows of logits along x once, walks down the
// band, and keeps the gradients of its two rows of logits. The block then adds those up by cell, with the weights of the
// interpolation. No tensor of full resolution exists, and every sum has a fixed order.
// Layout: x, dx [N,h,w,C]; labels u8 [N,H,W]; parts [N,h,tiles,2,cells+1,C] (rows below and above); sums f64 [N,h,tiles,2].
// Launch: count: `count_blocks` blocks of 256; small, large: N * h * tiles blocks of 128; finish: one block of 256;
// gradient: one thread an element of dx. Parts may be null: then no gradient is computed.
#include "bilinear.cuh"

struct SegmentationProblem {
  Resize resize;
  int cells, tiles, count_blocks, reserved;
  double cross_entropy, entropy;  // weights
};
static_assert(sizeof(SegmentationProblem) == 56, "as in src/ops/segmentation_loss/cuda.rs");

constexpr int COLUMNS = 128;
// Classes whose gradients pass through shared memory together.
constexpr int GROUP = 8;

__device__ __forceinline__ double pixels_of(const Resize& r) {
  return static_cast<double>(r.images) * r.out_height * r.out_width;
}

// A column's logits and gradients, for at most CLASSES classes; loops over small counts unroll into registers.
template <class A, int CLASSES>
struct Column {
  A low[CLASSES], delta[CLASSES], e[CLASSES], g_low[CLASSES], g_high[CLASSES];
};
#define EACH_CLASS _Pragma("unroll (CLASSES <= 32 ? CLASSES : 1)") for (int c = 0; c < CLASSES; c++) if (c < classes)

template <class T, int CLASSES>
__device__ __forceinline__ void segmentation_tile(const T* x, const uint8_t* labels, const uint32_t* numbers, Acc<T>* parts,
                                                  double* sums, const SegmentationProblem& p) {
  using A = Acc<T>;
  SHARED(A, rows, [2][GROUP][COLUMNS]);
  SHARED(A, fraction, [COLUMNS]);
  SHARED(int, boundary, [COLUMNS + 1]);
  const Resize& r = p.resize;
  int classes = r.channels, thread = threadIdx.x;
  int tile = blockIdx.x % p.tiles, band = blockIdx.x / p.tiles, row = band % r.height, image = band / r.height;
  int first_cell = tile * p.cells, cells = min(p.cells, r.width - first_cell);
  int top = first_at(row, r.height, r.out_height), bottom = first_at(row + 1, r.height, r.out_height);
  int left = first_at(first_cell, r.width, r.out_width), right = first_at(first_cell + cells, r.width, r.out_width);
  const T* x_low = x + static_cast<size_t>(band) * r.width * classes;
  const T* x_high = row + 1 < r.height ? x_low + static_cast<size_t>(r.width) * classes : x_low;
  parts = parts ? parts + static_cast<size_t>(blockIdx.x) * 2 * (p.cells + 1) * classes : parts;

  int labelled = 0;
  for (int i = thread; i < p.count_blocks; i += COLUMNS) labelled += numbers[i];
  labelled = block_sum(labelled);
  A on_label = labelled ? A(p.cross_entropy / labelled) : A(0), on_entropy = A(p.entropy / pixels_of(r));
  for (int i = thread; i <= cells; i += COLUMNS) boundary[i] = first_at(first_cell + i, r.width, r.out_width);

  double cross_entropy = 0, entropy = 0;
  // One turn, unless a single cell is wider than the block.
  for (int start = left; start == left || start < right; start += COLUMNS) {
    Column<A, CLASSES> column;
    Position<A> at{0, 0, 0};
    bool inside = start + thread < right;
    if (inside) at = position_of<A>(start + thread, r.width, r.out_width);
    EACH_CLASS {
      A a = to_acc(x_low[at.below * classes + c]), b = to_acc(x_low[at.above * classes + c]);
      A d = to_acc(x_high[at.below * classes + c]), e = to_acc(x_high[at.above * classes + c]);
      column.low[c] = lerp(a, b, at.t);
      column.delta[c] = lerp(d, e, at.t) - column.low[c];
      column.g_low[c] = 0, column.g_high[c] = 0;
    }
    const uint8_t* label_at = labels + static_cast<size_t>(image) * r.out_height * r.out_width + start + thread;
    for (int i = top; inside && i < bottom; i++) {
      A s = position_of<A>(i, r.height, r.out_height).t;
      int label = label_at[static_cast<size_t>(i) * r.out_width];
      A most = column.low[0] + s * column.delta[0], sum = 0, first = 0, chosen = 0;
      EACH_CLASS {
        A value = column.low[c] + s * column.delta[c];
        most = value > most ? value : most;
      }
      EACH_CLASS {
        A shifted = column.low[c] + s * column.delta[c] - most;
        column.e[c] = exp(shifted);
        sum += column.e[c], first += column.e[c] * shifted;
        chosen = label == c ? shifted : chosen;
      }
      A inverse = 1 / sum, mean = first * inverse, logarithm = log(sum);
      bool is_class = label < classes;
      cross_entropy += is_class ? logarithm - chosen : A(0);
      entropy += logarithm - mean;
      if (!parts) continue;
      A a = is_class ? on_label : A(0);
      EACH_CLASS {
        A shifted = column.low[c] + s * column.delta[c] - most;
        A g = column.e[c] * inverse * (a - on_entropy * (shifted - mean)) - (label == c ? a : A(0));
        column.g_low[c] += (1 - s) * g, column.g_high[c] += s * g;
      }
    }
    if (!parts) continue;

    fraction[thread] = at.t;
    int end = min(start + COLUMNS, right);
#pragma unroll (CLASSES <= 32 ? CLASSES / GROUP : 1)
    for (int group = 0; group < CLASSES; group += GROUP) {
      if (group >= classes) break;
#pragma unroll
      for (int c = 0; c < GROUP; c++) {
        bool used = group + c < classes;
        rows[0][c][thread] = used ? column.g_low[group + c] : A(0);
        rows[1][c][thread] = used ? column.g_high[group + c] : A(0);
      }
      __syncthreads();
      // Logit column j of the tile takes 1 - t of cell j and t of cell j - 1.
      for (int item = thread; item < 2 * GROUP * (cells + 1); item += COLUMNS) {
        int j = item % (cells + 1), c = item / (cells + 1) % GROUP, which = item / (cells + 1) / GROUP;
        if (group + c >= classes) continue;
        A sum = 0;
        for (int k = max(j ? boundary[j - 1] : start, start); k < min(boundary[j], end); k++) {
          sum += fraction[k - start] * rows[which][c][k - start];
        }
        for (int k = max(boundary[j], start); j < cells && k < min(boundary[j + 1], end); k++) {
          sum += (1 - fraction[k - start]) * rows[which][c][k - start];
        }
        A* part = parts + (which * (p.cells + 1) + j) * classes + group + c;
        *part = start == left ? sum : *part + sum;
      }
      __syncthreads();
    }
  }
  cross_entropy = block_sum(cross_entropy), entropy = block_sum(entropy);
  if (thread == 0) sums[2 * blockIdx.x] = cross_entropy, sums[2 * blockIdx.x + 1] = entropy;
}

template <class T>
__device__ __forceinline__ void gradient_element(const Acc<T>* parts, const Acc<T>* seed, T* dx,
                                                 const SegmentationProblem& p, int index) {
  const Resize& r = p.resize;
  int c = index % r.channels, pixel = index / r.channels, column = pixel % r.width, line = pixel / r.width;
  int tile = column / p.cells, j = column % p.cells;
  // The part of a band for this logit: of its own tile, and for a tile's first column of the tile before.
  auto part = [&](int band, int which) {
    size_t block = static_cast<size_t>(band) * p.tiles + tile, size = (p.cells + 1) * r.channels;
    Acc<T> sum = parts[(block * 2 + which) * size + j * r.channels + c];
    if (j == 0 && tile > 0) sum += parts[((block - 1) * 2 + which) * size + p.cells * r.channels + c];
    return sum;
  };
  Acc<T> sum = part(line, 0);
  if (line % r.height > 0) sum += part(line - 1, 1);
  dx[index] = from_acc<T>(sum * *seed);
}

extern "C" __global__ void segmentation_count(const uint8_t* __restrict__ labels, uint32_t* __restrict__ numbers, int classes,
                                              int count) {
  int number = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) number += labels[i] < classes;
  number = block_sum(number);
  if (threadIdx.x == 0) numbers[blockIdx.x] = number;
}
KERNEL_EXPORT(segmentation_count)

#define FINISH(A, suffix)                                                                                              \
  extern "C" __global__ void segmentation_finish_##suffix(const double* __restrict__ sums,                             \
                                                          const uint32_t* __restrict__ numbers, A* __restrict__ total, \
                                                          A* __restrict__ cross_entropy, A* __restrict__ entropy,      \
                                                          SegmentationProblem p) {                                     \
    double ce = 0, h = 0;                                                                                              \
    int labelled = 0, blocks = p.resize.images * p.resize.height * p.tiles;                                            \
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) ce += sums[2 * i], h += sums[2 * i + 1];                    \
    for (int i = threadIdx.x; i < p.count_blocks; i += blockDim.x) labelled += numbers[i];                             \
    ce = block_sum(ce), h = block_sum(h) / pixels_of(p.resize), labelled = block_sum(labelled);                        \
    ce = labelled ? ce / labelled : 0;                                                                                 \
    if (threadIdx.x) return;                                                                                           \
    *cross_entropy = A(ce), *entropy = A(h), *total = A(p.cross_entropy * ce + p.entropy * h);                         \
  }                                                                                                                    \
  KERNEL_EXPORT(segmentation_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)

#define TILES(name, T, suffix, classes)                                                                               \
  extern "C" __global__ void __launch_bounds__(COLUMNS) segmentation_##name##_##suffix(                               \
      const T* __restrict__ x, const uint8_t* __restrict__ labels, const uint32_t* __restrict__ numbers,              \
      Acc<T>* __restrict__ parts, double* __restrict__ sums, SegmentationProblem p) {                                 \
    segmentation_tile<T, classes>(x, labels, numbers, parts, sums, p);                                                \
  }                                                                                                                   \
  KERNEL_EXPORT(segmentation_##name##_##suffix)
TILES(small, float, f32, 24)
TILES(small, bf16, bf16, 24)
TILES(large, float, f32, 256)
TILES(large, double, f64, 256)
TILES(large, bf16, bf16, 256)

#define GRADIENT(T, suffix)                                                                                           \
  extern "C" __global__ void segmentation_gradient_##suffix(const Acc<T>* __restrict__ parts,                         \
                                                            const Acc<T>* __restrict__ seed, T* __restrict__ dx,      \
                                                            SegmentationProblem p, int count) {                       \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (index < count) gradient_element(parts, seed, dx, p, index);                                                   \
  }                                                                                                                   \
  KERNEL_EXPORT(segmentation_gradient_##suffix)
FOR_FLOATS(GRADIENT)
