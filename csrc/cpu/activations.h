// The activations of bias_act: of a vector v the value, the slope act'(v) and the curve act''(v).
//
// Each is written with e^-|v|, so that nothing overflows: see vmath.h.
#pragma once

#include "vmath.h"

namespace {

// linear, relu, lrelu. Of -inf relu is 0 and lrelu of slope 0 is NaN, as in torch.
template <class A>
struct Piecewise {
  using V = Vec<A>;
  A below;
  bool relu;

  V value(V v) const { return v > 0 ? v : relu ? (v != v ? v : V{}) : v * below; }
  V slope(V v) const { return v > 0 ? splat<A>(1) : splat<A>(below); }
  V curve(V) const { return V{}; }
};

// elu, selu
template <class A>
struct Elu {
  using V = Vec<A>;
  A above, below;

  V value(V v) const { return v >= 0 ? v * above : expm1_below<A>(v) * below; }
  V slope(V v) const { return v > 0 ? splat<A>(above) : exp_below<A>(v > 0 ? V{} : v) * below; }
  V curve(V v) const { return v > 0 ? V{} : exp_below<A>(v > 0 ? V{} : v) * below; }
};

// sigmoid(v) is 1 / (1 + e) or e / (1 + e) with e = e^-|v|, by the sign of v, and sigmoid(-v) the other: they differ by
// m / (1 + e) with m = e - 1, from expm1.
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
  V curve(V v) const {
    const Logistic<A> s(v);
    const V m = expm1_below<A>(-magnitude<A>(v));
    return s.e * (v >= 0 ? m : -m) / (s.sum * s.square);
  }
};

// |tanh v| = |m| / (2 + m) with m = e^-2|v| - 1; tanh' = 1 - tanh^2 = 4 sigmoid'(2 v), tanh'' = 8 sigmoid''(2 v)
template <class A>
struct Tanh {
  using V = Vec<A>;

  V value(V v) const {
    const V m = expm1_below<A>(magnitude<A>(v) * -2);
    return with_sign_of<A>(v, m / (2 + m));
  }
  V slope(V v) const { return 4 * Sigmoid<A>().slope(2 * v); }
  V curve(V v) const { return 8 * Sigmoid<A>().curve(2 * v); }
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
  V curve(V v) const { return Sigmoid<A>().slope(v); }
};

// v sigmoid(v), sigmoid(v) (1 + v sigmoid(-v)), and sigmoid(v) sigmoid(-v) (2 + v (sigmoid(-v) - sigmoid(v)))
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
  V curve(V v) const {
    const Logistic<A> s(v);
    const V size = magnitude<A>(v);
    return s.e * (2 * s.sum + size * expm1_below<A>(-size)) / (s.sum * s.square);
  }
};

// 0 where y reaches the clamp, if there is one.
template <class V, class A>
inline V clamp_backward(V d, V y, A clamp) {
  return y >= clamp ? V{} : y <= -clamp ? V{} : d;
}

template <class V, class A>
inline V lrelu_forward(V x, V b, A slope, A gain, A clamp) {
  const V v = x + b, zero{};
  const V below = slope == 0 ? (v != v ? v : zero) : v * slope;  // relu of -inf is 0, the product would be NaN
  return clamped((v > 0 ? v : below) * gain, clamp);
}

// From y, which shows the sign of x + b; sign: that of gain, 1 or -1.
template <class V, class A>
inline V lrelu_backward(V dy, V y, A slope, A gain, A sign, A clamp) {
  dy *= gain;
  return clamp_backward(y * sign > 0 ? dy : dy * slope, y, clamp);
}

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

}  // namespace
