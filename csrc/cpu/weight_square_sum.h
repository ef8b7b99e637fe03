// square_sum[o, i] = the sum over k of weight[o, i, k]^2: what demodulation needs of a weight.
//
// Mapping: a unit is a block of kernels [o, i]. Where the taps of a kernel lie side by side, each kernel is summed into
// one vector, and as many vectors as lanes become one vector of sums by halves. Of a channels_last weight, where
// channels do, vectors are of channels. Bytes: the weight once. Flops a tap: 2; of a contiguous weight three shuffles
// and additions a kernel. Accumulation in float (double for double).
#pragma once

#include "kernels.h"
#include "rows.h"

namespace {

// The sums of N vectors, side by side in the lanes: N is the number of lanes.
template <class A, int N>
inline Vec<A> sums_of(Vec<A>* v) {
  if constexpr (N > 1) {
    for (int i = 0; i < N / 2; i++) {
      Vec<A> even, odd;
      deinterleave<A>(v[2 * i], v[2 * i + 1], even, odd);
      v[i] = even + odd;
    }
    return sums_of<A, N / 2>(v);
  } else {
    return v[0];
  }
}

// The squares of n taps, summed in lanes.
template <class T>
inline Vec<acc_t<T>> squares_of(const T* taps, int64_t n) {
  constexpr int L = LANES<acc_t<T>>;
  Vec<acc_t<T>> sum{};
  int64_t k = 0;
  for (; k + L <= n; k += L) sum += load_wide(taps + k) * load_wide(taps + k);
  if (k == n) return sum;
  const Vec<acc_t<T>> v = first(taps + k, n - k);
  return sum + v * v;
}

template <class T>
void contiguous_square_sum(const T* weight, acc_t<T>* out, int64_t taps, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  constexpr int L = LANES<A>;
  for (int64_t from = begin; from < end; from += L) {
    const int64_t n = smaller(L, end - from);
    Vec<A> sums[L] = {};
    if (n == L) {  // unrolled, so that the sums stay in registers
#pragma GCC unroll 16
      for (int i = 0; i < L; i++) sums[i] = squares_of(weight + (from + i) * taps, taps);
    } else {
      for (int64_t i = 0; i < n; i++) sums[i] = squares_of(weight + (from + i) * taps, taps);
    }
    store_some(out + from, sums_of<A, L>(sums), n);
  }
}

// Of n channels of one o; tap after tap, so that memory is read in its order.
template <class T>
void channels_last_square_sum(const T* weight, acc_t<T>* out, int64_t taps, int64_t channels, int64_t n) {
  constexpr int L = LANES<acc_t<T>>;
  for (int64_t k = 0; k < taps; k++) {
    for (int64_t i = 0; i < n; i += L) {
      const Vec<acc_t<T>> v = load_some(weight + k * channels + i, n - i), sum = v * v;
      store_some(out + i, k == 0 ? sum : sum + load_some(out + i, n - i), n - i);
    }
  }
}

template <class T>
void weight_square_sum_of(const idgan::WeightSquareSum& a, int64_t begin, int64_t end) {
  const T* const weight = static_cast<const T*>(a.weight);
  acc_t<T>* const out = static_cast<acc_t<T>*>(a.out);
  const int64_t last = smaller(end * a.kBlock, a.count);
  begin *= a.kBlock;
  if (!a.channels_last) return contiguous_square_sum(weight, out, a.taps, begin, last);
  while (begin < last) {
    const int64_t o = begin / a.channels, i = begin % a.channels, n = smaller(a.channels - i, last - begin);
    channels_last_square_sum(weight + o * a.taps * a.channels + i, out + begin, a.taps, a.channels, n);
    begin += n;
  }
}

void weight_square_sum(const idgan::WeightSquareSum& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) { weight_square_sum_of<decltype(element)>(a, begin, end); });
}

}  // namespace
