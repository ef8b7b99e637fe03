// y = clamp(gain * act(x + b), -clamp, clamp) and its derivatives, on [outer, channels, inner], of any activation.
//
// First: dx = dy * act'(x + b) * gain, 0 where |gain * act(x + b)| >= clamp; db = the sum of dx over outer and inner.
// The y of leaky ReLU alone shows both. Second, of <dx, ddx> + <db, ddb> and with c = ddx + ddb:
// to_dy = c * act'(x + b) * gain and to_x = c * dy * act''(x + b) * gain, 0 where dx is; to_b = the sum of to_x.
// Mapping: units of about 8192 elements, see kernels.h, in runs of 64 vectors. Sums of a run and of a unit in float, of
// the units in double, in an order that does not depend on the number of threads. Bytes: each array once. Smooth
// activations take about 40 flops an element (the second derivative 60) and one division (two), for about as long as
// their bytes. Computed in float (double for double); values and first derivatives within 3.5 units in the last place,
// second ones within 5.
#pragma once

#include <type_traits>

#include "activations.h"
#include "pixels.h"

namespace {

// The passes, each on a vector of its inputs with the biases there; `run` returns what is summed for the bias.
template <class A, class Act>
struct Forward {
  static constexpr int kIn = 1, kOut = 1;
  using V = Vec<A>;
  Act act;
  A gain, clamp;

  V run(const V* in, V b, V, V* out) const {
    out[0] = clamped(act.value(in[0] + b) * gain, clamp);
    return V{};
  }
};

template <class A>
struct BackwardOfY {
  static constexpr int kIn = 2, kOut = 1;
  using V = Vec<A>;
  A slope, gain, sign, clamp;

  V run(const V* in, V, V, V* out) const { return out[0] = lrelu_backward(in[0], in[1], slope, gain, sign, clamp); }
};

template <class A, class Act>
struct Backward {
  static constexpr int kIn = 2, kOut = 1;
  using V = Vec<A>;
  Act act;
  A gain, clamp;

  V run(const V* in, V b, V, V* out) const {
    const V v = in[1] + b, d = in[0] * act.slope(v) * gain;
    return out[0] = clamp == clamp ? clamp_backward(d, gain * act.value(v), clamp) : d;
  }
};

template <class A, class Act>
struct Second {
  static constexpr int kIn = 3, kOut = 2;
  using V = Vec<A>;
  Act act;
  A gain, clamp;

  V run(const V* in, V b, V ddb, V* out) const {
    const V v = in[2] + b, c = (in[0] + ddb) * gain;
    out[0] = c * act.slope(v), out[1] = c * in[1] * act.curve(v);
    if (clamp == clamp) {
      const V y = gain * act.value(v);
      out[0] = clamp_backward(out[0], y, clamp), out[1] = clamp_backward(out[1], y, clamp);
    }
    return out[1];
  }
};

// The elements [start, stop) of a unit, in steps that meet the biases once; all of one row, or of row 0.
struct Span {
  int64_t row, start, stop, step;
};

inline Span span_of(const idgan::BiasAct& a, int64_t unit) {
  if (a.inner > 1) {
    const int64_t row = unit / a.blocks(), from = unit % a.blocks() * a.kBlock, n = smaller(a.inner - from, a.kBlock);
    return {row, row * a.inner + from, row * a.inner + from + n, n};
  }
  const int64_t start = unit * a.run();
  return {0, start, smaller(start + a.run(), a.outer * a.channels), a.pattern()};
}

// A pass over the units [begin, end). A run is so short that rounding errors of its sum stay as small as torch's.
template <class T, class P>
[[gnu::noinline]] void run_pass(P pass, const idgan::BiasAct& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  using V = Vec<A>;
  constexpr int L = LANES<A>, kRun = 64 * L;
  constexpr bool of_y = std::is_same_v<P, BackwardOfY<A>>;  // which reads no bias
  const int64_t step = a.inner > 1 ? 0 : 1;
  A bias_of_row[L] = {}, ddb_of_row[L] = {};
  const A* const biases = step == 0 ? bias_of_row : static_cast<const A*>(a.bias);
  const A* const ddbs = step == 0 ? ddb_of_row : static_cast<const A*>(a.ddb);
  for (int64_t unit = begin; unit < end; unit++) {
    const auto [row, start, stop, period] = span_of(a, unit);
    A* const sums = a.sums == nullptr ? nullptr : static_cast<A*>(a.sums) + unit * a.pattern();
    if (step == 0 && !of_y) {
      const int64_t channel = row % a.channels;
      store<A>(bias_of_row, splat<A>(static_cast<const A*>(a.bias)[channel]));
      store<A>(ddb_of_row, splat<A>(static_cast<const A*>(a.ddb)[channel]));
    }
    for (int64_t from = start; from < stop; from += period) {
      const int64_t count = smaller(period, stop - from);
      const T* in[P::kIn];  // copies, which no store to a result can change
      T* out[P::kOut];
      for (int k = 0; k < P::kIn; k++) in[k] = static_cast<const T*>(a.in[k]) + from;
      for (int k = 0; k < P::kOut; k++) out[k] = static_cast<T*>(a.out[k]) + from;
      for (int64_t i = 0; i < count;) {
        const int64_t end_of_run = smaller(i + kRun, count);
        V total{}, rest{};
        const auto one = [&](auto at) {
          V x[P::kIn], y[P::kOut];
          for (int k = 0; k < P::kIn; k++) x[k] = load_at(in[k] + i, at);
          const V d = pass.run(x, load_at(biases + i * step, at), load_at(ddbs + i * step, at), y);
          for (int k = 0; k < P::kOut; k++) store_at(out[k] + i, y[k], at);
          if (P::kIn == 1) return;
          if (step == 0) (at.lanes == L ? total : rest) += d;
          else if (sums != nullptr) store_at(sums + i, load_at(sums + i, at) + d, at);
        };
        for (; i + L <= end_of_run; i += L) one(At<true>{0, 0, 0, L});
        const int64_t lanes = end_of_run - i;
        if (lanes > 0) one(At<false>{0, 0, 0, lanes});
        i = end_of_run;
        if (P::kIn == 1 || sums == nullptr || step == 1) continue;
        *sums += sum_of<A>(total);
        if (lanes > 0 && of_y) *sums += sum_of<A>(rest);
        for (int64_t l = 0; l < lanes && !of_y; l++) *sums += rest[l];
      }
    }
  }
}

void bias_act(const idgan::BiasAct& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) {
    using T = decltype(element);
    using A = acc_t<T>;
    const A gain = A(a.gain), sign = a.gain > 0 ? 1 : -1, clamp = A(a.clamp);
    if (a.pass == idgan::kBackwardOfY)
      return run_pass<T>(BackwardOfY<A>{A(a.alpha), gain, sign, clamp}, a, begin, end);
    with_activation<A>(a, [&](const auto& act) {
      if (a.pass == idgan::kForward) run_pass<T>(Forward{act, gain, clamp}, a, begin, end);
      if (a.pass == idgan::kBackward) run_pass<T>(Backward{act, gain, clamp}, a, begin, end);
      if (a.pass == idgan::kSecond) run_pass<T>(Second{act, gain, clamp}, a, begin, end);
    });
  });
}

}  // namespace
