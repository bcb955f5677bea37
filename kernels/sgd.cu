// Stochastic gradient descent with momentum and weight decay, PyTorch's rule, in place.
//   sgd_steps:   for every entry of the table, with rate = base[0] * multiplier:
//                m[i] = momentum * m[i] + (g[i] + decay * p[i]);  p[i] -= rate * m[i]                   updates p and m
//                copy[i] = bf16 of the new p[i], where copy is not null                                 writes (=)
//                Nothing happens where one of `loss_count` losses is NaN or infinite (found_inf).
// The table is a parameter by value: all parameters of a network are one launch, and nothing is uploaded. A gradient is
// of p's type, or bf16 where the entry says so. The rate is read from memory: a captured launch can be replayed with
// another. Launch: sgd_steps: blocks of 256 threads; entry e has blocks first .. first + ceil(count / 2048) - 1, in the
// table's order.
#include "found_inf.cuh"

struct SgdEntry {
  void* p;
  void* m;
  const void* g;
  void* copy;
  double multiplier, decay;
  int count, first;
  int bf16_gradient, padding;
};
constexpr int SGD_ENTRIES = 128;
struct SgdTable {
  SgdEntry at[SGD_ENTRIES];
  int entries, loss_count;
};
static_assert(sizeof(SgdEntry) == 64 && sizeof(SgdTable) == 64 * SGD_ENTRIES + 8, "as in src/ops/sgd/cuda.rs");

constexpr int EACH = 4, SGD_PIECE = 256 * EACH * 2;

// 16 bytes of f32, 8 of bf16, 32 of f64; entries begin at multiples of 64 bytes.
template <class T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Four {
  T at[EACH];
};

template <class T, class G>
__device__ __forceinline__ void step(const SgdEntry& e, T momentum, T rate, int from) {
  T *p = static_cast<T*>(e.p), *m = static_cast<T*>(e.m), decay = static_cast<T>(e.decay);
  const G* g = static_cast<const G*>(e.g);
  bf16* copy = static_cast<bf16*>(e.copy);
  auto next = [&](T& value, T& moment, G gradient) {
    moment = momentum * moment + (static_cast<T>(to_acc(gradient)) + decay * value);
    value = value - rate * moment;
  };
  int end = min(from + SGD_PIECE, e.count);
  for (int i = from + static_cast<int>(threadIdx.x) * EACH; i < end; i += 256 * EACH) {
    if (i + EACH <= e.count) {
      auto values = *reinterpret_cast<Four<T>*>(p + i), moments = *reinterpret_cast<Four<T>*>(m + i);
      auto gradients = *reinterpret_cast<const Four<G>*>(g + i);
      Four<bf16> narrow;
#pragma unroll
      for (int k = 0; k < EACH; k++) {
        next(values.at[k], moments.at[k], gradients.at[k]);
        narrow.at[k] = from_acc<bf16>(static_cast<float>(values.at[k]));
      }
      *reinterpret_cast<Four<T>*>(m + i) = moments;
      *reinterpret_cast<Four<T>*>(p + i) = values;
      if (copy) *reinterpret_cast<Four<bf16>*>(copy + i) = narrow;
    } else {
      for (int k = i; k < e.count; k++) {
        next(p[k], m[k], g[k]);
        if (copy) copy[k] = from_acc<bf16>(static_cast<float>(p[k]));
      }
    }
  }
}

#define SGD(T, suffix)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      sgd_steps_##suffix(const double* __restrict__ base, const float* __restrict__ losses, double momentum,           \
                         const GRID_CONSTANT SgdTable table) {                                                         \
    if (found_inf(losses, table.loss_count)) return;                                                                   \
    int low = 0, high = table.entries - 1;                                                                             \
    while (low < high) {                                                                                               \
      int middle = (low + high + 1) / 2;                                                                               \
      if (table.at[middle].first <= static_cast<int>(blockIdx.x)) low = middle;                                        \
      else high = middle - 1;                                                                                          \
    }                                                                                                                  \
    const SgdEntry& e = table.at[low];                                                                                 \
    T rate = static_cast<T>(base[0] * e.multiplier);                                                                   \
    int from = (static_cast<int>(blockIdx.x) - e.first) * SGD_PIECE;                                                   \
    if (e.bf16_gradient)                                                                                               \
      step<T, bf16>(e, static_cast<T>(momentum), rate, from);                                                          \
    else                                                                                                               \
      step<T, T>(e, static_cast<T>(momentum), rate, from);                                                             \
  }                                                                                                                    \
  KERNEL_EXPORT(sgd_steps_##suffix)
SGD(float, f32)
SGD(double, f64)
