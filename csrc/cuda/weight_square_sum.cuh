// square_sum[o, i] = the sum over k of weight[o, i, k]^2: what demodulation needs of a weight.
//
// weight [O, I, taps], or [O, taps, I] if it is channels_last, of float16, bfloat16, float32 or float64; square_sum [O, I]
// in the type of the arithmetic, float32 for the half types. Where channels lie side by side, a thread has 16 bytes of
// them and goes through the taps. Where taps do, a block reads the taps of up to 256 kernels by 16 bytes, whatever the
// number of taps, and lays their squares into shared memory, from which a thread sums a kernel. Bytes: weight and
// square_sum once. Operations: 2 a number. Sums tap after tap. Source: Karras et al., arXiv 1912.04958, equation 3.
#pragma once

#include "vector.cuh"

namespace idgan {

constexpr int kSquareSumThreads = 256;
constexpr int kSquareSumTile = 4096;  // squares that a block lays into shared memory

template <class T, int N>
__device__ __forceinline__ Vec<acc_t<T>, N> squared(const Vec<T, N>& v) {
  Vec<acc_t<T>, N> squares;
#pragma unroll
  for (int j = 0; j < N; j++) squares.at[j] = widened(v.at[j]) * widened(v.at[j]);
  return squares;
}

// weight [rows, taps, channels]. A thread has N channels of a row; neighbors have neighbors. N divides `channels`.
// Also taps side by side, [rows, taps] with channels = 1: then a thread has a kernel.
template <class T, int N>
__global__ void __launch_bounds__(kSquareSumThreads, 4)
    square_sum_of_channels_kernel(const T* weight, acc_t<T>* square_sum, int64_t rows, int64_t taps, int64_t channels) {
  using A = acc_t<T>;
  const int64_t vector = int64_t(blockIdx.x) * kSquareSumThreads + threadIdx.x, of_row = channels / N;
  if (vector >= rows * of_row) return;
  const int64_t row = vector / of_row, c = (vector - row * of_row) * N;
  const T* const from = weight + row * taps * channels + c;
  Vec<A, N> sum = squared(load<N>(from));
  for (int64_t k = 1; k < taps; k++) {
    const auto squares = squared(load<N>(from + k * channels));
#pragma unroll
    for (int j = 0; j < N; j++) sum.at[j] += squares.at[j];
  }
  store_pieces(square_sum + vector * N, sum);
}

// weight [count, taps]. A block has `kernels` of them, kSquareSumTile numbers at most; of N > 1 a multiple of N.
template <class T, int N>
__global__ void __launch_bounds__(kSquareSumThreads, 4)
    square_sum_of_taps_kernel(const T* weight, acc_t<T>* square_sum, int64_t count, uint32_t taps, uint32_t kernels) {
  using A = acc_t<T>;
  __shared__ Vec<A, N> tile[kSquareSumTile / N];
  A* const squares = reinterpret_cast<A*>(tile);
  const int64_t first = int64_t(blockIdx.x) * kernels;
  const uint32_t here = uint32_t(min(int64_t(kernels), count - first)), numbers = here * taps, vectors = numbers / N;
  const T* const from = weight + first * taps;
  for (uint32_t i = threadIdx.x; i < vectors; i += kSquareSumThreads) tile[i] = squared(load<N>(from + i * N));
  const uint32_t rest = vectors * N + threadIdx.x;
  if (rest < numbers) squares[rest] = squared(load<1>(from + rest)).at[0];
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < here; i += kSquareSumThreads) {
    const A* const mine = squares + i * taps;
    A sum = mine[0];
    for (uint32_t k = 1; k < taps; k++) sum += mine[k];
    square_sum[first + i] = sum;
  }
}

}  // namespace idgan
