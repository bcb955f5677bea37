// Label transfer and hybrid labels (docs/method.md, "Dynamic pseudo labels" and "Hybrid pseudo labels").
//
//   transfer_tiles   label[p] = argmax over present c of s[p][c] where 1 / sum_c exp((s[p][c] - best) / tau) >
//                    threshold, else 255; the lowest class wins a tie. Leaves s and u in scratch memory.      writes
//                    (=)
//   hybrid           out[q] = fixed[q] where that is not 255, else dynamic[cell of q]              writes (=)
//
// Layout: features [skip + N, cells, d], whose first `skip` images are left out; vectors [N, C, d], v [N, C]; present
// u8 [N, C]; s [N, cells, C]; u, label [N, cells]; fixed, out u8 [N, rows, columns]; dynamic u8 [N, height, width].
// Launch: transfer_tiles: 128 threads, N * ceil(cells/64) blocks; hybrid: a thread an element, blocks of 256.
#include "cosine.cuh"

template <class T>
__device__ __forceinline__ void transfer(const T* features, const Acc<T>* vectors, const Acc<T>* vector_inverse,
                                         const uint8_t* present, Acc<T>* inverse, Acc<T>* s, uint8_t* labels, int skip,
                                         int cells, int depth, int classes, Acc<T> over_tau, Acc<T> threshold) {
  using A = Acc<T>;
  SHARED(A, rows, [HELD_VALUES]);
  int tiles = (cells + COSINE_CELLS - 1) / COSINE_CELLS, pair = blockIdx.x / tiles;
  int first = blockIdx.x % tiles * COSINE_CELLS, last = min(first + COSINE_CELLS, cells);
  features += static_cast<size_t>(skip + pair) * cells * depth, vectors += pair * classes * depth;
  vector_inverse += pair * classes, present += pair * classes;
  inverse += pair * cells, s += pair * cells * classes, labels += pair * cells;
  inverse_norms_of_tile(features, inverse, first, last, depth);
  __syncthreads();
  similarity_tile(
      features, vectors, inverse, vector_inverse, [&](int c) { return present[c] > 0; }, s, first, cells, depth,
      classes);
  CellGroups groups(classes);
  for (int held = first; held < last; held += groups.cells) {
    int count = min(groups.cells, last - held);
    // The similarities were written, and of those before all have been read, by other threads.
    __syncthreads();
    for (int i = threadIdx.x; i < count * classes; i += COSINE_THREADS)
      rows[i / classes * groups.stride + i % classes] = s[held * classes + i];
    __syncthreads();
    // Groups without a pixel follow the first one.
    bool exists = groups.cell() < count;
    const A* row = rows + (exists ? groups.cell() : 0) * groups.stride;
    A best = A(-INFINITY);
    for (int c = groups.lane(); c < classes; c += groups.lanes)
      if (present[c] > 0) best = Max()(best, row[c]);
    best = reduce_run(best, Max(), groups.lanes);
    int label = 255;
    A sum = 0;
    for (int c = groups.lane(); c < classes; c += groups.lanes) {
      if (present[c] > 0 && row[c] == best) label = min(label, c);
      sum += exp((row[c] - best) * over_tau);
    }
    label = reduce_run(label, Min(), groups.lanes);
    sum = reduce_run(sum, Sum(), groups.lanes);
    if (exists && groups.lane() == 0) labels[held + groups.cell()] = A(1) / sum > threshold ? label : 255;
  }
}

#define TRANSFER(T, suffix)                                                                                          \
  extern "C" __global__ void __launch_bounds__(128) transfer_tiles_##suffix(                                         \
      const T* __restrict__ features, const Acc<T>* __restrict__ vectors, const Acc<T>* __restrict__ vector_inverse, \
      const uint8_t* __restrict__ present, Acc<T>* inverse, Acc<T>* s, uint8_t* __restrict__ labels, int skip,       \
      int cells, int depth, int classes, Acc<T> over_tau, Acc<T> threshold) {                                        \
    transfer(features, vectors, vector_inverse, present, inverse, s, labels, skip, cells, depth, classes, over_tau,  \
             threshold);                                                                                             \
  }                                                                                                                  \
  KERNEL_EXPORT(transfer_tiles_##suffix)
FOR_FLOATS(TRANSFER)

extern "C" __global__ void hybrid(const uint8_t* __restrict__ fixed, const uint8_t* __restrict__ dynamic,
                                  uint8_t* __restrict__ out, int rows, int columns, int height, int width, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int x = i % columns, y = i / columns % rows, pair = i / columns / rows, label = fixed[i];
  if (label == 255) {
    int row = static_cast<int>(static_cast<long long>(y) * height / rows);
    int column = static_cast<int>(static_cast<long long>(x) * width / columns);
    label = dynamic[(pair * height + row) * width + column];
  }
  out[i] = label;
}
KERNEL_EXPORT(hybrid)
