// The passes along x of the filters: out[o] (+)= sum over t of taps[t] * line[o * down + t - pad], of upsampled lines.
#pragma once

#include "kernels.h"
#include "rows.h"

namespace {

struct Phase {
  int64_t tap, pixel;  // t0 and i0
};

inline Phase phase_of(int64_t o, int64_t up, int64_t down, int64_t pad) {
  const int64_t base = o * down - pad;
  if (up == 1) return {0, base};
  const int64_t tap = ((-base) % up + up) % up;
  return {tap, (base + tap) / up};  // exact, so that the sign does not matter
}

// Lines, of which `first` points at pixel 0 of the first and zeros lie around as far as taps reach, and their results,
// side by side. The last vector may reach beyond a line, into the lanes that are free behind it.
template <class A>
struct Strip {
  const A* first;
  int64_t pitch, count;
  A* out;
};

// Calls f(line, out) for every line.
template <class A, class F>
inline void lines_of(const Strip<A>& strip, int64_t elements_of_result, const F& f) {
  for (int64_t i = 0; i < strip.count; i++) f(strip.first + i * strip.pitch, strip.out + i * elements_of_result);
}

// out[0, n) (+)= vectors of at(o).
template <bool ADD, class A, class F>
inline void put_all(A* out, int64_t n, const F& at) {
  int64_t o = 0;
  for (; o + LANES<A> <= n; o += LANES<A>) put<ADD, A>(out + o, at(o));
  if (o < n) put_some<ADD, A>(out + o, at(o), n - o);
}

// Taps; where their number K is known when compiled, a copy, which no store to a result can change.
template <int K, class A>
struct HeldTaps {
  A values[K];
  explicit HeldTaps(const A* taps) { memcpy(values, taps, sizeof values); }
  A operator[](int64_t t) const { return values[t]; }
};
template <class A>
struct HeldTaps<0, A> {
  const A* values;
  explicit HeldTaps(const A* taps) : values(taps) {}
  A operator[](int64_t t) const { return values[t]; }
};

// K > 0: the number of taps is known when compiled.
template <bool ADD, int K, class A>
void along_x_plain(const Strip<A>& strip, const A* taps, const idgan::Upfirdn2d& a) {
  const int64_t n = a.out_columns * a.pixel, pixel = a.pixel, width = a.width, pad = a.pad_x * a.pixel;
  const HeldTaps<K, A> tap(taps);
  lines_of(strip, n, [&](const A* line, A* out) {
    put_all<ADD>(out, n, [&](int64_t o) {
      const A* from = line - pad + o;
      Vec<A> v = load<A>(from) * tap[0];
      for (int64_t t = 1; t < (K > 0 ? K : width); t++) v += load<A>(from + t * pixel) * tap[t];
      return v;
    });
  });
}

// Four taps of NCHW. A load that crosses a line of the cache takes two cycles, so that each vector is loaded once.
template <bool ADD, class A>
void along_x_four(const Strip<A>& strip, const A* taps, const idgan::Upfirdn2d& a) {
  const int64_t n = a.out_columns, pad = a.pad_x;
  const HeldTaps<4, A> tap(taps);
  lines_of(strip, n, [&](const A* line, A* out) {
    Vec<A> here = load<A>(line - pad);
    put_all<ADD>(out, n, [&](int64_t o) {
      const Vec<A> next = load<A>(line - pad + o + LANES<A>);
      const Vec<A> v = here * tap[0] + after<A, 1>(here, next) * tap[1] + after<A, 2>(here, next) * tap[2] +
                       after<A, 3>(here, next) * tap[3];
      here = next;
      return v;
    });
  });
}

// Upsampling by UP, 2 or 4, whose phases are computed apart and woven. J > 0: every phase has as many taps.
template <bool ADD, int UP, int J, class A>
void along_x_up(const Strip<A>& strip, const A* taps, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const int64_t n = a.out_columns;
  const HeldTaps<UP * J, A> tap(taps);
  Phase first[UP];
  int64_t count[UP];
  for (int q = 0; q < UP; q++) {
    first[q] = phase_of(q, UP, 1, a.pad_x);
    count[q] = (a.width - first[q].tap + UP - 1) / UP;
  }
  lines_of(strip, n, [&](const A* line, A* out) {
    for (int64_t m = 0; UP * m < n; m += L) {
      Vec<A> v[UP] = {}, woven[UP];
      for (int q = 0; q < UP; q++)
        for (int64_t j = 0; j < (J > 0 ? J : count[q]); j++)
          v[q] += load<A>(line + first[q].pixel + m + j) * tap[first[q].tap + UP * j];
      if constexpr (UP == 2) {
        interleave<A>(v[0], v[1], woven[0], woven[1]);
      } else {
        Vec<A> even[2], odd[2];
        interleave<A>(v[0], v[2], even[0], even[1]);
        interleave<A>(v[1], v[3], odd[0], odd[1]);
        interleave<A>(even[0], odd[0], woven[0], woven[1]);
        interleave<A>(even[1], odd[1], woven[2], woven[3]);
      }
      for (int q = 0; q < UP; q++) {
        const int64_t at = UP * m + q * L, left = n - at;
        if (left >= L) put<ADD, A>(out + at, woven[q]);
        else if (left > 0) put_some<ADD, A>(out + at, woven[q], left);
      }
    }
  });
}

// K > 0: the number of taps, even.
template <bool ADD, int K, class A>
void along_x_down2(const Strip<A>& strip, const A* taps, const idgan::Upfirdn2d& a) {
  const int64_t n = a.out_columns, width = K > 0 ? K : a.width, pad = a.pad_x;
  const HeldTaps<K, A> tap(taps);
  lines_of(strip, n, [&](const A* line, A* out) {
    put_all<ADD>(out, n, [&](int64_t o) {
      Vec<A> v{}, even, odd;
      for (int64_t t = 0; t < width; t += 2) {
        const A* p = line - pad + 2 * o + t;
        deinterleave<A>(load<A>(p), load<A>(p + LANES<A>), even, odd);
        v += even * tap[t];
        if (t + 1 < width) v += odd * tap[t + 1];
      }
      return v;
    });
  });
}

// Four taps; each vector is loaded once.
template <bool ADD, class A>
void along_x_down2_four(const Strip<A>& strip, const A* taps, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const int64_t n = a.out_columns, pad = a.pad_x;
  const HeldTaps<4, A> tap(taps);
  lines_of(strip, n, [&](const A* line, A* out) {
    Vec<A> even, odd, next_even, next_odd;
    deinterleave<A>(load<A>(line - pad), load<A>(line - pad + L), even, odd);
    put_all<ADD>(out, n, [&](int64_t o) {
      const A* p = line - pad + 2 * (o + L);
      deinterleave<A>(load<A>(p), load<A>(p + L), next_even, next_odd);
      const Vec<A> v = even * tap[0] + odd * tap[1] + after<A, 1>(even, next_even) * tap[2] +
                       after<A, 1>(odd, next_odd) * tap[3];
      even = next_even, odd = next_odd;
      return v;
    });
  });
}

// Any up and down.
template <bool ADD, class A>
void along_x_any(const Strip<A>& strip, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  lines_of(strip, a.out_columns, [&](const A* line, A* out) {
    for (int64_t o = 0; o < a.out_columns; o++) {
      const Phase p = phases[o];
      A v = 0;
      for (int64_t j = 0; p.tap + j * a.up_x < a.width; j++) v += line[p.pixel + j] * taps[p.tap + j * a.up_x];
      out[o] = ADD ? out[o] + v : v;
    }
  });
}

// The same, of pixels of channels. J > 0: each result meets as many taps.
template <bool ADD, int J, class A>
void along_x_last(const Strip<A>& strip, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  const int64_t pixel = a.pixel, up = a.up_x;
  lines_of(strip, a.out_columns * pixel, [&](const A* line, A* out) {
    for (int64_t o = 0; o < a.out_columns; o++) {
      const Phase p = phases[o];
      const int64_t count = J > 0 ? J : (a.width - p.tap + up - 1) / up;
      A weights[J > 0 ? J : 1];
      for (int j = 0; j < J; j++) weights[j] = taps[p.tap + j * up];
      put_all<ADD>(out + o * pixel, pixel, [&](int64_t i) {
        const A* from = line + p.pixel * pixel + i;
        Vec<A> v{};
        for (int64_t j = 0; j < count; j++)
          v += load<A>(from + j * pixel) * (J > 0 ? weights[j] : taps[p.tap + j * up]);
        return v;
      });
    }
  });
}

template <bool LAST, bool ADD, class A>
void along_x(const Strip<A>& strip, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  if constexpr (!LAST && LANES<A> >= 4)
    if (a.up_x == 1 && a.down_x == 1 && a.width == 4) return along_x_four<ADD>(strip, taps, a);
  if (a.up_x == 1 && a.down_x == 1 && a.width == 4) return along_x_plain<ADD, 4>(strip, taps, a);
  if (a.up_x == 1 && a.down_x == 1) return along_x_plain<ADD, 0>(strip, taps, a);
  if constexpr (LAST) {
    if (a.width == 2 * a.up_x) return along_x_last<ADD, 2>(strip, taps, phases, a);
    if (a.width == 4 * a.up_x) return along_x_last<ADD, 4>(strip, taps, phases, a);
    return along_x_last<ADD, 0>(strip, taps, phases, a);
  } else {
    // Of 4 taps for StyleGAN2, of 12 for StyleGAN3.
    if (a.up_x == 2 && a.down_x == 1) {
      if (a.width == 4) return along_x_up<ADD, 2, 2>(strip, taps, a);
      if (a.width == 12) return along_x_up<ADD, 2, 6>(strip, taps, a);
      return along_x_up<ADD, 2, 0>(strip, taps, a);
    }
    if (a.up_x == 4 && a.down_x == 1) return along_x_up<ADD, 4, 0>(strip, taps, a);
    if (a.up_x == 1 && a.down_x == 2) {
      if (a.width == 4) return along_x_down2_four<ADD>(strip, taps, a);
      if (a.width == 12) return along_x_down2<ADD, 12>(strip, taps, a);
      return along_x_down2<ADD, 0>(strip, taps, a);
    }
    along_x_any<ADD>(strip, taps, phases, a);
  }
}

}  // namespace
