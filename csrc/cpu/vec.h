// Vectors of one instruction set, written once for every width with the compiler's vector extensions.
//
// Included by isa.cpp alone, which is compiled for each instruction set with IDGAN_BYTES (of a vector register) and
// the flags of that set. All names have internal linkage: code of one set must never be linked in for another.
//
// Elements are stored as float, double, bf16 or f16, and computed in float (double for double).
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if IDGAN_BYTES > 16
#include <immintrin.h>
#endif

#include "kernels.h"

namespace {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

typedef float vfloat __attribute__((vector_size(IDGAN_BYTES)));
typedef double vdouble __attribute__((vector_size(IDGAN_BYTES)));
typedef uint32_t vuint __attribute__((vector_size(IDGAN_BYTES)));
typedef uint16_t vhalf __attribute__((vector_size(IDGAN_BYTES / 2)));

template <class A>
struct vector_of;
template <>
struct vector_of<float> {
  using type = vfloat;
};
template <>
struct vector_of<double> {
  using type = vdouble;
};
template <class A>
using Vec = typename vector_of<A>::type;
template <class A>
constexpr int LANES = IDGAN_BYTES / sizeof(A);

// Integers as wide as the lanes of A: what comparisons give.
template <class A>
using Integers = decltype(Vec<A>{} < Vec<A>{});

template <class A>
inline Vec<A> load(const A* p) {
  Vec<A> v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <class A>
inline void store(A* p, Vec<A> v) {
  memcpy(p, &v, sizeof v);
}

template <class A>
inline Vec<A> splat(A a) {
  return a - Vec<A>{};
}

// --- one element ---

inline float bits_to_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

inline uint32_t float_to_bits(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

inline float widen(float a) { return a; }
inline double widen(double a) { return a; }
inline float widen(bf16 a) { return bits_to_float(uint32_t(a.bits) << 16); }
inline float widen(f16 a) {
#if IDGAN_BYTES > 16
  return _cvtsh_ss(a.bits);
#else
  const uint32_t sign = uint32_t(a.bits & 0x8000) << 16, rest = a.bits & 0x7fff;
  if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // As a float's exponent and mantissa the bits stand for the value times 2^-112, denormals included.
  const float magnitude = bits_to_float(rest << 13) * 0x1p112f;
  return bits_to_float(sign | float_to_bits(magnitude));
#endif
}

inline void narrow(float a, float* p) { *p = a; }
inline void narrow(double a, double* p) { *p = a; }
inline void narrow(float a, bf16* p) {
  const uint32_t bits = float_to_bits(a);
  p->bits = a != a ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline void narrow(float a, f16* p) {
#if IDGAN_BYTES > 16
  p->bits = _cvtss_sh(a, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t bits = float_to_bits(a), sign = bits >> 16 & 0x8000;
  uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) {
    p->bits = sign | 0x7e00;
  } else if (rest >= 0x477ff000) {  // rounds to 2^16 or more
    p->bits = sign | 0x7c00;
  } else if (rest < 0x38800000) {  // below 2^-14: the sum with 0.5 rounds at f16's last denormal bit
    p->bits = sign | (float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000);
  } else {
    p->bits = sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  }
#endif
}

// --- a vector of elements in memory ---

inline vfloat load_wide(const float* p) { return load<float>(p); }
inline vdouble load_wide(const double* p) { return load<double>(p); }
inline vfloat load_wide(const bf16* p) {
  vhalf h;
  memcpy(&h, p, sizeof h);
  const vuint bits = __builtin_convertvector(h, vuint) << 16;
  vfloat v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
inline vfloat load_wide(const f16* p) {
#if IDGAN_BYTES == 64
  return (vfloat)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif IDGAN_BYTES == 32
  return (vfloat)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  vfloat v;
  for (int i = 0; i < LANES<float>; i++) v[i] = widen(p[i]);
  return v;
#endif
}

inline void store_narrow(float* p, vfloat v) { store<float>(p, v); }
inline void store_narrow(double* p, vdouble v) { store<double>(p, v); }
inline void store_narrow(bf16* p, vfloat v) {
  vuint bits;
  memcpy(&bits, &v, sizeof bits);
  const vuint rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const vuint nan = vuint{} + 0x7fc0;
  const vhalf h = __builtin_convertvector(v != v ? nan : rounded, vhalf);
  memcpy(p, &h, sizeof h);
}
inline void store_narrow(f16* p, vfloat v) {
#if IDGAN_BYTES == 64
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif IDGAN_BYTES == 32
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < LANES<float>; i++) narrow(v[i], p + i);
#endif
}

// The type in which a stored type is computed.
template <class T>
using acc_t = decltype(widen(T{}));

// Calls f with an element of the type.
template <class F>
inline void with_type(idgan::Dtype dtype, const F& f) {
  switch (dtype) {
    case idgan::kFloat: return f(float{});
    case idgan::kDouble: return f(double{});
    case idgan::kBfloat16: return f(bf16{});
    case idgan::kFloat16: return f(f16{});
  }
}

// --- the first `lanes` elements of a vector in memory, and zeros ---

#if IDGAN_BYTES == 64
inline vfloat first(const float* p, int64_t lanes) { return _mm512_maskz_loadu_ps((1u << lanes) - 1, p); }
inline vdouble first(const double* p, int64_t lanes) { return _mm512_maskz_loadu_pd((1u << lanes) - 1, p); }
inline void put_first(float* p, vfloat v, int64_t lanes) { _mm512_mask_storeu_ps(p, (1u << lanes) - 1, v); }
inline void put_first(double* p, vdouble v, int64_t lanes) { _mm512_mask_storeu_pd(p, (1u << lanes) - 1, v); }
#elif IDGAN_BYTES == 32
inline __m256i lanes32(int64_t lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(lanes)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i lanes64(int64_t lanes) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), _mm256_setr_epi64x(0, 1, 2, 3));
}
inline vfloat first(const float* p, int64_t lanes) { return _mm256_maskload_ps(p, lanes32(lanes)); }
inline vdouble first(const double* p, int64_t lanes) { return _mm256_maskload_pd(p, lanes64(lanes)); }
inline void put_first(float* p, vfloat v, int64_t lanes) { _mm256_maskstore_ps(p, lanes32(lanes), v); }
inline void put_first(double* p, vdouble v, int64_t lanes) { _mm256_maskstore_pd(p, lanes64(lanes), v); }
#endif

template <class T>
inline Vec<acc_t<T>> first(const T* p, int64_t lanes) {
  T some[LANES<acc_t<T>>] = {};
#if IDGAN_BYTES == 64  // elements of 16 bits
  _mm256_storeu_si256((__m256i*)some, _mm256_maskz_loadu_epi16((1u << lanes) - 1, p));
#else
  for (int64_t i = 0; i < lanes; i++) some[i] = p[i];
#endif
  return load_wide(some);
}

template <class T>
inline void put_first(T* p, Vec<acc_t<T>> v, int64_t lanes) {
  T some[LANES<acc_t<T>>];
  store_narrow(some, v);
#if IDGAN_BYTES == 64
  _mm256_mask_storeu_epi16(p, (1u << lanes) - 1, _mm256_loadu_si256((const __m256i*)some));
#else
  for (int64_t i = 0; i < lanes; i++) p[i] = some[i];
#endif
}

template <class T>
inline Vec<acc_t<T>> load_some(const T* p, int64_t lanes) {
  return lanes >= LANES<acc_t<T>> ? load_wide(p) : first(p, lanes);
}

template <class T>
inline void store_some(T* p, Vec<acc_t<T>> v, int64_t lanes) {
  lanes >= LANES<acc_t<T>> ? store_narrow(p, v) : put_first(p, v, lanes);
}

template <class A>
inline A sum_of(Vec<A> v) {
  A total = 0;
  for (int i = 0; i < LANES<A>; i++) total += v[i];
  return total;
}

// The even and the odd elements of a and b, in order.
template <class V, int... I>
inline void deinterleave_(V a, V b, V& even, V& odd, std::integer_sequence<int, I...>) {
  even = __builtin_shufflevector(a, b, (2 * I)...);
  odd = __builtin_shufflevector(a, b, (2 * I + 1)...);
}
template <class A>
inline void deinterleave(Vec<A> a, Vec<A> b, Vec<A>& even, Vec<A>& odd) {
  deinterleave_(a, b, even, odd, std::make_integer_sequence<int, LANES<A>>{});
}

// even[0], odd[0], even[1], ...: the first and the second half.
template <class V, int... I>
inline void interleave_(V even, V odd, V& a, V& b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  a = __builtin_shufflevector(even, odd, (I / 2 + I % 2 * n)...);
  b = __builtin_shufflevector(even, odd, (n / 2 + I / 2 + I % 2 * n)...);
}
template <class A>
inline void interleave(Vec<A> even, Vec<A> odd, Vec<A>& a, Vec<A>& b) {
  interleave_(even, odd, a, b, std::make_integer_sequence<int, LANES<A>>{});
}

// The vector that starts T elements after a does, of two that follow one another.
template <int T, class V, int... I>
inline V after_(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (T + I)...);
}
template <class A, int T>
inline Vec<A> after(Vec<A> a, Vec<A> b) {
  return after_<T>(a, b, std::make_integer_sequence<int, LANES<A>>{});
}

template <class V, class A>
inline V clamped(V v, A bound) {
  v = v > bound ? bound - V{} : v;
  return v < -bound ? -bound - V{} : v;
}

}  // namespace
