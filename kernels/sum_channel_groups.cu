// Sum over groups of channels of an image [rows, groups channels]:
//   sum_channel_groups_forward:   y[row][k] = sum over g, in order, of x[row][g channels + k]     writes (=); bf16 sums
//                                 in f32
//   sum_channel_groups_backward:  dx[row][g channels + k] = dy[row][k]                            writes (=)
//   sum_channel_groups_add:       dx[row][g channels + k] += dy[row][k]                           accumulates (+=)
// Launch: x dimension only; the bound is checked here. forward: a thread an element of y, whose groups lie anywhere in
// x. The others: a thread for 16 bytes of dx, which is the wide side.
#include "pack.cuh"

template <bool ADD, class T>
__device__ __forceinline__ void spread(const T* dy, T* dx, int channels, int groups, int count) {
  each_pack<PACK<T>>(count, [&](auto width, unsigned i) {
    constexpr int N = decltype(width)::value;
    Pack<T, N> out = {};
    if (ADD) out = load_pack<N>(dx + i);
    int wide = channels * groups, row = i / wide, at = i % wide, k = at % channels;
#pragma unroll
    for (int n = 0; n < N; n++) {
      T more = dy[row * channels + k];
      out.at[n] = ADD ? from_acc<T>(to_acc(out.at[n]) + to_acc(more)) : more;
      if (++k == channels) k = 0;
      if (++at == wide) at = 0, row++;
    }
    store_pack(dx + i, out);
  });
}

#define GROUPS(T, suffix)                                                                                              \
  extern "C" __global__ void sum_channel_groups_forward_##suffix(const T* __restrict__ x, T* __restrict__ y,           \
                                                                 int channels, int groups, int count) {                \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i >= count) return;                                                                                            \
    const T* first = x + i / channels * channels * groups + i % channels;                                              \
    Acc<T> sum = to_acc(*first);                                                                                       \
    for (int g = 1; g < groups; g++) sum += to_acc(first[g * channels]);                                               \
    y[i] = from_acc<T>(sum);                                                                                           \
  }                                                                                                                    \
  KERNEL_EXPORT(sum_channel_groups_forward_##suffix)                                                                   \
  extern "C" __global__ void sum_channel_groups_backward_##suffix(const T* __restrict__ dy, T* __restrict__ dx,        \
                                                                  int channels, int groups, int count) {               \
    spread<false>(dy, dx, channels, groups, count);                                                                    \
  }                                                                                                                    \
  KERNEL_EXPORT(sum_channel_groups_backward_##suffix)                                                                  \
  extern "C" __global__ void sum_channel_groups_add_##suffix(const T* __restrict__ dy, T* __restrict__ dx,             \
                                                             int channels, int groups, int count) {                    \
    spread<true>(dy, dx, channels, groups, count);                                                                     \
  }                                                                                                                    \
  KERNEL_EXPORT(sum_channel_groups_add_##suffix)
FOR_FLOATS(GROUPS)
