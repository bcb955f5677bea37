// The contrastive loss (METHOD.md, "The two contrastive terms"; the equations in n(p,c): src/ops/contrastive_loss/mod.rs), in
// one direction, or in both: the pixels of each domain against the prototypes of the other.
//
//   contrastive_tiles    for a tile of 64 feature pixels: u, s, then z = s / tau, n[p][c] from the labels of the pixel's
//                        cell, g = m softmax(z) - w n, a = sum_c g s; the tile's sums of loss, m and g s    writes (=)
//   contrastive_finish   loss = mean_n sum_tiles loss / M_n of each direction and their sum by weight,
//                        scale[n] = weight / (tau M_n N), b = sum_tiles                                     writes (=)
//
// Where M_n = 0: no contribution, scale 0. The counts n live in shared memory, a warp's one cell at a time; s stands in g's
// memory until g replaces it. Neither depends on the labels' resolution.
// Layout: D directions, by the domain of their pixels: features [D, N, cells, d] and labels u8 [D, N, rows, columns], each
// one tensor or (where the second pointer is not null) two; dynamic labels u8 [N, cells], of the second domain, or null;
// vectors [D, N, C, d], counts u32 [D, N, C] and inverse norms v [D, N, C], by the domain that they come from; overlap u8 [N, C];
// u, a [D, N, cells]; g [D, N, cells, C]; tile sums [D, N, tiles] and [D, N, tiles, C]; scale [D, N]; b [D, N, C]. Where a label
// counts: kernels/include/label_places.cuh.
// Launch: contrastive_tiles: 128 threads, N * tiles blocks in x, D in y; contrastive_finish: one block of 1024 threads.
#include "cosine.cuh"
#include "domains.cuh"
#include "label_places.cuh"

struct LossProblem {
  int directions, pairs, depth, classes;
  LabelPlaces places;
  float temperature;
  double temperature_f64;
  double weights[2];  // of the directions
};
static_assert(sizeof(LossProblem) == 64, "as in src/ops/contrastive_loss/cuda.rs");

__device__ __forceinline__ float temperature_of(const LossProblem& p, float) { return p.temperature; }
__device__ __forceinline__ double temperature_of(const LossProblem& p, double) { return p.temperature_f64; }
__device__ __forceinline__ int cells_of(const LossProblem& p) { return p.places.height * p.places.width; }
__device__ __forceinline__ int tiles_of(const LossProblem& p) { return (cells_of(p) + COSINE_CELLS - 1) / COSINE_CELLS; }

constexpr int LOSS_WARPS = COSINE_THREADS / 32;
// Classes that a lane owns: lane, lane + 32, ... below 256.
constexpr int SLOTS = 8;

template <class T>
__device__ __forceinline__ void loss_tile(const T* features, const T* other_features, const Acc<T>* vectors,
                                          const Acc<T>* vector_inverse, const uint32_t* counts, const uint8_t* labels,
                                          const uint8_t* other_labels, const uint8_t* dynamic, const uint8_t* overlap,
                                          Acc<T>* inverse, Acc<T>* g, Acc<T>* along, Acc<T>* tile_loss,
                                          uint32_t* tile_mass, Acc<T>* tile_b, const LossProblem& problem) {
  using A = Acc<T>;
  SHARED(uint32_t, histogram, [LOSS_WARPS][256]);
  SHARED(A, warp_b, [LOSS_WARPS][256]);
  SHARED(A, warp_loss, [LOSS_WARPS]);
  SHARED(uint32_t, warp_mass, [LOSS_WARPS]);
  const LabelPlaces& places = problem.places;
  int pairs = problem.pairs, depth = problem.depth, classes = problem.classes, cells = cells_of(problem);
  int tiles = tiles_of(problem), pair = blockIdx.x / tiles, domain = blockIdx.y;
  int first = blockIdx.x % tiles * COSINE_CELLS, last = min(first + COSINE_CELLS, cells);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  size_t of_features = static_cast<size_t>(cells) * depth, of_labels = static_cast<size_t>(places.rows) * places.columns;
  features = of_domain(features, other_features, domain, pairs * of_features) + pair * of_features;
  labels = of_domain(labels, other_labels, domain, pairs * of_labels) + pair * of_labels;
  dynamic = dynamic && domain == 1 ? dynamic + pair * cells : nullptr;
  // Which of all tiles, pixels' images and prototypes' rows.
  int tile = domain * gridDim.x + blockIdx.x, image = domain * pairs + pair;
  int from = ((problem.directions - 1 - domain) * pairs + pair) * classes;
  inverse += image * cells, along += image * cells, g += static_cast<size_t>(image) * cells * classes;
  vectors += static_cast<size_t>(from) * depth, vector_inverse += from, counts += from, overlap += pair * classes;

  for (int p = first + warp; p < last; p += LOSS_WARPS) {
    A u = inverse_norm_of_row(features + static_cast<size_t>(p) * depth, depth);
    if (lane == 0) inverse[p] = u;
  }
  __syncthreads();
  similarity_tile(features, vectors, inverse, vector_inverse, [&](int c) { return counts[c] > 0; }, g, first, cells, depth,
                  classes);
  // The similarities were written by other threads.
  __syncthreads();

  A over_tau = A(1) / temperature_of(problem, A(0)), loss = 0, b[SLOTS] = {};
  uint32_t mass = 0, *mine = histogram[warp];
  for (int p = first + warp; p < last; p += LOSS_WARPS) {
    LabelsOfCell cell(places, p);
    for (int c = lane; c < classes; c += 32) mine[c] = 0;
    __syncwarp();
    for (int q = lane; q < cell.count; q += 32) {
      int label = cell.label(labels, places, q);
      if (label == NO_LABEL && dynamic) label = dynamic[p];
      if (label < classes) atomicAdd(&mine[label], 1u);
    }
    __syncwarp();
    A* s = g + p * classes;
    uint32_t n[SLOTS], m = 0;
    A term[SLOTS], largest = A(-INFINITY);
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
      int c = lane + 32 * slot;
      bool exists = c < classes;
      n[slot] = exists && overlap[c] > 0 ? mine[c] : 0;
      term[slot] = exists ? s[c] : A(-INFINITY);
      largest = Max()(largest, term[slot]);
      m += n[slot];
    }
    // No lane leaves this sum before all have read their counts, which it adds: the next cell's zeros come later.
    m = warp_sum(m);
    if (m == 0) {
      for (int c = lane; c < classes; c += 32) s[c] = 0;
      if (lane == 0) along[p] = 0;
      continue;
    }
    mass += m;
    largest = warp_max(largest);
    A sum = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
      term[slot] = (term[slot] - largest) * over_tau;
      sum += exp(term[slot]);
    }
    sum = warp_sum(sum);
    A log_sum = log(sum), share = A(m) / sum, radial = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
      int c = lane + 32 * slot;
      if (c >= classes) continue;
      A of_class = A(n[slot]);
      if (n[slot] > 0) loss += of_class * (log_sum - term[slot]);
      A slope = counts[c] > 0 ? exp(term[slot]) * share - of_class : A(0), pull = slope * s[c];
      s[c] = slope;
      radial += pull;
      b[slot] += pull;
    }
    radial = warp_sum(radial);
    if (lane == 0) along[p] = radial;
  }
  loss = warp_sum(loss);
  if (lane == 0) {
    warp_loss[warp] = loss;
    warp_mass[warp] = mass;
  }
#pragma unroll
  for (int slot = 0; slot < SLOTS; slot++) warp_b[warp][lane + 32 * slot] = b[slot];
  __syncthreads();
  for (int c = threadIdx.x; c < classes; c += COSINE_THREADS) {
    A sum = 0;
    for (int w = 0; w < LOSS_WARPS; w++) sum += warp_b[w][c];
    tile_b[tile * classes + c] = sum;
  }
  if (threadIdx.x == 0) {
    A total = 0;
    uint32_t pixels = 0;
    for (int w = 0; w < LOSS_WARPS; w++) total += warp_loss[w], pixels += warp_mass[w];
    tile_loss[tile] = total;
    tile_mass[tile] = pixels;
  }
}

constexpr int FINISH_THREADS = 1024;

template <class A>
__device__ __forceinline__ void loss_finish(const A* tile_loss, const uint32_t* tile_mass, const A* tile_b, A* total,
                                            A* of_first, A* of_second, A* scale, A* b, const LossProblem& problem) {
  int tiles = tiles_of(problem), pairs = problem.pairs, classes = problem.classes, rows = problem.directions * pairs;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // The first warp adds up the losses, the others b, a sum over tiles at a time.
  if (warp == 0) {
    double sum_of[2] = {};
    for (int row = 0; row < rows; row++) {
      double sum = 0, mass = 0;
#pragma unroll 4
      for (int tile = lane; tile < tiles; tile += 32) {
        sum += tile_loss[row * tiles + tile];
        mass += tile_mass[row * tiles + tile];
      }
      sum = warp_sum(sum), mass = warp_sum(mass);
      double mean = mass > 0 ? sum / mass : 0, weight = problem.weights[row / pairs], tau = temperature_of(problem, A(0));
      sum_of[0] += row < pairs ? mean : 0;
      sum_of[1] += row < pairs ? 0 : mean;
      if (lane == 0) scale[row] = mass > 0 ? A(weight / (tau * mass * pairs)) : A(0);
    }
    if (lane > 0) return;
    double first = sum_of[0] / pairs, second = sum_of[1] / pairs;
    *total = A(problem.weights[0] * first + problem.weights[1] * second);
    if (of_first) *of_first = A(first);
    if (of_second) *of_second = A(second);
    return;
  }
  for (int i = warp - 1; i < rows * classes; i += FINISH_THREADS / 32 - 1) {
    const A* column = tile_b + static_cast<size_t>(i / classes) * tiles * classes + i % classes;
    A sum = 0;
#pragma unroll 8
    for (int tile = lane; tile < tiles; tile += 32) sum += column[tile * classes];
    sum = warp_sum(sum);
    if (lane == 0) b[i] = sum;
  }
}

#define TILES(T, suffix)                                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 3) contrastive_tiles_##suffix(                                      \
      const T* __restrict__ features, const T* __restrict__ other_features, const Acc<T>* __restrict__ vectors,         \
      const Acc<T>* __restrict__ vector_inverse, const uint32_t* __restrict__ counts,                                   \
      const uint8_t* __restrict__ labels, const uint8_t* __restrict__ other_labels,                                     \
      const uint8_t* __restrict__ dynamic, const uint8_t* __restrict__ overlap, Acc<T>* inverse, Acc<T>* g,             \
      Acc<T>* __restrict__ along, Acc<T>* __restrict__ tile_loss, uint32_t* __restrict__ tile_mass,                     \
      Acc<T>* __restrict__ tile_b, LossProblem problem) {                                                               \
    loss_tile(features, other_features, vectors, vector_inverse, counts, labels, other_labels, dynamic, overlap,        \
              inverse, g, along, tile_loss, tile_mass, tile_b, problem);                                                \
  }                                                                                                                     \
  KERNEL_EXPORT(contrastive_tiles_##suffix)
FOR_FLOATS(TILES)

#define LOSS_FINISH(A, suffix)                                                                                          \
  extern "C" __global__ void __launch_bounds__(FINISH_THREADS) contrastive_finish_##suffix(                             \
      const A* __restrict__ tile_loss, const uint32_t* __restrict__ tile_mass, const A* __restrict__ tile_b,            \
      A* __restrict__ total, A* __restrict__ of_first, A* __restrict__ of_second, A* __restrict__ scale,                \
      A* __restrict__ b, LossProblem problem) {                                                                         \
    loss_finish(tile_loss, tile_mass, tile_b, total, of_first, of_second, scale, b, problem);                           \
  }                                                                                                                     \
  KERNEL_EXPORT(contrastive_finish_##suffix)
LOSS_FINISH(float, f32)
LOSS_FINISH(double, f64)
