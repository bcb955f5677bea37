// Conversions between float types and the sum of gradients.
//   cast_from_f32, cast_to_f32:  y[i] = (type) x[i]        writes (=)
//   accumulate:                  total[i] += x[i]          accumulates (+=); bf16 adds in f32
// Launch: a thread for 16 bytes of the narrower type, x dimension only; i < count is checked here. Bound by memory.
#include "pack.cuh"

template <class To, class From, class Convert>
__device__ __forceinline__ void convert(const From* x, To* y, int count, Convert of) {
  constexpr int W = PACK<To> > PACK<From> ? PACK<To> : PACK<From>;
  each_pack<W>(count, [&](auto width, unsigned i) {
    constexpr int N = decltype(width)::value;
    Pack<From, N> in = load_pack<N>(x + i);
    Pack<To, N> out;
#pragma unroll
    for (int k = 0; k < N; k++) out.at[k] = of(in.at[k]);
    store_pack(y + i, out);
  });
}

template <class T>
__device__ __forceinline__ void add_to(T* total, const T* x, int count) {
  each_pack<PACK<T>>(count, [&](auto width, unsigned i) {
    constexpr int N = decltype(width)::value;
    Pack<T, N> sum = load_pack<N>(total + i), more = load_pack<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; k++) sum.at[k] = from_acc<T>(to_acc(sum.at[k]) + to_acc(more.at[k]));
    store_pack(total + i, sum);
  });
}

#define CAST(T, suffix)                                                                                          \
  extern "C" __global__ void cast_from_f32_##suffix(const float* __restrict__ x, T* __restrict__ y, int count) { \
    convert(x, y, count, [](float v) { return from_acc<T>(static_cast<Acc<T>>(v)); });                           \
  }                                                                                                              \
  KERNEL_EXPORT(cast_from_f32_##suffix)                                                                          \
  extern "C" __global__ void cast_to_f32_##suffix(const T* __restrict__ x, float* __restrict__ y, int count) {   \
    convert(x, y, count, [](T v) { return static_cast<float>(to_acc(v)); });                                     \
  }                                                                                                              \
  KERNEL_EXPORT(cast_to_f32_##suffix)
CAST(double, f64)
CAST(bf16, bf16)

#define ACCUMULATE(T, suffix)                                                                                    \
  extern "C" __global__ void accumulate_##suffix(T* __restrict__ total, const T* __restrict__ x, int count) {    \
    add_to(total, x, count);                                                                                     \
  }                                                                                                              \
  KERNEL_EXPORT(accumulate_##suffix)
FOR_FLOATS(ACCUMULATE)
