// The contrastive loss (docs/method.md, "The two contrastive terms"; the equations in n(p,c):
// src/ops/contrastive_loss/mod.rs), in one direction, or in both: the pixels of each domain against the prototypes of
// the other.
//
//   contrastive_tiles    for a tile of 64 feature pixels: u, s, then z = s / tau, n[p][c] from the labels of the
//                        pixel's cell, g = m softmax(z) - w n, a = sum_c g s; the tile's sums of loss and m
//                        writes (=)
//   contrastive_finish   loss = mean_n sum_tiles loss / M_n of each direction and their sum by weight,
//                        scale[n] = weight / (tau M_n N)                                                    writes (=)
//
// Where M_n = 0: no contribution, scale 0. The counts n live in shared memory; s stands in g's memory until g replaces
// it. Neither depends on the labels' resolution.
// Layout: D directions, by the domain of their pixels: features [D, N, cells, d] and labels u8 [D, N, rows, columns],
// each one tensor or (where the second pointer is not null) two; dynamic labels u8 [N, cells], of the second domain, or
// null; vectors [D, N, C, d], counts u32 [D, N, C] and inverse norms v [D, N, C], by the domain that they come from;
// overlap u8 [N, C]; u, a [D, N, cells]; g [D, N, cells, C]; tile sums [D, N, tiles]; scale [D, N]. Where a label
// counts: kernels/include/label_sampling.cuh.
// Launch: contrastive_tiles: 128 threads, N * tiles blocks in x, D in y; contrastive_finish: one block of 256 threads.
#include "cosine.cuh"
#include "domains.cuh"
#include "label_sampling.cuh"

struct LossProblem {
  int directions, pairs, depth, classes;
  LabelSampling sampling;
  float temperature;
  double temperature_f64;
  double weights[2];  // of the directions
};
static_assert(sizeof(LossProblem) == 64, "as in src/ops/contrastive_loss/cuda.rs");

__device__ __forceinline__ float temperature_of(const LossProblem& p, float) { return p.temperature; }
__device__ __forceinline__ double temperature_of(const LossProblem& p, double) { return p.temperature_f64; }
__device__ __forceinline__ int cells_of(const LossProblem& p) { return p.sampling.height * p.sampling.width; }
__device__ __forceinline__ int tiles_of(const LossProblem& p) {
  return (cells_of(p) + COSINE_CELLS - 1) / COSINE_CELLS;
}

// Labels that a lane reads before it counts them: the reads wait for memory together.
constexpr int HELD_LABELS = 8;

template <class T>
__device__ __forceinline__ void loss_tile(const T* features, const T* other_features, const Acc<T>* vectors,
                                          const Acc<T>* vector_inverse, const uint32_t* counts, const uint8_t* labels,
                                          const uint8_t* other_labels, const uint8_t* dynamic, const uint8_t* overlap,
                                          Acc<T>* inverse, Acc<T>* g, Acc<T>* along, Acc<T>* tile_loss,
                                          uint32_t* tile_mass, const LossProblem& problem) {
  using A = Acc<T>;
  SHARED(A, rows, [HELD_VALUES]);
  SHARED(uint32_t, counted, [HELD_VALUES]);
  const LabelSampling& sampling = problem.sampling;
  int pairs = problem.pairs, depth = problem.depth, classes = problem.classes, cells = cells_of(problem);
  int tiles = tiles_of(problem), pair = blockIdx.x / tiles, domain = blockIdx.y;
  int first = blockIdx.x % tiles * COSINE_CELLS, last = min(first + COSINE_CELLS, cells);
  size_t of_features = static_cast<size_t>(cells) * depth;
  size_t of_labels = static_cast<size_t>(sampling.rows) * sampling.columns;
  features = of_domain(features, other_features, domain, pairs * of_features) + pair * of_features;
  labels = of_domain(labels, other_labels, domain, pairs * of_labels) + pair * of_labels;
  dynamic = dynamic && domain == 1 ? dynamic + pair * cells : nullptr;
  // Which of all tiles, pixels' images and prototypes' rows.
  int tile = domain * gridDim.x + blockIdx.x, image = domain * pairs + pair;
  int from = ((problem.directions - 1 - domain) * pairs + pair) * classes;
  inverse += image * cells, along += image * cells, g += static_cast<size_t>(image) * cells * classes;
  vectors += static_cast<size_t>(from) * depth, vector_inverse += from, counts += from, overlap += pair * classes;

  inverse_norms_of_tile(features, inverse, first, last, depth);
  __syncthreads();
  similarity_tile(
      features, vectors, inverse, vector_inverse, [&](int c) { return counts[c] > 0; }, g, first, cells, depth,
      classes);
  A over_tau = A(1) / temperature_of(problem, A(0)), loss = 0;
  uint32_t mass = 0;
  CellGroups groups(classes);
  int lane = groups.lane(), lanes = groups.lanes;
  for (int held = first; held < last; held += groups.cells) {
    int count = min(groups.cells, last - held);
    A* similarities = g + static_cast<size_t>(held) * classes;
    // The similarities were written by other threads.
    __syncthreads();
    for (int i = threadIdx.x; i < count * classes; i += COSINE_THREADS) {
      int at = i / classes * groups.stride + i % classes;
      rows[at] = similarities[i], counted[at] = 0;
    }
    __syncthreads();
    // Groups without a pixel follow the first one and count nothing.
    bool exists = groups.cell() < count;
    int own = exists ? groups.cell() : 0, p = held + own;
    A* row = rows + own * groups.stride;
    uint32_t* n = counted + own * groups.stride;
    LabelsOfCell cell(sampling, p);
    for (int q0 = lane; exists && q0 < cell.count; q0 += lanes * HELD_LABELS) {
      int label[HELD_LABELS];
#pragma unroll
      for (int i = 0; i < HELD_LABELS; i++) {
        int q = q0 + i * lanes;
        label[i] = q < cell.count ? cell.label(labels, sampling, q) : classes;
      }
#pragma unroll
      for (int i = 0; i < HELD_LABELS; i++) {
        if (label[i] == NO_LABEL && dynamic) label[i] = dynamic[p];
        if (label[i] < classes) atomicAdd(&n[label[i]], 1u);
      }
    }
    // A group's lanes are of one warp.
    __syncwarp();
    A largest = A(-INFINITY), sum = 0, radial = 0;
    uint32_t m = 0;
    for (int c = lane; c < classes; c += lanes) {
      largest = Max()(largest, row[c]);
      m += overlap[c] > 0 ? n[c] : 0;
    }
    largest = reduce_run(largest, Max(), lanes), m = reduce_run(m, Sum(), lanes);
    for (int c = lane; c < classes; c += lanes) sum += exp((row[c] - largest) * over_tau);
    sum = reduce_run(sum, Sum(), lanes);
    A log_sum = log(sum), share = A(m) / sum;
    for (int c = lane; exists && c < classes; c += lanes) {
      A s = row[c], term = (s - largest) * over_tau, of_class = A(overlap[c] > 0 ? n[c] : 0);
      if (of_class > 0) loss += of_class * (log_sum - term);
      A slope = m > 0 && counts[c] > 0 ? exp(term) * share - of_class : A(0);
      if (m > 0) radial += slope * s;
      similarities[own * classes + c] = slope;
    }
    radial = reduce_run(radial, Sum(), lanes);
    if (exists && lane == 0) along[p] = radial, mass += m;
  }
  loss = block_sum(loss), mass = block_sum(mass);
  if (threadIdx.x == 0) tile_loss[tile] = loss, tile_mass[tile] = mass;
}

constexpr int FINISH_WARPS = 8;

template <class A>
__device__ __forceinline__ void loss_finish(const A* tile_loss, const uint32_t* tile_mass, A* total, A* of_first,
                                            A* of_second, A* scale, const LossProblem& problem) {
  SHARED(double, of_warp, [2][FINISH_WARPS]);
  int tiles = tiles_of(problem), pairs = problem.pairs, images = problem.directions * pairs;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  double first = 0, second = 0;
  for (int image = warp; image < images; image += FINISH_WARPS) {
    double sum = 0, mass = 0;
#pragma unroll 4
    for (int tile = lane; tile < tiles; tile += 32) {
      sum += tile_loss[image * tiles + tile];
      mass += tile_mass[image * tiles + tile];
    }
    sum = warp_sum(sum), mass = warp_sum(mass);
    double mean = mass > 0 ? sum / mass : 0, weight = image < pairs ? problem.weights[0] : problem.weights[1];
    first += image < pairs ? mean : 0, second += image < pairs ? 0 : mean;
    if (lane == 0) scale[image] = mass > 0 ? A(weight / (temperature_of(problem, A(0)) * mass * pairs)) : A(0);
  }
  if (lane == 0) of_warp[0][warp] = first, of_warp[1][warp] = second;
  __syncthreads();
  if (threadIdx.x > 0) return;
  first = second = 0;
  for (int i = 0; i < FINISH_WARPS; i++) first += of_warp[0][i], second += of_warp[1][i];
  first /= pairs, second /= pairs;
  *total = A(problem.weights[0] * first + problem.weights[1] * second);
  if (of_first) *of_first = A(first);
  if (of_second) *of_second = A(second);
}

#define TILES(T, suffix)                                                                                         \
  extern "C" __global__ void __launch_bounds__(128, 5) contrastive_tiles_##suffix(                               \
      const T* __restrict__ features, const T* __restrict__ other_features, const Acc<T>* __restrict__ vectors,  \
      const Acc<T>* __restrict__ vector_inverse, const uint32_t* __restrict__ counts,                            \
      const uint8_t* __restrict__ labels, const uint8_t* __restrict__ other_labels,                              \
      const uint8_t* __restrict__ dynamic, const uint8_t* __restrict__ overlap, Acc<T>* inverse, Acc<T>* g,      \
      Acc<T>* __restrict__ along, Acc<T>* __restrict__ tile_loss, uint32_t* __restrict__ tile_mass,              \
      LossProblem problem) {                                                                                     \
    loss_tile(features, other_features, vectors, vector_inverse, counts, labels, other_labels, dynamic, overlap, \
              inverse, g, along, tile_loss, tile_mass, problem);                                                 \
  }                                                                                                              \
  KERNEL_EXPORT(contrastive_tiles_##suffix)
FOR_FLOATS(TILES)

#define LOSS_FINISH(A, suffix)                                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * FINISH_WARPS, 2) contrastive_finish_##suffix(              \
      const A* __restrict__ tile_loss, const uint32_t* __restrict__ tile_mass, A* __restrict__ total,          \
      A* __restrict__ of_first, A* __restrict__ of_second, A* __restrict__ scale, LossProblem problem) {       \
    loss_finish(tile_loss, tile_mass, total, of_first, of_second, scale, problem);                             \
  }                                                                                                            \
  KERNEL_EXPORT(contrastive_finish_##suffix)
LOSS_FINISH(float, f32)
LOSS_FINISH(double, f64)
