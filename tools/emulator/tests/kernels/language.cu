// The language the kernels rely on: built-in variables, collectives, intrinsics, conversions, tensor-core fragments.
#include "dev.cuh"

// index[i] = the linear index of block and thread, whose place in the grid is i. Launch: any.
extern "C" __global__ void test_indices(int* index) {
  int threads = block_threads(), block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  index[block * threads + block_thread()] += block * threads + block_thread() + 1;
}
KERNEL_EXPORT(test_indices)

// Per block, to every thread: the sum of x and, as the same reduction called again, of x^2; the maximum; the minimum.
// Launch: blocks of whole warps, one value a thread.
#define REDUCE(T, suffix)                                                                                        \
  extern "C" __global__ void test_reduce_##suffix(const T* x, T* sum, T* squares, T* largest, T* smallest) {     \
    int i = blockIdx.x * block_threads() + block_thread();                                                       \
    Acc<T> value = to_acc(x[i]);                                                                                 \
    sum[i] = from_acc<T>(block_sum(value));                                                                      \
    squares[i] = from_acc<T>(block_sum(value * value));                                                          \
    largest[i] = from_acc<T>(block_max(value));                                                                  \
    smallest[i] = from_acc<T>(block_min(value));                                                                 \
  }                                                                                                              \
  KERNEL_EXPORT(test_reduce_##suffix)
FOR_FLOATS(REDUCE)

// Launch: one block of 64 threads. Eight results a thread.
extern "C" __global__ void test_collectives(int* out) {
  int t = threadIdx.x, lane = t % 32, *o = out + t * 8;
  o[0] = __syncthreads_count(t % 3 == 0);
  o[1] = __syncthreads_or(t == 63) * 2 + __syncthreads_and(t < 64);
  o[2] = __syncthreads_or(t == 64) * 2 + __syncthreads_and(t < 63);
  o[3] = __ballot_sync(0xffffffffu, lane & 1);
  o[4] = __shfl_up_sync(0xffffffffu, t, 3, 16);
  o[5] = __shfl_down_sync(0xffffffffu, t, 3, 16);
  o[6] = __shfl_xor_sync(0xffffffffu, t, 5);
  // Two halves of a warp at work apart.
  o[7] = lane < 16 ? __shfl_sync(0x0000ffffu, t, 3) : __shfl_sync(0xffff0000u, t, 29);
}
KERNEL_EXPORT(test_collectives)

// Adds one to total[t % 4] for every thread of the grid, and counts the blocks in total[4].
extern "C" __global__ void test_atomics(unsigned* total) {
  atomicAdd(&total[threadIdx.x % 4], 1);
  if (threadIdx.x == 0) atomicMax(&total[4], blockIdx.x + 1);
}
KERNEL_EXPORT(test_atomics)

// Every vector type, conversion and intrinsic here must compile; results are checked against plain arithmetic.
extern "C" __global__ void test_intrinsics(float* out) {
  float2 f2 = make_float2(1, 2);
  float4 f4 = make_float4(1, 2, 3, 4);
  double2 d2 = make_double2(1, 2);
  uint4 u4 = make_uint4(1, 2, 3, 4);
  int2 i2 = make_int2(3, 4);
  __nv_bfloat162 pair = __floats2bfloat162_rn(1.5f, -2.0f);
  float2 back = __bfloat1622float2(pair);
  float four = __ldg(&f4.w);
  int i = 0;
  out[i++] = f2.x + f4.w + static_cast<float>(d2.y) + static_cast<float>(u4.z) + i2.y == 14;
  out[i++] = back.x == 1.5f && back.y == -2.0f && __low2float(pair) == 1.5f && __high2float(pair) == -2.0f;
  out[i++] = fmaf(2, 3, four) == 10 && __fmaf_rn(2, 3, four) == 10 && fma(2.0, 3.0, 4.0) == 10 && fma(2.f, 3.f, four) == 10;
  out[i++] = fmaxf(1, four) == 4 && fminf(1, four) == 1 && fmax(1.0, 2.0) == 2 && max(1, 2) == 2 && min(1.0f, 2.0f) == 1;
  out[i++] = fabsf(expf(1) - 2.7182818f) < 1e-6f && fabsf(__expf(1) - 2.7182818f) < 1e-5f && fabs(exp(1.0) - 2.718281828459045) < 1e-14;
  out[i++] = fabsf(logf(four) - 1.3862944f) < 1e-6f && fabsf(__logf(four) - 1.3862944f) < 1e-5f && log(1.0) == 0;
  out[i++] = sqrtf(four) == 2 && fabsf(rsqrtf(four) - 0.5f) < 1e-6f && rsqrt(4.0) == 0.5 && sqrt(4.0) == 2;
  out[i++] = isnan(NAN) && !isnan(1.0) && isfinite(1.0f) && !isfinite(INFINITY) && isinf(-INFINITY);
  out[i++] = __popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __ffs(0) == 0 && __brev(1) == 0x80000000u;
  out[i++] = __int_as_float(0x3f800000) == 1 && __float_as_int(1.0f) == 0x3f800000 && __float_as_uint(1.0f) == 0x3f800000u;
  out[i++] = __umulhi(0x80000000u, 4) == 2 && __popcll(~0ull) == 64 && __clzll(1) == 63;
  out[i++] = floorf(-1.5f) == -2 && ceil(1.5) == 2 && rintf(2.5f) == 2 && fabs(-1.0) == 1 && tanhf(0) == 0 && powf(2, 3) == 8;
  out[i++] = to_acc(from_acc<bf16>(3)) == 3 && to_acc(from_acc<double>(3)) == 3.0;
}
KERNEL_EXPORT(test_intrinsics)

// y[i] = bf16(x[i]). Launch: count threads exactly.
extern "C" __global__ void test_round(const float* x, bf16* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = from_acc<bf16>(x[i]);
}
KERNEL_EXPORT(test_round)

// One warp: c[16,8] = a[16,8] b[8,8] in TF32, and the transpose of four 8x8 matrices of 16-bit values.
extern "C" __global__ void test_fragments(const float* a, const float* b, float* c, const bf16* x, bf16* x_transposed) {
  SHARED(bf16, matrices, [32][8]);
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  uint32_t af[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]), to_tf32(a[g * 8 + t + 4]),
                    to_tf32(a[(g + 8) * 8 + t + 4])};
  uint32_t bf[1][2] = {{to_tf32(b[t * 8 + g]), to_tf32(b[(t + 4) * 8 + g])}};
  float d[1][4] = {};
  mma_tf32<1>(d, af, bf);
  for (int e = 0; e < 4; e++) c[(g + e / 2 * 8) * 8 + 2 * t + e % 2] = d[0][e];

  for (int i = 0; i < 8; i++) matrices[lane][i] = x[lane * 8 + i];
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4_trans(r, matrices[lane]);
  for (int m = 0; m < 4; m++)
    for (int h = 0; h < 2; h++)
      x_transposed[m * 64 + g * 8 + 2 * t + h] = __ushort_as_bfloat16(static_cast<unsigned short>(r[m] >> (16 * h)));
}
KERNEL_EXPORT(test_fragments)
