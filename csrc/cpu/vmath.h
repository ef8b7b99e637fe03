// e^x and e^x - 1 for x <= 0, log(1 + x) for 0 <= x <= 1: all that sigmoid, tanh, softplus and the ELUs need, since
// each can be written with e^-|v|. So nothing overflows, and no difference of nearly equal numbers is taken.
//
// Errors below 1.0 (e^x, denormal results included), 1.2 (e^x - 1) and 1.3 (log) units in the last place, with and
// without FMA. NaN gives NaN.
// coefficients.py prints the constants: interpolation at Chebyshev nodes, of which the error is below 1e-9 (float) and
// 1e-17 (double) of the function.
#pragma once

#include "vec.h"

namespace {

// ln 2 = LN2_HIGH + LN2_LOW, of which the multiples of LN2_HIGH met here are exact. t + ROUND ends in the integer next
// to t. Below LOWEST e^x is 0.
template <class A>
struct Exponential;
template <>
struct Exponential<float> {
  static constexpr float ROUND = 0x1.8p23f, LN2_HIGH = 0.693145751953125f, LN2_LOW = 1.4286068203094172e-6f;
  static constexpr float LOWEST = -105, LOG2_E = 1.4426950408889634f;
  static constexpr int MANTISSA = 23, BIAS = 127, SHIFT = 64;
  // (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2
  static constexpr float TAIL[] = {0.00019890980869750326f, 0.0013933641031986701f, 0.0083333109344488685f,
                                   0.041666465006040049f,   0.16666666681614256f,   0.50000000134577272f};
  // (atanh(s) / s - 1) / s^2 of s^2, for 0 <= s <= 1 / 3
  static constexpr float ATANH[] = {0.11612164612011674f, 0.10853287900440186f, 0.14296178997151419f,
                                    0.19999853165964859f, 0.33333333660263706f};
};
template <>
struct Exponential<double> {
  static constexpr double ROUND = 0x1.8p52, LN2_HIGH = 0.69314718055989033, LN2_LOW = 5.4979230187083712e-14;
  static constexpr double LOWEST = -746, LOG2_E = 1.4426950408889634;
  static constexpr int MANTISSA = 52, BIAS = 1023, SHIFT = 128;
  static constexpr double TAIL[] = {2.0914679376583935e-9, 2.5105206373957011e-8,  2.7557273661348636e-7,
                                    2.7557255425746434e-6, 2.4801587325533364e-5,  0.00019841269874800492,
                                    0.0013888888888883752, 0.0083333333333261409,  0.04166666666666667,
                                    0.16666666666666671,   0.5};
  static constexpr double ATANH[] = {0.080820228059717661, 0.044003692430723369, 0.060005364047953563,
                                    0.066570721048274681, 0.076927850324793116, 0.090908947180664291,
                                    0.11111111358713931, 0.14285714283554379, 0.20000000000007291,
                                    0.33333333333333329};
};

template <class A, int N>
inline Vec<A> polynomial(Vec<A> x, const A (&c)[N]) {
  Vec<A> p = splat<A>(c[0]);
  for (int i = 1; i < N; i++) p = p * x + c[i];
  return p;
}

template <class A>
inline Vec<A> magnitude(Vec<A> v) {
  return (Vec<A>)((Integers<A>)v & ~(Integers<A>)splat<A>(A(-0.0)));
}

template <class A>
inline Vec<A> with_sign_of(Vec<A> v, Vec<A> size) {
  return (Vec<A>)(((Integers<A>)v & (Integers<A>)splat<A>(A(-0.0))) | (Integers<A>)magnitude<A>(size));
}

// x = n ln 2 + r with |r| <= ln(2) / 2 and the integer n as the last bits of `rounded`; e^r - 1 = r + tail.
template <class A>
struct Reduced {
  using C = Exponential<A>;
  Vec<A> rounded, r, tail;

  explicit Reduced(Vec<A> x) {
    rounded = x * C::LOG2_E + C::ROUND;
    const Vec<A> n = rounded - C::ROUND;
    r = x - n * C::LN2_HIGH - n * C::LN2_LOW;
    tail = r * r * polynomial<A>(r, C::TAIL);
  }
  // 2^(n + shift), a normal number.
  Vec<A> power(int shift) const {
    const Integers<A> n = (Integers<A>)rounded - (Integers<A>)splat<A>(C::ROUND);
    return (Vec<A>)((n + (C::BIAS + shift)) << C::MANTISSA);
  }
};

// e^x for x <= 0
template <class A>
inline Vec<A> exp_below(Vec<A> x) {
  using C = Exponential<A>;
  const Reduced<A> e(x < C::LOWEST ? splat<A>(C::LOWEST) : x);
  constexpr A back = C::SHIFT == 64 ? A(0x1p-64) : A(0x1p-128);  // the one rounding of a denormal result
  return (e.r + e.tail + 1) * e.power(C::SHIFT) * back;
}

// e^x - 1 for x <= 0, exact to the last bit or so near 0 too
template <class A>
inline Vec<A> expm1_below(Vec<A> x) {
  const Reduced<A> e(x < -50 ? splat<A>(-50) : x);  // there -1 already
  const Vec<A> power = e.power(0);
  return (e.r + e.tail) * power + (power - 1);
}

// log(1 + x) for 0 <= x <= 1: 2 atanh(s) with s = x / (2 + x), of which the first term is written as 2 s = x - s x
template <class A>
inline Vec<A> log1p_unit(Vec<A> x) {
  const Vec<A> s = x / (x + 2), z = s * s;
  return x - s * (x - 2 * (z * polynomial<A>(z, Exponential<A>::ATANH)));
}

}  // namespace
