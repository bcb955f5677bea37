// Sum over groups of channels of an image [rows, groups channels]:
//   sum_channel_groups_forward:   y[row][k] = sum over g, in order, of x[row][g channels + k]     writes (=); bf16 sums in f32
//   sum_channel_groups_backward:  dx[row][g channels + k] = dy[row][k]                            writes (=)
//   sum_channel_groups_add:       dx[row][g channels + k] += dy[row][k]                           accumulates (+=)
// Launch: one thread an element of the output, x dimension only; i < count is checked here.
#include "dev.cuh"

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
    int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / (channels * groups);                                      \
    if (i < count) dx[i] = dy[row * channels + i % channels];                                                          \
  }                                                                                                                    \
  KERNEL_EXPORT(sum_channel_groups_backward_##suffix)                                                                  \
  extern "C" __global__ void sum_channel_groups_add_##suffix(const T* __restrict__ dy, T* __restrict__ dx,             \
                                                             int channels, int groups, int count) {                    \
    int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / (channels * groups);                                      \
    if (i < count) dx[i] = from_acc<T>(to_acc(dx[i]) + to_acc(dy[row * channels + i % channels]));                     \
  }                                                                                                                    \
  KERNEL_EXPORT(sum_channel_groups_add_##suffix)
FOR_FLOATS(GROUPS)
