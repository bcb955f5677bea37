// Copies between runs of whole images: `part` is the `count` elements of `whole` from `offset` on.
//   split_images_take:  part[i] = whole[offset + i]                                      writes (=)
//   split_images_give:  whole[i] = part[i - offset], and 0 outside the part              writes (=)
//   split_images_add:   whole[offset + i] += part[i]                                     accumulates (+=); bf16 adds in
//                       f32
// Launch: one thread for each element of the part (of the whole in split_images_give); bounds are checked here.
#include "dev.cuh"

#define SPLIT(T, suffix)                                                                                               \
  extern "C" __global__ void split_images_take_##suffix(const T* __restrict__ whole, T* __restrict__ part, int offset, \
                                                        int count) {                                                   \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < count) part[i] = whole[offset + i];                                                                        \
  }                                                                                                                    \
  KERNEL_EXPORT(split_images_take_##suffix)                                                                            \
  extern "C" __global__ void split_images_give_##suffix(const T* __restrict__ part, T* __restrict__ whole, int offset, \
                                                        int count, int total) {                                        \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < total) whole[i] = i >= offset && i - offset < count ? part[i - offset] : from_acc<T>(0);                   \
  }                                                                                                                    \
  KERNEL_EXPORT(split_images_give_##suffix)                                                                            \
  extern "C" __global__ void split_images_add_##suffix(const T* __restrict__ part, T* __restrict__ whole, int offset,  \
                                                       int count) {                                                    \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < count) whole[offset + i] = from_acc<T>(to_acc(whole[offset + i]) + to_acc(part[i]));                       \
  }                                                                                                                    \
  KERNEL_EXPORT(split_images_add_##suffix)
FOR_FLOATS(SPLIT)
