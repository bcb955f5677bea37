// Class-wise domain bias (docs/method.md, "Calibration"; equations: src/ops/calibration/mod.rs).
//   calibrate            out[n][i] = rho[n][i] + xi[i]                                                    writes (=)
//   update_calibration   xi[c][k] = m xi + (1 - m) mean of (rho_t - rho_s) over the pairs with both       in place
//                        Nothing happens where one of `loss_count` losses is NaN or infinite (found_inf).
// Layout: rho [N, C, d], xi [C, d], counts u32 [N, C]; `block` = C * d. In update_calibration the target's follow the
// source's in one tensor where the second pointer is null.
// Launch: a thread an element of out, or of xi, blocks of 256 in x.
#include "domains.cuh"
#include "found_inf.cuh"

template <class A>
__device__ __forceinline__ void update(A* xi, const A* rho_s, const A* rho_t, const uint32_t* counts_s,
                                       const uint32_t* counts_t, A keep, A take, int pairs, int classes, int depth) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, block = classes * depth;
  if (i >= block) return;
  rho_t = of_domain(rho_s, rho_t, 1, static_cast<size_t>(pairs) * block);
  counts_t = of_domain(counts_s, counts_t, 1, pairs * classes);
  A sum = 0, both = 0;
  for (int pair = 0; pair < pairs; pair++) {
    int row = pair * classes + i / depth;
    if (counts_s[row] == 0 || counts_t[row] == 0) continue;
    sum += rho_t[pair * block + i] - rho_s[pair * block + i];
    both += 1;
  }
  if (both > 0) xi[i] = keep * xi[i] + take * (sum / both);
}

#define CALIBRATION(A, suffix)                                                                                         \
  extern "C" __global__ void calibrate_##suffix(const A* __restrict__ xi, const A* __restrict__ rho,                   \
                                                A* __restrict__ out, int block, int count) {                           \
    int i = blockIdx.x * blockDim.x + threadIdx.x;                                                                     \
    if (i < count) out[i] = rho[i] + xi[i % block];                                                                    \
  }                                                                                                                    \
  KERNEL_EXPORT(calibrate_##suffix)                                                                                    \
  extern "C" __global__ void update_calibration_##suffix(                                                              \
      A* __restrict__ xi, const A* __restrict__ rho_s, const A* __restrict__ rho_t,                                    \
      const uint32_t* __restrict__ counts_s, const uint32_t* __restrict__ counts_t, const float* __restrict__ losses,  \
      A keep, A take, int pairs, int classes, int depth, int loss_count) {                                             \
    if (found_inf(losses, loss_count)) return;                                                                         \
    update(xi, rho_s, rho_t, counts_s, counts_t, keep, take, pairs, classes, depth);                                   \
  }                                                                                                                    \
  KERNEL_EXPORT(update_calibration_##suffix)
CALIBRATION(float, f32)
CALIBRATION(double, f64)
