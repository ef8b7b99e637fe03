// CUDA's words for g++: included before a .cuh file, it makes kernels plain functions that fibers.h runs.
//
// CUDA's own headers give dim3, float4, half and bfloat16. One block runs at a time, so `__shared__` is a function's
// static variable. Left out: textures, cooperative groups, streams (a launch is over when it returns), PTX. The device
// has as many multiprocessors as a test sets.
#pragma once

#define CUDA_ON_HOST 1

#include <cmath>
#include <cstddef>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

#include "fibers.h"

#define threadIdx (::on_host::current->index)
#define blockIdx (::on_host::block->index)
#define blockDim (::on_host::block->size)
#define gridDim (::on_host::block->grid)

#define ON_HOST_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#define cudaDeviceGetAttribute ::on_host::attribute
#define cudaGetErrorString ::on_host::error_text

namespace on_host {

inline int num_sms = 4;
inline cudaError_t attribute(int* value, cudaDeviceAttr, int) { return *value = num_sms, cudaSuccess; }
inline const char* error_text(cudaError_t) { return "an error"; }

template <class T>
struct Shuffle {
  T value, result;
  unsigned source;
};

template <class T>
void shuffle(void** data, unsigned) {
  for (unsigned i = 0; i < kWarp; i++) {
    if (!data[i]) continue;
    auto* mine = static_cast<Shuffle<T>*>(data[i]);
    auto* from = static_cast<Shuffle<T>*>(data[mine->source]);
    if (!from) {
      block->failure = "a shuffle reads a lane that takes no part";
      return;
    }
    mine->result = from->value;
  }
}

template <class T>
T shuffled(unsigned mask, T value, unsigned source, Place place) {
  Shuffle<T> data{value, value, source};
  wait_for_warp(mask, &data, shuffle<T>, place);
  return data.result;
}

struct Ballot {
  int predicate;
  unsigned result;
};

inline void ballot(void** data, unsigned) {
  unsigned votes = 0;
  for (unsigned i = 0; i < kWarp; i++)
    if (data[i] && static_cast<Ballot*>(data[i])->predicate) votes |= 1u << i;
  for (unsigned i = 0; i < kWarp; i++)
    if (data[i]) static_cast<Ballot*>(data[i])->result = votes;
}

}  // namespace on_host

inline void __syncthreads(ON_HOST_PLACE) { on_host::wait_at_barrier(0, on_host::Vote::kNone, {file, line}); }
inline int __syncthreads_or(int p, ON_HOST_PLACE) { return on_host::wait_at_barrier(p, on_host::Vote::kAny, {file, line}); }
inline int __syncthreads_and(int p, ON_HOST_PLACE) { return on_host::wait_at_barrier(p, on_host::Vote::kAll, {file, line}); }
inline int __syncthreads_count(int p, ON_HOST_PLACE) {
  return on_host::wait_at_barrier(p, on_host::Vote::kCount, {file, line});
}
inline void __syncwarp(unsigned mask = ~0u, ON_HOST_PLACE) {
  on_host::wait_for_warp(mask, nullptr, [](void**, unsigned) {}, {file, line});
}
template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32, ON_HOST_PLACE) {
  const unsigned me = on_host::current->lane;
  return on_host::shuffled(mask, v, (me & ~(width - 1)) | (lane & (width - 1)), {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, ON_HOST_PLACE) {
  const unsigned me = on_host::current->lane, from = me ^ with;
  return on_host::shuffled(mask, v, from / width > me / width ? me : from, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, ON_HOST_PLACE) {
  const unsigned me = on_host::current->lane, from = me + by;
  return on_host::shuffled(mask, v, from / width != me / width ? me : from, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int p, ON_HOST_PLACE) {
  on_host::Ballot data{p, 0};
  on_host::wait_for_warp(mask, &data, on_host::ballot, {file, line});
  return data.result;
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
