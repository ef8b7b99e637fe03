// What CUDA says in a syntax of its own, so that g++ compiles the kernels too (tests/cuda_host).
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

// Throws what CUDA says against the launch.
#ifdef CUDA_ON_HOST
#define LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream), ::on_host::launch(grid, block, [&] { (kernel)(__VA_ARGS__); }))
#else
#define LAUNCH(kernel, grid, block, stream, ...)         \
  do {                                                   \
    kernel<<<grid, block, 0, stream>>>(__VA_ARGS__);     \
    ::idgan::check_cuda(cudaGetLastError(), __FILE__);   \
  } while (0)
#endif

namespace idgan {

// An error names the operator, after which its files are named.
inline void check_cuda(cudaError_t status, const char* file) {
  if (status == cudaSuccess) return;
  std::string name = file;
  name = name.substr(name.rfind('/') + 1);
  name = name.substr(0, std::min(name.find("_launch."), name.find('.')));
  throw std::runtime_error(name + ": CUDA says: " + cudaGetErrorString(status));
}

constexpr int64_t kMaxGrid = 0x7fffffff;
constexpr int kBlocksPerSm = 8;  // that pointwise kernels of 256 threads are given: 2048 threads

template <class I>
__host__ __device__ constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

inline int log2_up(int64_t n) {
  int log = 0;
  while ((int64_t(1) << log) < n) log++;
  return log;
}

inline bool at_16_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace idgan
