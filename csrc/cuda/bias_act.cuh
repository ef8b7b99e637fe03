// y = clamp(gain act(x + b)), its gradient and that of the gradient, with the sums for the bias in the same pass.
//
// Dense arrays [outer, channels, inner] of float16, bfloat16, float32 or float64; biases [channels] in the type of the
// arithmetic, float32 for the half types. NCHW has inner = H W, channels_last inner = 1. Without sums a thread takes
// 16 bytes of each array in strides of the whole grid; the channel is found by two multiplications for each 16 bytes,
// and counted on. With sums, of inner > 1 a block takes a piece of a row of one channel; of inner = 1 a thread keeps 16
// bytes of channels and goes down rows. Each block writes its sums to a table [blocks, channels], which a second kernel
// adds up: two stages, in a fixed order.
// Bytes: every array once. Operations: 6 (piecewise linear) to 40 an element. Source: Karras et al., arXiv 1912.04958.
#pragma once

#include "activations.cuh"
#include "divide.cuh"
#include "sums.cuh"

namespace idgan {

constexpr int kThreads = 256;
// Blocks that a multiprocessor holds at once, at least: a thread may have 64 registers, of float64 80.
template <class T>
constexpr int kResident = sizeof(T) == 8 ? 3 : 4;

template <class A>
struct Numbers {
  A alpha, gain, clamp;  // alpha: the slope below 0 of a piecewise linear activation; clamp: NaN for none
  Activation act;        // of the smooth ones
};

// The operations, each from the numbers of its inputs at one place and the biases there; `sum` is what is summed.
// With v = x + b: forward y(x).
template <bool SMOOTH>
struct Forward {
  static constexpr int kIn = 1, kOut = 1;
  template <class A>
  static __device__ __forceinline__ A run(const A* in, A b, A, const Numbers<A>& n, A* out) {
    out[0] = clamped(activated<SMOOTH>(in[0] + b, n.act, n.alpha) * n.gain, n.clamp);
    return 0;
  }
};

// dx(dy, y) of a piecewise linear activation of slope 0 or more: y shows the sign of v.
struct BackwardOfY {
  static constexpr int kIn = 2, kOut = 1;
  template <class A>
  static __device__ __forceinline__ A run(const A* in, A, A, const Numbers<A>& n, A* out) {
    A g = in[0] * n.gain;
    if (!((n.gain > 0 ? in[1] : -in[1]) > 0)) g *= n.alpha;  // of NaN too, as torch does
    return out[0] = clamp_backward(g, in[1], n.clamp);
  }
};

// dx(dy, x) of any activation.
template <bool SMOOTH>
struct Backward {
  static constexpr int kIn = 2, kOut = 1;
  template <class A>
  static __device__ __forceinline__ A run(const A* in, A b, A, const Numbers<A>& n, A* out) {
    const A v = in[1] + b, y = activated<SMOOTH>(v, n.act, n.alpha) * n.gain;
    return out[0] = clamp_backward(in[0] * n.gain * first_derivative<SMOOTH>(v, n.act, n.alpha), y, n.clamp);
  }
};

// The gradients of <dx, ddx> + <db, ddb> by dy and by x, of (ddx, dy, x).
template <bool SMOOTH>
struct Second {
  static constexpr int kIn = 3, kOut = 2;
  template <class A>
  static __device__ __forceinline__ A run(const A* in, A b, A ddb, const Numbers<A>& n, A* out) {
    const A v = in[2] + b, y = activated<SMOOTH>(v, n.act, n.alpha) * n.gain, c = (in[0] + ddb) * n.gain;
    out[0] = clamp_backward(c * first_derivative<SMOOTH>(v, n.act, n.alpha), y, n.clamp);
    return out[1] = clamp_backward(c * in[1] * second_derivative<SMOOTH>(v, n.act), y, n.clamp);
  }
};

template <class T, class OP>
struct Arrays {
  const T* in[OP::kIn];
  T* out[OP::kOut];
  const acc_t<T>*b, *ddb;  // or null
};

// The operation on N numbers of each array from `at` on, with their biases; adds what is summed to totals.
template <class T, class OP, int N>
__device__ __forceinline__ void apply(const Arrays<T, OP>& arrays, int64_t at, const Vec<acc_t<T>, N>& b,
                                      const Vec<acc_t<T>, N>& ddb, const Numbers<acc_t<T>>& numbers,
                                      Vec<acc_t<T>, N>& totals) {
  using A = acc_t<T>;
  Vec<T, N> in[OP::kIn], out[OP::kOut];
#pragma unroll
  for (int k = 0; k < OP::kIn; k++) in[k] = load<N>(arrays.in[k] + at);
#pragma unroll
  for (int j = 0; j < N; j++) {
    A of_in[OP::kIn], of_out[OP::kOut];
#pragma unroll
    for (int k = 0; k < OP::kIn; k++) of_in[k] = widened(in[k].at[j]);
    totals.at[j] += OP::run(of_in, b.at[j], ddb.at[j], numbers, of_out);
#pragma unroll
    for (int k = 0; k < OP::kOut; k++) out[k].at[j] = rounded<T>(of_out[k]);
  }
#pragma unroll
  for (int k = 0; k < OP::kOut; k++) store(arrays.out[k] + at, out[k]);
}

template <int N, class A>
__device__ __forceinline__ Vec<A, N> repeated(A v) {
  Vec<A, N> all;
#pragma unroll
  for (int j = 0; j < N; j++) all.at[j] = v;
  return all;
}

// How pointwise_kernel finds the channel of an element.
struct Channels {
  Divisor by_inner, by_channels;
  bool in_vectors;  // inner = 1, N divides their number, and the biases lie at multiples of 16 bytes
};

// The biases of the N elements from `first` on; -0 where there are none, since x + -0 = x for every x.
template <int N, class A>
__device__ __forceinline__ Vec<A, N> biases(const A* b, uint32_t first, const Channels& channels) {
  if (!b) return repeated<N>(A(-0.0));
  const uint32_t inner = channels.by_inner.by, row = channels.by_inner.quotient(first);
  uint32_t within = first - row * inner, c = row - channels.by_channels.quotient(row) * channels.by_channels.by;
  if (N > 1 && channels.in_vectors) return load_pieces<N>(b + c);
  Vec<A, N> found;
  A bias = b[c];
#pragma unroll
  for (int j = 0; j < N; j++) {
    found.at[j] = bias;
    if (++within == inner && j + 1 < N) {
      within = 0, c = c + 1 == channels.by_channels.by ? 0 : c + 1;
      bias = b[c];
    }
  }
  return found;
}

// A part of at most 2^31 elements, which begins with channel 0.
template <class T, class OP, int N>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    pointwise_kernel(Arrays<T, OP> arrays, uint32_t count, Channels channels, Numbers<acc_t<T>> numbers) {
  using A = acc_t<T>;
  const uint32_t vectors = count / N, step = gridDim.x * kThreads, me = blockIdx.x * kThreads + threadIdx.x;
  Vec<A, N> sums = repeated<N>(A(0));
  for (uint32_t i = me; i < vectors; i += step)
    apply<T, OP, N>(arrays, i * N, biases<N>(arrays.b, i * N, channels), biases<N>(arrays.ddb, i * N, channels),
                    numbers, sums);
  const uint32_t i = vectors * N + me;  // the rest
  if (N > 1 && i < count) {
    Vec<A, 1> sum = repeated<1>(A(0));
    apply<T, OP, 1>(arrays, i, biases<1>(arrays.b, i, channels), biases<1>(arrays.ddb, i, channels), numbers, sum);
  }
}

// inner > 1. 2^log_p threads take `piece` elements of a row [inner] of one channel, up to multiples of N one by one; a
// block has as many rows as it has room for. table: [outer, pieces of a row, channels].
template <class T, class OP, int N>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    rows_kernel(Arrays<T, OP> arrays, acc_t<T>* table, int64_t inner, int64_t rows, int log_p, int64_t piece,
                uint32_t pieces, Divisor by_channels, Numbers<acc_t<T>> numbers) {
  using A = acc_t<T>;
  __shared__ Vec<A, 1> parts[kThreads];
  const uint32_t block = blockIdx.x / pieces, which = blockIdx.x - block * pieces, of_row = 1u << log_p;
  const int64_t mine = int64_t(block) * (kThreads >> log_p) + (threadIdx.x >> log_p), me = threadIdx.x & (of_row - 1);
  const bool there = mine < rows;
  const uint32_t row = there ? uint32_t(mine) : 0, sample = by_channels.quotient(row),
                 c = row - sample * by_channels.by;
  const int64_t begin = int64_t(row) * inner + which * piece;
  const int64_t end = there ? int64_t(row) * inner + (which + 1 == pieces ? inner : (which + 1) * piece) : begin;
  const A b = arrays.b ? arrays.b[c] : A(-0.0), ddb = arrays.ddb ? arrays.ddb[c] : A(-0.0);
  Vec<A, N> totals = repeated<N>(A(0));
  Vec<A, 1> total = repeated<1>(A(0));
  const int64_t first = min((begin + N - 1) / N * N, end), last = max(end / N * N, first);
  const auto one = [&](int64_t i) { apply<T, OP, 1>(arrays, i, repeated<1>(b), repeated<1>(ddb), numbers, total); };
  for (int64_t i = begin + me; i < first; i += of_row) one(i);
  for (int64_t i = first + me * N; i < last; i += of_row * N)
    apply<T, OP, N>(arrays, i, repeated<N>(b), repeated<N>(ddb), numbers, totals);
  for (int64_t i = last + me; i < end; i += of_row) one(i);
#pragma unroll
  for (int j = 0; j < N; j++) total.at[0] += totals.at[j];
  total = group_sum(total, parts, 0, log_p);
  if (there && me == 0) table[(int64_t(sample) * pieces + which) * by_channels.by + c] = total.at[0];
}

// inner = 1. A block has threads for 2^log_x times N channels and the rest of them for rows, of which it takes
// `rows_of_block`; table: [blocks of rows, channels]. N divides the number of channels.
template <class T, class OP, int N>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    columns_kernel(Arrays<T, OP> arrays, acc_t<T>* table, int64_t rows, uint32_t channels, int log_x,
                   int64_t rows_of_block, Numbers<acc_t<T>> numbers) {
  using A = acc_t<T>;
  __shared__ A parts[N][kThreads];
  const uint32_t x = threadIdx.x & ((1u << log_x) - 1), y = threadIdx.x >> log_x, rows_at_once = kThreads >> log_x;
  const uint32_t c = ((blockIdx.x << log_x) + x) * N;
  Vec<A, N> totals = repeated<N>(A(0)), b = repeated<N>(A(-0.0)), ddb = b;
  const int64_t first = blockIdx.y * rows_of_block, last = min(first + rows_of_block, rows);
  if (c < channels) {
#pragma unroll
    for (int j = 0; j < N; j++) {
      if (arrays.b) b.at[j] = arrays.b[c + j];
      if (arrays.ddb) ddb.at[j] = arrays.ddb[c + j];
    }
    for (int64_t row = first + y; row < last; row += rows_at_once)
      apply<T, OP, N>(arrays, row * channels + c, b, ddb, numbers, totals);
  }
#pragma unroll
  for (int j = 0; j < N; j++) parts[j][threadIdx.x] = totals.at[j];
  __syncthreads();
  if (y == 0 && c < channels) {
    for (uint32_t i = 1; i < rows_at_once; i++)
#pragma unroll
      for (int j = 0; j < N; j++) totals.at[j] += parts[j][(i << log_x) + x];
#pragma unroll
    for (int j = 0; j < N; j++) table[int64_t(blockIdx.y) * channels + c + j] = totals.at[j];
  }
}

}  // namespace idgan
