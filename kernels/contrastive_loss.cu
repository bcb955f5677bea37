// One direction of the contrastive loss (METHOD.md, "The two contrastive terms"; the equations in n(p,c):
// src/ops/contrastive_loss/mod.rs).
//
//   contrastive_tiles    for a tile of 64 feature pixels: u, s, then z = s / tau, n[p][c] from the labels of the pixel's
//                        cell, g = m softmax(z) - w n, a = sum_c g s; the tile's sums of loss, m and g s    writes (=)
//   contrastive_finish   loss = mean_n sum_tiles loss / M_n, scale[n] = 1 / (tau M_n N), b = sum_tiles     writes (=)
//
// Where M_n = 0: no contribution, scale 0. The counts n live in shared memory, a warp's one cell at a time; s stands in g's
// memory until g replaces it. Neither depends on the labels' resolution.
// Layout: features [N, cells, d], cells = height * width; vectors [N, C, d]; their inverse norms v [N, C]; counts u32,
// overlap u8 [N, C]; labels u8 [N, rows, columns]; u, a [N, cells]; g [N, cells, C]; tile sums [N, tiles] and [N, tiles, C].
// A label pixel (y, x) belongs to cell (floor(y * height / rows), floor(x * width / columns)).
// Launch: contrastive_tiles: 128 threads, N * tiles blocks; contrastive_finish: one block of 256 threads.
#include "cosine.cuh"

struct LossProblem {
  int pairs, height, width, depth, classes, rows, columns;
  float temperature;
  double temperature_f64;
};
static_assert(sizeof(LossProblem) == 40, "as in src/ops/contrastive_loss/cuda.rs");

__device__ __forceinline__ float temperature_of(const LossProblem& p, float) { return p.temperature; }
__device__ __forceinline__ double temperature_of(const LossProblem& p, double) { return p.temperature_f64; }

// The first of `full` positions that belongs to `cell` of `cells` or a later one.
__device__ __forceinline__ int first_of_cell(int cell, int cells, int full) {
  return static_cast<int>((static_cast<long long>(cell) * full + cells - 1) / cells);
}

constexpr int LOSS_WARPS = COSINE_THREADS / 32;
// Classes that a lane owns: lane, lane + 32, ... below 256.
constexpr int SLOTS = 8;

template <class T>
__device__ __forceinline__ void loss_tile(const T* features, const Acc<T>* vectors, const Acc<T>* vector_inverse,
                                          const uint32_t* counts, const uint8_t* labels, const uint8_t* overlap,
                                          Acc<T>* inverse, Acc<T>* g, Acc<T>* along, Acc<T>* tile_loss,
                                          uint32_t* tile_mass, Acc<T>* tile_b, const LossProblem& problem) {
  using A = Acc<T>;
  SHARED(uint32_t, histogram, [LOSS_WARPS][256]);
  SHARED(A, warp_b, [LOSS_WARPS][256]);
  SHARED(A, warp_loss, [LOSS_WARPS]);
  SHARED(uint32_t, warp_mass, [LOSS_WARPS]);
  int cells = problem.height * problem.width, depth = problem.depth, classes = problem.classes;
  int tiles = (cells + COSINE_CELLS - 1) / COSINE_CELLS, pair = blockIdx.x / tiles;
  int first = blockIdx.x % tiles * COSINE_CELLS, last = min(first + COSINE_CELLS, cells);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  features += static_cast<size_t>(pair) * cells * depth, labels += static_cast<size_t>(pair) * problem.rows * problem.columns;
  inverse += pair * cells, along += pair * cells, g += pair * cells * classes;
  vectors += pair * classes * depth, vector_inverse += pair * classes, counts += pair * classes, overlap += pair * classes;

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
    int row = p / problem.width, column = p % problem.width;
    int y0 = first_of_cell(row, problem.height, problem.rows), y1 = first_of_cell(row + 1, problem.height, problem.rows);
    int x0 = first_of_cell(column, problem.width, problem.columns);
    int across = first_of_cell(column + 1, problem.width, problem.columns) - x0, pixels = (y1 - y0) * across;
    for (int c = lane; c < classes; c += 32) mine[c] = 0;
    __syncwarp();
    for (int q = lane; q < pixels; q += 32) {
      int label = labels[static_cast<size_t>(y0 + q / across) * problem.columns + x0 + q % across];
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
    tile_b[blockIdx.x * classes + c] = sum;
  }
  if (threadIdx.x == 0) {
    A total = 0;
    uint32_t pixels = 0;
    for (int w = 0; w < LOSS_WARPS; w++) total += warp_loss[w], pixels += warp_mass[w];
    tile_loss[blockIdx.x] = total;
    tile_mass[blockIdx.x] = pixels;
  }
}

template <class A>
__device__ __forceinline__ void loss_finish(const A* tile_loss, const uint32_t* tile_mass, const A* tile_b, A* loss,
                                            A* scale, A* b, const LossProblem& problem) {
  int tiles = (problem.height * problem.width + COSINE_CELLS - 1) / COSINE_CELLS, t = threadIdx.x;
  double total = 0, tau = temperature_of(problem, A(0));
  for (int pair = 0; pair < problem.pairs; pair++) {
    double sum = 0, mass = 0;
    for (int tile = t; tile < tiles; tile += blockDim.x) {
      sum += tile_loss[pair * tiles + tile];
      mass += tile_mass[pair * tiles + tile];
    }
    sum = block_sum(sum), mass = block_sum(mass);
    if (mass > 0) total += sum / mass;
    if (t == 0) scale[pair] = mass > 0 ? A(1 / (tau * mass * problem.pairs)) : A(0);
  }
  if (t == 0) loss[0] = A(total / problem.pairs);
  for (int i = t; i < problem.pairs * problem.classes; i += blockDim.x) {
    int pair = i / problem.classes, c = i % problem.classes;
    A sum = 0;
#pragma unroll 4
    for (int tile = 0; tile < tiles; tile++) sum += tile_b[(pair * tiles + tile) * problem.classes + c];
    b[i] = sum;
  }
}

#define TILES(T, suffix)                                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 3) contrastive_tiles_##suffix(                                         \
      const T* __restrict__ features, const Acc<T>* __restrict__ vectors, const Acc<T>* __restrict__ vector_inverse,    \
      const uint32_t* __restrict__ counts, const uint8_t* __restrict__ labels, const uint8_t* __restrict__ overlap,     \
      Acc<T>* inverse, Acc<T>* g, Acc<T>* __restrict__ along, Acc<T>* __restrict__ tile_loss,                           \
      uint32_t* __restrict__ tile_mass, Acc<T>* __restrict__ tile_b, LossProblem problem) {                             \
    loss_tile(features, vectors, vector_inverse, counts, labels, overlap, inverse, g, along, tile_loss, tile_mass,      \
              tile_b, problem);                                                                                         \
  }                                                                                                                     \
  KERNEL_EXPORT(contrastive_tiles_##suffix)
FOR_FLOATS(TILES)

#define LOSS_FINISH(A, suffix)                                                                                          \
  extern "C" __global__ void __launch_bounds__(256, 2) contrastive_finish_##suffix(                                        \
      const A* __restrict__ tile_loss, const uint32_t* __restrict__ tile_mass, const A* __restrict__ tile_b,            \
      A* __restrict__ loss, A* __restrict__ scale, A* __restrict__ b, LossProblem problem) {                            \
    loss_finish(tile_loss, tile_mass, tile_b, loss, scale, b, problem);                                                 \
  }                                                                                                                     \
  KERNEL_EXPORT(contrastive_finish_##suffix)
LOSS_FINISH(float, f32)
LOSS_FINISH(double, f64)
