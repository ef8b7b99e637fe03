// Kernels for the tests of the harness itself: a sum over a block that is right, and what each of BUG makes of it.
#include "cuda_on_host.h"

#include <exception>
#include <string>

#include "launch.cuh"

enum Bug { kNone, kNoBarrier, kDivergent, kHalfWarp, kMissingLanes, kBeyondInput, kBeyondShared, kTwoReaders };

template <Bug BUG>
__global__ void sum_kernel(const float* x, float* sums, int count) {
  __shared__ float parts[64];
  const int t = threadIdx.x, i = blockIdx.x * 64 + t;
  const int last = BUG == kBeyondInput ? count + 1 : count;
  parts[t + (BUG == kBeyondShared ? 1 : 0)] = i < last ? x[i] : 0;
  if (BUG == kDivergent && t < 32) {
    __syncthreads();
  } else if (BUG != kNoBarrier) {
    __syncthreads();
  }
  if (t < 32) {
    float total = parts[t] + parts[63 - t];
    if (BUG == kTwoReaders && parts[32 + t / 2] >= 0 && t % 2) parts[32 + t / 2] = 0;  // which the neighbor reads too
    for (int by = 16; by; by >>= 1) {
      if (BUG == kHalfWarp && t >= 16) break;
      total += __shfl_xor_sync(BUG == kMissingLanes && t >= 16 ? 0x0000ffffu : 0xffffffffu, total, by);
    }
    if (t == 0) sums[blockIdx.x] = total;
  }
}

static std::string message;

template <Bug BUG>
const char* run(const float* x, float* sums, int count, int order, unsigned seed) {
  on_host::order = on_host::Order(order);
  on_host::shuffler.seed(seed);
  try {
    const auto kernel = sum_kernel<BUG>;
    LAUNCH(kernel, dim3(idgan::ceil_div(count, 64)), dim3(64), nullptr, x, sums, count);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

extern "C" const char* sample(int bug, const float* x, float* sums, int count, int order, unsigned seed) {
  switch (bug) {
    case kNoBarrier: return run<kNoBarrier>(x, sums, count, order, seed);
    case kDivergent: return run<kDivergent>(x, sums, count, order, seed);
    case kHalfWarp: return run<kHalfWarp>(x, sums, count, order, seed);
    case kMissingLanes: return run<kMissingLanes>(x, sums, count, order, seed);
    case kBeyondInput: return run<kBeyondInput>(x, sums, count, order, seed);
    case kBeyondShared: return run<kBeyondShared>(x, sums, count, order, seed);
    case kTwoReaders: return run<kTwoReaders>(x, sums, count, order, seed);
    default: return run<kNone>(x, sums, count, order, seed);
  }
}
