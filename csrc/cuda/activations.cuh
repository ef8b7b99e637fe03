// Activations of v, their first and second derivatives; the formulas of idgan_fast/ops/activations.py.
//
// The piecewise linear ones are leaky ReLU with a slope of 1, 0 or alpha. Which of the smooth ones it is the kernels
// find out as they run, the same way for all threads: a kernel of its own for each would be five times the library.
#pragma once

#include <math.h>

#include "calls.h"
#include "launch.cuh"

namespace idgan {

constexpr double kSeluScale = 1.0507009873554805;
constexpr double kSeluBelow = 1.0507009873554805 * 1.6732632423543772;

// slope below 0; of slope 0 it gives 0 for -inf, where a product would give NaN.
template <class A>
__device__ __forceinline__ A leaky(A v, A slope) {
  return v > 0 ? v : slope == 0 && v == v ? A(0) : v * slope;
}

template <class A>
__device__ __forceinline__ A sigmoid(A v) {
  const A e = exp(-fabs(v));
  return (v >= 0 ? A(1) : e) / (1 + e);
}

template <bool SMOOTH, class A>
__device__ __forceinline__ A activated(A v, Activation act, A alpha) {
  if (!SMOOTH) return leaky(v, alpha);
  const A below = v > 0 ? A(0) : v;
  switch (act) {
    case kTanh: return tanh(v);
    case kSigmoid: return sigmoid(v);
    case kElu: return v > 0 ? v : expm1(below);
    case kSelu: return v > 0 ? v * A(kSeluScale) : expm1(below) * A(kSeluBelow);
    case kSoftplus: return (v > 0 ? v : A(0)) + log1p(exp(-fabs(v)));
    default: return v * sigmoid(v);
  }
}

template <bool SMOOTH, class A>
__device__ __forceinline__ A first_derivative(A v, Activation act, A alpha) {
  if (!SMOOTH) return v > 0 ? A(1) : alpha;
  const A below = v > 0 ? A(0) : v;
  switch (act) {
    case kTanh: {
      const A t = tanh(v);
      return 1 - t * t;
    }
    case kSigmoid: return sigmoid(v) * sigmoid(-v);
    case kElu: return exp(below);
    case kSelu: return v > 0 ? A(kSeluScale) : exp(below) * A(kSeluBelow);
    case kSoftplus: return sigmoid(v);
    default: return sigmoid(v) * (1 + v * sigmoid(-v));
  }
}

template <bool SMOOTH, class A>
__device__ __forceinline__ A second_derivative(A v, Activation act) {
  if (!SMOOTH) return 0;
  const A below = v > 0 ? A(0) : v;
  switch (act) {
    case kTanh: {
      const A t = tanh(v);
      return -2 * t * (1 - t * t);
    }
    case kSigmoid: return sigmoid(v) * sigmoid(-v) * (1 - 2 * sigmoid(v));
    case kElu: return v > 0 ? A(0) : exp(below);
    case kSelu: return v > 0 ? A(0) : exp(below) * A(kSeluBelow);
    case kSoftplus: return sigmoid(v) * sigmoid(-v);
    default: return sigmoid(v) * sigmoid(-v) * (2 + v * (1 - 2 * sigmoid(v)));
  }
}

// Keeps NaN, as torch does. A bound of NaN is none.
template <class A>
__device__ __forceinline__ A clamped(A v, A bound) {
  return v > bound ? bound : v < -bound ? -bound : v;
}

// g, and 0 where y reaches the bound.
template <class A>
__device__ __forceinline__ A clamp_backward(A g, A y, A bound) {
  return y <= -bound || y >= bound ? A(0) : g;
}

}  // namespace idgan
