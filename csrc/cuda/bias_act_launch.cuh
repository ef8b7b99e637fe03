// Which of bias_act.cuh's kernels a call launches, and on how many blocks. No torch.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <type_traits>

#include "bias_act.cuh"

namespace idgan {

constexpr int64_t kPart = int64_t(1) << 30;  // elements that a kernel of 32-bit indices is given

inline bool smooth(Activation act) { return act > kLrelu; }

// The numbers of a call as the kernels take them.
template <class A>
Numbers<A> numbers_of(const BiasActCall& a) {
  const double slope = a.act == kLinear ? 1 : a.act == kRelu ? 0 : a.alpha;
  return {A(slope), A(a.gain), A(a.clamp), a.act};
}

template <class T, class OP>
Arrays<T, OP> arrays_of(const BiasActCall& a, int64_t at = 0, int64_t channel = 0) {
  using A = acc_t<T>;
  Arrays<T, OP> arrays{};
  for (int k = 0; k < OP::kIn; k++) arrays.in[k] = static_cast<const T*>(a.in[k]) + at;
  for (int k = 0; k < OP::kOut; k++) arrays.out[k] = static_cast<T*>(a.out[k]) + at;
  arrays.b = a.b ? static_cast<const A*>(a.b) + channel : nullptr;
  arrays.ddb = a.ddb ? static_cast<const A*>(a.ddb) + channel : nullptr;
  return arrays;
}

template <class T, class OP>
bool aligned(const Arrays<T, OP>& arrays) {
  uintptr_t all = 0;
  for (const T* p : arrays.in) all |= reinterpret_cast<uintptr_t>(p);
  for (const T* p : arrays.out) all |= reinterpret_cast<uintptr_t>(p);
  return all % 16 == 0;
}

// Calls f(offset, outer, channels, inner, first channel) for parts of at most kPart elements.
template <class F>
void in_parts(int64_t outer, int64_t channels, int64_t inner, bool biased, F&& f) {
  if (!biased) outer *= channels * inner, channels = 1, inner = 1;
  const int64_t sample = channels * inner;
  if (sample <= kPart) {
    int64_t samples = kPart / sample;
    if (samples >= 16) samples = samples / 16 * 16;  // so that parts begin at multiples of 16 bytes
    for (int64_t n = 0; n < outer; n += samples)
      f(n * sample, std::min(samples, outer - n), channels, inner, int64_t(0));
    return;
  }
  for (int64_t row = 0; row < outer * channels; row++)
    for (int64_t i = 0; i < inner; i += kPart)
      f(row * inner + i, int64_t(1), int64_t(1), std::min(kPart, inner - i), row % channels);
}

template <class T, class OP>
void without_sums(const BiasActCall& a, cudaStream_t stream) {
  using A = acc_t<T>;
  const auto numbers = numbers_of<A>(a);
  const auto part = [&](int64_t at, int64_t outer, int64_t channels, int64_t inner, int64_t channel) {
    const auto arrays = arrays_of<T, OP>(a, at, channel);
    const bool wide = aligned(arrays);
    const uint32_t count = uint32_t(outer * channels * inner);
    const int64_t blocks = ceil_div<int64_t>(ceil_div<int64_t>(count, wide ? kVector<T> : 1), kThreads);
    const dim3 grid(uint32_t(std::min<int64_t>(blocks, int64_t(a.num_sms) * kBlocksPerSm)));
    const auto kernel = wide ? pointwise_kernel<T, OP, kVector<T>> : pointwise_kernel<T, OP, 1>;
    const bool vectors = inner == 1 && channels % kVector<T> == 0 && at_16_bytes(arrays.b) && at_16_bytes(arrays.ddb);
    const Channels by{Divisor(uint32_t(inner)), Divisor(uint32_t(channels)), vectors};
    LAUNCH(kernel, grid, dim3(kThreads), stream, arrays, count, by, numbers);
  };
  in_parts(a.outer, a.channels, a.inner, a.b || a.ddb, part);
}

// How a pass with sums is divided. rows: blocks of the first stage, each of which writes a row of sums.
struct Division {
  int64_t rows, piece;  // piece: elements of a row of pixels, or rows of channels, that a block takes
  uint32_t pieces;      // of a row of pixels
  int log_p, log_x;     // threads of a row of pixels, or along channels
  bool by_vectors;  // the channels
};

inline Division divided(const BiasActCall& a, int vector) {
  Division d{};
  const int64_t wanted = int64_t(a.num_sms) * kBlocksPerSm;
  if (a.inner > 1) {
    const int64_t least = int64_t(kThreads) * vector * 4, rows = a.outer * a.channels;
    const int64_t pieces = std::clamp<int64_t>(wanted / rows, 1, std::max<int64_t>(a.inner / least, 1));
    d.piece = ceil_div(ceil_div(a.inner, pieces), int64_t(vector)) * vector;
    d.pieces = uint32_t(ceil_div(a.inner, d.piece));
    d.rows = a.outer * d.pieces;
    d.log_p = std::min(log2_up(ceil_div(a.inner, int64_t(vector))), log2_up(kThreads));
    return d;
  }
  d.by_vectors = a.channels % vector == 0;
  const int64_t columns = d.by_vectors ? a.channels / vector : a.channels;
  d.log_x = std::min(log2_up(columns), 5);
  const int64_t at_once = kThreads >> d.log_x, across = ceil_div(columns, int64_t(1) << d.log_x);
  const int64_t blocks = std::clamp<int64_t>(wanted / across, 1, ceil_div(a.outer, at_once * 4));
  d.piece = ceil_div(a.outer, blocks);
  d.rows = ceil_div(a.outer, d.piece);
  return d;
}

template <class T, class OP>
void with_sums(const BiasActCall& a, cudaStream_t stream) {
  using A = acc_t<T>;
  const auto numbers = numbers_of<A>(a);
  const auto arrays = arrays_of<T, OP>(a);
  A* table = static_cast<A*>(a.table);
  const bool wide = aligned(arrays);
  const Division d = divided(a, kVector<T>);
  const uint32_t channels = uint32_t(a.channels);
  if (a.inner > 1) {
    const int64_t rows = a.outer * a.channels, blocks = ceil_div<int64_t>(rows, kThreads >> d.log_p) * d.pieces;
    if (std::max(rows, blocks) > kMaxGrid)
      throw std::runtime_error("bias_act: at most 2^31 rows of pixels have a bias gradient");
    const auto kernel = wide ? rows_kernel<T, OP, kVector<T>> : rows_kernel<T, OP, 1>;
    LAUNCH(kernel, dim3(uint32_t(blocks)), dim3(kThreads), stream, arrays, table, a.inner, rows, d.log_p, d.piece,
           d.pieces, Divisor(channels), numbers);
  } else {
    const bool vectors = wide && d.by_vectors;
    const int64_t columns = vectors ? a.channels / kVector<T> : a.channels;
    const dim3 grid(uint32_t(ceil_div(columns, int64_t(1) << d.log_x)), uint32_t(d.rows));  // d.rows: few
    const auto kernel = vectors ? columns_kernel<T, OP, kVector<T>> : columns_kernel<T, OP, 1>;
    LAUNCH(kernel, grid, dim3(kThreads), stream, arrays, table, a.outer, channels, d.log_x, d.piece, numbers);
  }
  add_rows<A>(table, static_cast<A*>(a.sums), 1, d.rows, a.channels, stream);
}

}  // namespace idgan
