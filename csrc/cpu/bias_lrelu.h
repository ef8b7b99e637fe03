// y = clamp(gain * lrelu(x + b), -clamp, clamp) and its gradients, on [outer, channels, inner].
//
// dx = dy * gain * (1 or slope, by the sign of y), 0 where |y| >= clamp; db = the sum of dx over outer and inner.
// Mapping: units of about 8192 elements, see kernels.h; sums of a unit in float, of the units in double, in an order
// that does not depend on the number of threads. Bytes: forward one read, one write; backward two reads, one write.
// A handful of flops an element: bound by memory. Computed in float (double for double).
#pragma once

#include "spans.h"
#include "vec.h"

namespace {

template <class V, class A>
inline V lrelu_forward(V x, V b, A slope, A gain, A clamp) {
  const V v = x + b, zero{};
  const V below = slope == 0 ? (v != v ? v : zero) : v * slope;  // relu of -inf is 0, the product would be NaN
  return clamped((v > 0 ? v : below) * gain, clamp);
}

template <class V, class A>
inline V lrelu_backward(V dy, V y, A slope, A gain, A sign, A clamp) {
  dy *= gain;
  const V dx = y * sign > 0 ? dy : dy * slope;
  const V zero = V{};
  return y >= clamp ? zero : y <= -clamp ? zero : dx;
}

template <class T>
void bias_lrelu_fwd_of(const idgan::BiasLrelu& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  constexpr int L = LANES<A>;
  const A slope = A(a.slope), gain = A(a.gain), clamp = A(a.clamp);
  const A* bias = static_cast<const A*>(a.bias);
  const bool rows = a.inner > 1;
  for (int64_t unit = begin; unit < end; unit++) {
    const auto [row, start, stop, step] = span_of(a, unit);
    const A b = rows ? bias[row % a.channels] : A(0);
    for (int64_t from = start; from < stop; from += step) {
      const int64_t n = stop - from < step ? stop - from : step;
      const T* x = static_cast<const T*>(a.in) + from;
      T* y = static_cast<T*>(a.out) + from;
      int64_t i = 0;
      if (rows) {
        for (; i + L <= n; i += L)
          store_narrow(y + i, lrelu_forward(load_wide(x + i), splat<A>(b), slope, gain, clamp));
        for (; i < n; i++) narrow(lrelu_forward(widen(x[i]), b, slope, gain, clamp), y + i);
      } else {
        for (; i + L <= n; i += L)
          store_narrow(y + i, lrelu_forward(load_wide(x + i), load<A>(bias + i), slope, gain, clamp));
        for (; i < n; i++) narrow(lrelu_forward(widen(x[i]), bias[i], slope, gain, clamp), y + i);
      }
    }
  }
}

template <class T>
void bias_lrelu_bwd_of(const idgan::BiasLrelu& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  constexpr int L = LANES<A>;
  const A slope = A(a.slope), gain = A(a.gain), clamp = A(a.clamp), sign = gain > 0 ? 1 : -1;
  const bool rows = a.inner > 1;
  A* sums = static_cast<A*>(a.sums);
  for (int64_t unit = begin; unit < end; unit++) {
    const auto [row, start, stop, step] = span_of(a, unit);
    A* sum = sums + unit * a.pattern();
    if (sums != nullptr)
      for (int64_t i = 0; i < a.pattern(); i++) sum[i] = 0;
    for (int64_t from = start; from < stop; from += step) {
      const int64_t n = stop - from < step ? stop - from : step;
      const T* dy = static_cast<const T*>(a.in) + from;
      const T* y = static_cast<const T*>(a.saved) + from;
      T* dx = static_cast<T*>(a.out) + from;
      int64_t i = 0;
      if (sums == nullptr) {
        for (; i + L <= n; i += L)
          store_narrow(dx + i, lrelu_backward(load_wide(dy + i), load_wide(y + i), slope, gain, sign, clamp));
        for (; i < n; i++) narrow(lrelu_backward(widen(dy[i]), widen(y[i]), slope, gain, sign, clamp), dx + i);
      } else if (rows) {
        A rest = 0;
        while (i + L <= n) {  // in two levels, so that rounding errors stay as small as torch's
          Vec<A> total{};
          for (int64_t end = i + 64 * L; i + L <= n && i < end; i += L) {
            const Vec<A> v = lrelu_backward(load_wide(dy + i), load_wide(y + i), slope, gain, sign, clamp);
            total += v;
            store_narrow(dx + i, v);
          }
          sum[0] += sum_of<A>(total);
        }
        for (; i < n; i++) {
          const A v = lrelu_backward(widen(dy[i]), widen(y[i]), slope, gain, sign, clamp);
          rest += v;
          narrow(v, dx + i);
        }
        sum[0] += rest;
      } else {
        for (; i + L <= n; i += L) {
          const Vec<A> v = lrelu_backward(load_wide(dy + i), load_wide(y + i), slope, gain, sign, clamp);
          store<A>(sum + i, load<A>(sum + i) + v);
          store_narrow(dx + i, v);
        }
        for (; i < n; i++) {
          const A v = lrelu_backward(widen(dy[i]), widen(y[i]), slope, gain, sign, clamp);
          sum[i] += v;
          narrow(v, dx + i);
        }
      }
    }
  }
}

void bias_lrelu_fwd(const idgan::BiasLrelu& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) { bias_lrelu_fwd_of<decltype(element)>(a, begin, end); });
}

void bias_lrelu_bwd(const idgan::BiasLrelu& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) { bias_lrelu_bwd_of<decltype(element)>(a, begin, end); });
}

}  // namespace
