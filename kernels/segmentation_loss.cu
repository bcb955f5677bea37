// Cross entropy and entropy of bilinearly upsampled logits, fused (the equations: src/ops/segmentation_loss/mod.rs).
//
//   segmentation_count     numbers[block] = labels that are a class
//   segmentation_small     for the output pixels of a tile: sums of both losses, and the tile's part of the gradient of
//                          the
//   segmentation_large     logits around it. small: C <= 24, everything in registers; large: C <= 255
//   segmentation_finish    the scalars from the tiles' sums, in the tiles' order, and the weighted sum of all, to which
//                          `plus` is added where it is not null
//   segmentation_gradient  dx = seed * sum of the (at most four) parts of the tiles that touch a logit        all write
//                          (=)
//
// A *band* is the output rows between two rows of logits, a *cell* the output columns between two columns of logits; a
// tile is `cells` cells of one band. A thread owns a column: it interpolates its two rows of logits along x once, walks
// down the band, and keeps the gradients of its two rows of logits. The block then adds those up by cell, with the
// weights of the interpolation. No tensor of full resolution exists, and every sum has a fixed order.
// Layout: D domains of N images, each with weights of its own: x, dx [D,N,h,w,C] and labels u8 [D,N,H,W], each one
// tensor or (where the second pointer is not null) two; numbers [D,count_blocks]; parts [D,N,h,tiles,2,cells+1,C] (rows
// below and above); sums f64 [D,N,h,tiles,2]; cross entropies and entropies [D], a scalar each.
// Launch: D in y but for finish: one block of 256. count: `count_blocks` blocks of 256 in x; small, large: N * h *
// tiles blocks of 128; gradient: one thread an element of a domain's dx. Parts may be null: then no gradient is
// computed.
#include "bilinear.cuh"
#include "domains.cuh"

struct SegmentationProblem {
  Resize resize;
  int cells, tiles, count_blocks, domains;
  double cross_entropy[2], entropy[2];  // weights
};
static_assert(sizeof(SegmentationProblem) == 72, "as in src/ops/segmentation_loss/cuda.rs");

constexpr int COLUMNS = 128;
// Classes whose gradients pass through shared memory together.
constexpr int GROUP = 8;

__device__ __forceinline__ double pixels_of(const Resize& r) {
  return static_cast<double>(r.images) * r.out_height * r.out_width;
}
// Elements of one domain.
__device__ __forceinline__ size_t logits_of(const Resize& r) {
  return static_cast<size_t>(r.images) * r.height * r.width * r.channels;
}
__device__ __forceinline__ size_t labels_of(const Resize& r) {
  return static_cast<size_t>(r.images) * r.out_height * r.out_width;
}

// Which block it is, over both domains.
__device__ __forceinline__ size_t block_of_all() { return static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x; }

// A column's logits and gradients, for at most CLASSES classes; loops over small counts unroll into registers.
template <class A, int CLASSES>
struct Column {
  A low[CLASSES], delta[CLASSES], e[CLASSES], g_low[CLASSES], g_high[CLASSES];
};
#define EACH_CLASS _Pragma("unroll (CLASSES <= 32 ? CLASSES : 1)") for (int c = 0; c < CLASSES; c++) if (c < classes)

template <class T, int CLASSES>
__device__ __forceinline__ void segmentation_tile(const T* x, const T* other_x, const uint8_t* labels,
                                                  const uint8_t* other_labels, const uint32_t* numbers, Acc<T>* parts,
                                                  double* sums, const SegmentationProblem& p) {
  using A = Acc<T>;
  SHARED(A, rows, [2][GROUP][COLUMNS]);
  SHARED(A, fraction, [COLUMNS]);
  SHARED(int, boundary, [COLUMNS + 1]);
  const Resize& r = p.resize;
  int classes = r.channels, thread = threadIdx.x, domain = blockIdx.y;
  x = of_domain(x, other_x, domain, logits_of(r)), labels = of_domain(labels, other_labels, domain, labels_of(r));
  numbers += domain * p.count_blocks;
  int tile = blockIdx.x % p.tiles, band = blockIdx.x / p.tiles, row = band % r.height, image = band / r.height;
  int first_cell = tile * p.cells, cells = min(p.cells, r.width - first_cell);
  int top = first_at(row, r.height, r.out_height), bottom = first_at(row + 1, r.height, r.out_height);
  int left = first_at(first_cell, r.width, r.out_width), right = first_at(first_cell + cells, r.width, r.out_width);
  const T* x_low = x + static_cast<size_t>(band) * r.width * classes;
  const T* x_high = row + 1 < r.height ? x_low + static_cast<size_t>(r.width) * classes : x_low;

  int labelled = 0;
  for (int i = thread; i < p.count_blocks; i += COLUMNS) labelled += numbers[i];
  labelled = block_sum(labelled);
  A on_label = labelled ? A(p.cross_entropy[domain] / labelled) : A(0),
    on_entropy = A(p.entropy[domain] / pixels_of(r));
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
#pragma unroll(CLASSES <= 32 ? CLASSES / GROUP : 1)
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
        A* part = parts + ((block_of_all() * 2 + which) * (p.cells + 1) + j) * classes + group + c;
        *part = start == left ? sum : *part + sum;
      }
      __syncthreads();
    }
  }
  cross_entropy = block_sum(cross_entropy), entropy = block_sum(entropy);
  if (thread == 0) sums[2 * block_of_all()] = cross_entropy, sums[2 * block_of_all() + 1] = entropy;
}

template <class T>
__device__ __forceinline__ void gradient_element(const Acc<T>* parts, const Acc<T>* seed, T* dx, T* other_dx,
                                                 const SegmentationProblem& p, int index) {
  const Resize& r = p.resize;
  int domain = blockIdx.y;
  dx = of_domain(dx, other_dx, domain, logits_of(r));
  parts += static_cast<size_t>(domain) * r.images * r.height * p.tiles * 2 * (p.cells + 1) * r.channels;
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

extern "C" __global__ void segmentation_count(const uint8_t* __restrict__ labels,
                                              const uint8_t* __restrict__ other_labels, uint32_t* __restrict__ numbers,
                                              int classes, int count) {
  labels = of_domain(labels, other_labels, blockIdx.y, count);
  int number = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    number += labels[i] < classes;
  number = block_sum(number);
  if (threadIdx.x == 0) numbers[blockIdx.y * gridDim.x + blockIdx.x] = number;
}
KERNEL_EXPORT(segmentation_count)

template <class A>
__device__ __forceinline__ void finish(const double* sums, const uint32_t* numbers, const A* plus, A* total,
                                       A* const (&means)[2][2], const SegmentationProblem& p) {
  int blocks = p.resize.images * p.resize.height * p.tiles;
  double all = plus ? *plus : 0;
#pragma unroll
  for (int domain = 0; domain < 2; domain++, sums += 2 * blocks, numbers += p.count_blocks) {
    if (domain >= p.domains) break;
    double ce = 0, h = 0;
    int labelled = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) ce += sums[2 * i], h += sums[2 * i + 1];
    for (int i = threadIdx.x; i < p.count_blocks; i += blockDim.x) labelled += numbers[i];
    ce = block_sum(ce), h = block_sum(h) / pixels_of(p.resize), labelled = block_sum(labelled);
    ce = labelled ? ce / labelled : 0;
    all += p.cross_entropy[domain] * ce + p.entropy[domain] * h;
    if (threadIdx.x == 0) *means[domain][0] = A(ce), *means[domain][1] = A(h);
  }
  if (threadIdx.x == 0) *total = A(all);
}

#define FINISH(A, suffix)                                                                                              \
  extern "C" __global__ void segmentation_finish_##suffix(                                                             \
      const double* __restrict__ sums, const uint32_t* __restrict__ numbers, const A* __restrict__ plus,               \
      A* __restrict__ total, A* __restrict__ cross_entropy, A* __restrict__ entropy,                                   \
      A* __restrict__ other_cross_entropy, A* __restrict__ other_entropy, SegmentationProblem p) {                     \
    A* const means[2][2] = {{cross_entropy, entropy}, {other_cross_entropy, other_entropy}};                           \
    finish(sums, numbers, plus, total, means, p);                                                                      \
  }                                                                                                                    \
  KERNEL_EXPORT(segmentation_finish_##suffix)
FINISH(float, f32)
FINISH(double, f64)

#define TILES(name, T, suffix, classes)                                                                               \
  extern "C" __global__ void __launch_bounds__(COLUMNS) segmentation_##name##_##suffix(                               \
      const T* __restrict__ x, const T* __restrict__ other_x, const uint8_t* __restrict__ labels,                     \
      const uint8_t* __restrict__ other_labels, const uint32_t* __restrict__ numbers, Acc<T>* __restrict__ parts,     \
      double* __restrict__ sums, const GRID_CONSTANT SegmentationProblem p) {                                         \
    segmentation_tile<T, classes>(x, other_x, labels, other_labels, numbers, parts, sums, p);                         \
  }                                                                                                                   \
  KERNEL_EXPORT(segmentation_##name##_##suffix)
TILES(small, float, f32, 24)
TILES(small, bf16, bf16, 24)
TILES(large, float, f32, 256)
TILES(large, double, f64, 256)
TILES(large, bf16, bf16, 256)

#define GRADIENT(T, suffix)                                                                                            \
  extern "C" __global__ void segmentation_gradient_##suffix(                                                           \
      const Acc<T>* __restrict__ parts, const Acc<T>* __restrict__ seed, T* __restrict__ dx, T* __restrict__ other_dx, \
      SegmentationProblem p, int count) {                                                                              \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                 \
    if (index < count) gradient_element(parts, seed, dx, other_dx, p, index);                                          \
  }                                                                                                                    \
  KERNEL_EXPORT(segmentation_gradient_##suffix)
FOR_FLOATS(GRADIENT)
