// Upsampling (bilinear, align_corners = true), softmax maximum and argmax in one pass (src/ops/predict/mod.rs).
//   labels[q] = first argmax_c z_c, confidence[q] = max_c p_c, reaches[q] = 1 if p_c >= thresholds[c] for some c, else
//   0, with z the logits interpolated at q and p = softmax(z)                                        writes (=)
// Layout: x [N,h,w,C]; labels u8, confidence f32, reaches u8 [N,H,W]; confidence, thresholds and reaches may be null
// (thresholds and reaches together). Neighbouring threads share the logits around them through the cache.
// Launch: one thread a pixel of the result, x dimension only; index < count is checked here.
#include "bilinear.cuh"

template <class T>
__device__ __forceinline__ void predict_pixel(const T* x, uint8_t* labels, float* confidence, const float* thresholds,
                                              uint8_t* reaches, const Resize& r, int index) {
  using A = Acc<T>;
  int column = index % r.out_width, line = index / r.out_width;
  Corners<T> logit(x, r, line / r.out_height, line % r.out_height, column);
  int best = 0;
  A most = logit(0);
  for (int c = 1; c < r.channels; c++) {
    A value = logit(c);
    if (value > most || (value != value && most == most)) best = c, most = value;
  }
  labels[index] = best;
  if (!confidence && !reaches) return;
  A sum = 0;
  for (int c = 0; c < r.channels; c++) sum += exp(logit(c) - most);
  A inverse = 1 / sum;
  if (confidence) confidence[index] = static_cast<float>(inverse);
  if (!reaches) return;
  int reached = 0;
  for (int c = 0; c < r.channels; c++) reached |= exp(logit(c) - most) * inverse >= A(thresholds[c]);
  reaches[index] = reached;
}

#define PREDICT(T, suffix)                                                                                            \
  extern "C" __global__ void predict_##suffix(const T* __restrict__ x, uint8_t* __restrict__ labels,                  \
                                              float* __restrict__ confidence, const float* __restrict__ thresholds,   \
                                              uint8_t* __restrict__ reaches, Resize r, int count) {                   \
    int index = blockIdx.x * blockDim.x + threadIdx.x;                                                                \
    if (index < count) predict_pixel(x, labels, confidence, thresholds, reaches, r, index);                           \
  }                                                                                                                   \
  KERNEL_EXPORT(predict_##suffix)
FOR_FLOATS(PREDICT)
