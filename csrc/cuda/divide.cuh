// Division by a number that is known before the launch: a multiplication and a shift.
//
// For 0 <= n < 2^31 and 1 <= d < 2^31, n / d = (n m) >> (32 + s) with s = ceil(log2 d), m = ceil(2^(32 + s) / d) - 2^32
// added back as n. Granlund and Montgomery, Division by Invariant Integers using Multiplication (1994), figure 4.1.
#pragma once

#include "launch.cuh"

namespace idgan {

struct Divisor {
  uint32_t by = 1, multiplier = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t d) : by(d) {
    while (shift < 31 && (uint32_t(1) << shift) < d) shift++;
    multiplier = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
  }

  __host__ __device__ uint32_t quotient(uint32_t n) const {
    const uint32_t high = uint32_t((uint64_t(n) * multiplier) >> 32);
    return (high + n) >> shift;  // n < 2^31, so that the sum fits
  }
};

}  // namespace idgan
