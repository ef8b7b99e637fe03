// y = clamp(gain * act(x + b), -clamp, clamp) and its gradients, on [outer, channels, inner], of any activation.
//
// dx = dy * act'(x + b) * gain, 0 where |gain * act(x + b)| >= clamp; db = the sum of dx over outer and inner.
// Mapping: units of about 8192 elements, see kernels.h, in blocks of whole vectors; what is left of a row is copied
// into one vector. Sums of a block and of a unit in float, of the units in double, in an order that does not depend on
// the number of threads. Bytes: forward one read, one write; backward two reads, one write. About 40 flops an element
// and one division, for about as long as its bytes. Computed in float (double for double); values and derivatives
// within 3.5 units in the last place.
#pragma once

#include "spans.h"
#include "vmath.h"

namespace {

// --- activations: of a vector v, the value and the derivative ---

// linear, relu, lrelu. Of -inf relu is 0 and lrelu of slope 0 is NaN, as in torch.
template <class A>
struct Piecewise {
  using V = Vec<A>;
  A below;
  bool relu;

  V value(V v) const { return v > 0 ? v : relu ? (v != v ? v : V{}) : v * below; }
  V slope(V v) const { return v > 0 ? splat<A>(1) : splat<A>(below); }
};

// elu, selu
template <class A>
struct Elu {
  using V = Vec<A>;
  A above, below;

  V value(V v) const { return v >= 0 ? v * above : expm1_below<A>(v) * below; }
  V slope(V v) const { return v > 0 ? splat<A>(above) : exp_below<A>(v > 0 ? V{} : v) * below; }
};

// sigmoid(v) is 1 / (1 + e) or e / (1 + e) with e = e^-|v|, by the sign of v, and sigmoid(-v) the other.
template <class A>
struct Logistic {
  using V = Vec<A>;
  V e, sum, square;  // square: (1 + e)^2, rounded once where e is small

  explicit Logistic(V v) : e(exp_below<A>(-magnitude<A>(v))), sum(1 + e), square(1 + e * (2 + e)) {}
};

template <class A>
struct Sigmoid {
  using V = Vec<A>;

  V value(V v) const {
    const Logistic<A> s(v);
    return (v >= 0 ? splat<A>(1) : s.e) / s.sum;
  }
  V slope(V v) const {
    const Logistic<A> s(v);
    return s.e / s.square;
  }
};

// |tanh v| = |m| / (2 + m) with m = e^-2|v| - 1; tanh' = 1 - tanh^2 = 4 sigmoid(2 v) sigmoid(-2 v)
template <class A>
struct Tanh {
  using V = Vec<A>;

  V value(V v) const {
    const V m = expm1_below<A>(magnitude<A>(v) * -2);
    return with_sign_of<A>(v, m / (2 + m));
  }
  V slope(V v) const { return 4 * Sigmoid<A>().slope(2 * v); }
};

// log(1 + e^v) = max(v, 0) + log(1 + e^-|v|); v itself above 20, as in torch.
template <class A>
struct Softplus {
  using V = Vec<A>;

  V value(V v) const {
    const V rest = log1p_unit<A>(exp_below<A>(-magnitude<A>(v)));
    return v > 20 ? v : v > 0 ? v + rest : rest;
  }
  V slope(V v) const { return Sigmoid<A>().value(v); }
};

// v sigmoid(v), and its derivative sigmoid(v) (1 + v sigmoid(-v))
template <class A>
struct Swish {
  using V = Vec<A>;

  V value(V v) const {
    const Logistic<A> s(v);
    return (v >= 0 ? v : v * s.e) / s.sum;
  }
  V slope(V v) const {
    const Logistic<A> s(v);
    const V one = splat<A>(1), here = v >= 0 ? one : s.e, opposite = v >= 0 ? s.e : one;
    return here * (s.sum + v * opposite) / s.square;
  }
};

template <class A, class F>
inline void with_activation(const idgan::BiasAct& a, const F& f) {
  const double scale = 1.0507009873554805, alpha = 1.6732632423543772;
  switch (a.act) {
    case idgan::kLinear: return f(Piecewise<A>{1, false});
    case idgan::kRelu: return f(Piecewise<A>{0, true});
    case idgan::kLrelu: return f(Piecewise<A>{A(a.alpha), false});
    case idgan::kTanh: return f(Tanh<A>{});
    case idgan::kSigmoid: return f(Sigmoid<A>{});
    case idgan::kElu: return f(Elu<A>{1, 1});
    case idgan::kSelu: return f(Elu<A>{A(scale), A(scale * alpha)});
    case idgan::kSoftplus: return f(Softplus<A>{});
    case idgan::kSwish: return f(Swish<A>{});
  }
}

// --- n elements, a number of whole vectors ---

// The biases are `bias` [n] if step is 1, and `bias` [LANES] for each vector if it is 0.
template <class T, class Act, class A>
[[gnu::noinline]] void forward_block(const Act& act, A gain, A clamp, const T* x, const A* bias, int64_t step, T* y,
                                     int64_t n) {
  for (int64_t i = 0; i < n; i += LANES<A>)
    store_narrow(y + i, clamped(act.value(load_wide(x + i) + load<A>(bias + i * step)) * gain, clamp));
}

// Adds dx to `sums`, of as many elements as `bias`, if it is not null.
template <class T, class Act, class A>
[[gnu::noinline]] void backward_block(const Act& act, A gain, A clamp, const T* dy, const T* x, const A* bias, A* sums,
                                      int64_t step, T* dx, int64_t n) {
  using V = Vec<A>;
  V total{};
  for (int64_t i = 0; i < n; i += LANES<A>) {
    const V v = load_wide(x + i) + load<A>(bias + i * step);
    V d = load_wide(dy + i) * act.slope(v) * gain;
    if (clamp == clamp) {
      const V y = gain * act.value(v);
      d = y >= clamp ? V{} : y <= -clamp ? V{} : d;
    }
    store_narrow(dx + i, d);
    if (step == 0) {
      total += d;
    } else if (sums != nullptr) {
      store<A>(sums + i, load<A>(sums + i) + d);
    }
  }
  if (step == 0 && sums != nullptr) store<A>(sums, load<A>(sums) + total);
}

// --- units ---

// Calls f(unit, first element, its index among the biases, elements) for the blocks of the units; the index is of a
// channel if the unit has one bias. A block is so short that rounding errors of its sum stay as small as torch's.
template <class A, class F>
inline void each_block(const idgan::BiasAct& a, int64_t begin, int64_t end, const F& f) {
  const bool rows = a.inner > 1;
  for (int64_t unit = begin; unit < end; unit++) {
    const auto [row, start, stop, step] = span_of(a, unit);
    for (int64_t from = start; from < stop; from += step) {
      const int64_t n = stop - from < step ? stop - from : step;
      for (int64_t i = 0; i < n; i += 64 * LANES<A>)
        f(unit, from + i, rows ? row % a.channels : i, n - i < 64 * LANES<A> ? n - i : 64 * LANES<A>);
    }
  }
}

template <class E>
inline void copy(const E* from, E* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

template <class T, class Act>
void bias_act_fwd_of(const idgan::BiasAct& a, const Act& act, int64_t begin, int64_t end) {
  using A = Wide<T>;
  constexpr int L = LANES<A>;
  const A gain = A(a.gain), clamp = A(a.clamp);
  const int64_t step = a.inner > 1 ? 0 : 1;
  each_block<A>(a, begin, end, [&](int64_t, int64_t from, int64_t index, int64_t n) {
    const T* x = static_cast<const T*>(a.in) + from;
    T* y = static_cast<T*>(a.out) + from;
    const A* bias = static_cast<const A*>(a.bias) + index;
    A one[L] = {};
    if (step == 0) store<A>(one, splat<A>(*bias)), bias = one;
    const int64_t whole = n / L * L, rest = n - whole;
    forward_block<T, Act, A>(act, gain, clamp, x, bias, step, y, whole);
    if (rest == 0) return;
    T some_x[L] = {}, some_y[L];
    copy(x + whole, some_x, rest);
    if (step == 1) copy(bias + whole, one, rest);
    forward_block<T, Act, A>(act, gain, clamp, some_x, one, 0, some_y, L);
    copy(some_y, y + whole, rest);
  });
}

template <class T, class Act>
void bias_act_bwd_of(const idgan::BiasAct& a, const Act& act, int64_t begin, int64_t end) {
  using A = Wide<T>;
  constexpr int L = LANES<A>;
  const A gain = A(a.gain), clamp = A(a.clamp);
  const int64_t step = a.inner > 1 ? 0 : 1, pattern = a.pattern();
  A* sums = static_cast<A*>(a.sums);
  if (sums != nullptr)
    for (int64_t i = begin * pattern; i < end * pattern; i++) sums[i] = 0;
  each_block<A>(a, begin, end, [&](int64_t unit, int64_t from, int64_t index, int64_t n) {
    const T* dy = static_cast<const T*>(a.in) + from;
    const T* x = static_cast<const T*>(a.saved) + from;
    T* dx = static_cast<T*>(a.out) + from;
    const A* bias = static_cast<const A*>(a.bias) + index;
    A* sum = sums == nullptr ? nullptr : sums + unit * pattern + index * step;
    A one[L] = {}, lanes[L] = {};
    if (step == 0) store<A>(one, splat<A>(*bias)), bias = one;
    const int64_t whole = n / L * L, rest = n - whole;
    backward_block<T, Act, A>(act, gain, clamp, dy, x, bias, sum && step == 0 ? lanes : sum, step, dx, whole);
    if (sum != nullptr && step == 0) *sum += sum_of<A>(load<A>(lanes));
    if (rest == 0) return;
    T some_dy[L] = {}, some_x[L] = {}, some_dx[L];
    copy(dy + whole, some_dy, rest), copy(x + whole, some_x, rest);
    if (step == 1) copy(bias + whole, one, rest);
    store<A>(lanes, Vec<A>{});
    backward_block<T, Act, A>(act, gain, clamp, some_dy, some_x, one, lanes, step, some_dx, L);
    copy(some_dx, dx + whole, rest);
    for (int64_t i = 0; sum != nullptr && i < rest; i++) sum[step * (whole + i)] += lanes[i];
  });
}

void bias_act_fwd(const idgan::BiasAct& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) {
    using T = decltype(element);
    with_activation<Wide<T>>(a, [&](const auto& act) { bias_act_fwd_of<T>(a, act, begin, end); });
  });
}

void bias_act_bwd(const idgan::BiasAct& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) {
    using T = decltype(element);
    with_activation<Wide<T>>(a, [&](const auto& act) { bias_act_bwd_of<T>(a, act, begin, end); });
  });
}

}  // namespace
