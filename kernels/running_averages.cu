// Running averages, moved by what a batch measured: src/ops/running_averages.
//   running_averages   average[i] = (1 - weight) average[i] + weight x[i] for every entry of the table        updates
//                      Nothing happens where one of `loss_count` losses is NaN or infinite (found_inf).
// Launch: a block of 256 threads for each entry; no two entries of a launch have one average.
#include "found_inf.cuh"

struct AverageEntry {
  void* average;
  const void* x;
  int count, padding;
};
constexpr int AVERAGE_ENTRIES = 256;
struct AverageTable {
  AverageEntry at[AVERAGE_ENTRIES];
  int loss_count, padding;
};
static_assert(sizeof(AverageTable) == 24 * AVERAGE_ENTRIES + 8, "as in src/ops/running_averages/cuda.rs");

#define AVERAGES(T, suffix)                                                                                            \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      running_averages_##suffix(const float* __restrict__ losses, double weight,                                       \
                                const GRID_CONSTANT AverageTable table) {                                              \
    if (found_inf(losses, table.loss_count)) return;                                                                   \
    const AverageEntry& e = table.at[blockIdx.x];                                                                      \
    T *average = static_cast<T*>(e.average), keep = static_cast<T>(1.0 - weight), take = static_cast<T>(weight);       \
    const T* x = static_cast<const T*>(e.x);                                                                           \
    for (int i = threadIdx.x; i < e.count; i += 256) average[i] = keep * average[i] + take * x[i];                     \
  }                                                                                                                    \
  KERNEL_EXPORT(running_averages_##suffix)
AVERAGES(float, f32)
AVERAGES(double, f64)
