// 16 bytes of a type at once, and the type in which it is computed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "calls.h"
#include "launch.cuh"

namespace idgan {

template <class T>
struct AccumulationType {
  using type = float;
};
template <>
struct AccumulationType<double> {
  using type = double;
};
template <class T>
using acc_t = typename AccumulationType<T>::type;

// f of a number of the type.
template <class F>
void with_type(Dtype dtype, F&& f) {
  switch (dtype) {
    case kFloat: return f(float());
    case kDouble: return f(double());
    case kBfloat16: return f(__nv_bfloat16());
    default: return f(__half());
  }
}

// N numbers that lie side by side, aligned to all their bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];
};

template <class T>
constexpr int kVector = 16 / sizeof(T);

#ifdef CUDA_ON_HOST  // g++ takes a structure apart; this moves whole, so that its width can be counted
template <class V>
struct Moved {
  typedef uint8_t type __attribute__((vector_size(sizeof(V)), may_alias));
};
#else
template <class V>
struct Moved {
  using type = V;
};
#endif

// One instruction each: a structure's alignment is its size.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> load(const T* from) {
  using M = typename Moved<Vec<T, N>>::type;
  Vec<T, N> v;
  *reinterpret_cast<M*>(&v) = *reinterpret_cast<const M*>(from);
  return v;
}

// More than 16 bytes, in pieces of them.
template <int N, class T>
__device__ __forceinline__ Vec<T, N> load_pieces(const T* from) {
  constexpr int M = N < kVector<T> ? N : kVector<T>;
  Vec<T, N> v;
#pragma unroll
  for (int i = 0; i < N; i += M) {
    const Vec<T, M> piece = load<M>(from + i);
#pragma unroll
    for (int j = 0; j < M; j++) v.at[i + j] = piece.at[j];
  }
  return v;
}

// 16 bytes in PTX: nvcc takes other stores apart where some of the numbers are known earlier than others. It clobbers
// no memory, since no kernel reads what it has stored.
template <int N, class T>
__device__ __forceinline__ void store(T* to, const Vec<T, N>& v) {
#ifndef CUDA_ON_HOST
  if constexpr (sizeof(v) == 16) {
    uint4 words;
    memcpy(&words, &v, 16);
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(words.x),
                 "r"(words.y), "r"(words.z), "r"(words.w));
    return;
  }
#endif
  using M = typename Moved<Vec<T, N>>::type;
  *reinterpret_cast<M*>(to) = *reinterpret_cast<const M*>(&v);
}

template <int N, class T>
__device__ __forceinline__ void store_pieces(T* to, const Vec<T, N>& v) {
  constexpr int M = N < kVector<T> ? N : kVector<T>;
#pragma unroll
  for (int i = 0; i < N; i += M) {
    Vec<T, M> piece;
#pragma unroll
    for (int j = 0; j < M; j++) piece.at[j] = v.at[i + j];
    store(to + i, piece);
  }
}

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ double widened(double v) { return v; }
__device__ __forceinline__ float widened(__half v) { return __half2float(v); }
__device__ __forceinline__ float widened(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ __forceinline__ T rounded(acc_t<T> v) {
  return T(v);
}
template <>
__device__ __forceinline__ __half rounded<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

}  // namespace idgan
