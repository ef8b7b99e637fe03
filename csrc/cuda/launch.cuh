// What CUDA says in a syntax of its own, so that g++ compiles the kernels too (tests/cuda_host).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifdef CUDA_ON_HOST
#define LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream), ::on_host::launch(grid, block, 0, [&] { (kernel)(__VA_ARGS__); }))
#else
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif

namespace idgan {

constexpr int64_t kMaxGrid = 0x7fffffff;

template <class I>
__host__ __device__ constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

}  // namespace idgan
