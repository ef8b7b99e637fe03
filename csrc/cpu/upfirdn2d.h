// y[o] = sum over t of taps[t] * stuffed[o * down + t - pad], along x and along y; stuffed: up - 1 zeros after a pixel.
//
// For a given o only every up-th tap meets a pixel: the first is t0 = (pad - o * down) mod up, at pixel
// i0 = (o * down + t0 - pad) / up, so no zero is ever stored or multiplied (polyphase).
// Mapping: a unit is a block of result rows of one image, of channels_last with all channels. Of a separable filter, a result row is first a sum of input rows (vertical pass, into a line with zeros on both sides, in
// the first-level cache), then filtered along x. Bytes: the input once from memory, if its height(f) rows stay in
// cache, the result once. Flops an output: 2 (fh / up_y + fw / up_x) for columns of about equal numbers. Accumulation
// in float (double for double).
#pragma once

#include <cstdlib>

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

// The horizontal passes: out[o] (+)= sum over t. `line` points at pixel 0, with zeros around as far as taps reach.
// K > 0: the number of taps is known when compiled.

// The last vector may reach beyond the line, into the lanes that Lines keeps free behind it.

template <bool ADD, int K, class A>
void along_x_plain(const A* line, A* out, const A* taps, int64_t pixel, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const int64_t n = a.out_columns * pixel;
  const int k = K > 0 ? K : int(a.width);
  const A* from = line - a.pad_x * pixel;
  const auto at = [&](int64_t o) {
    Vec<A> v = load<A>(from + o) * taps[0];
    for (int t = 1; t < k; t++) v += load<A>(from + o + t * pixel) * taps[t];
    return v;
  };
  int64_t o = 0;
  for (; o + L <= n; o += L) put<ADD, A>(out + o, at(o));
  if (o < n) put_some<ADD, A>(out + o, at(o), n - o);
}

// J > 0: either phase has as many taps.
template <bool ADD, int J, class A>
void along_x_up2(const A* line, A* out, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const Phase even = phases[0], odd = phases[1];
  const int64_t n = a.out_columns, n_even = (a.width - even.tap + 1) / 2, n_odd = (a.width - odd.tap + 1) / 2;
  const auto at = [&](Phase p, int64_t count, int64_t m) {
    Vec<A> v{};
    for (int64_t j = 0; j < (J > 0 ? J : count); j++) v += load<A>(line + p.pixel + m + j) * taps[p.tap + 2 * j];
    return v;
  };
  for (int64_t m = 0; 2 * m < n; m += L) {
    Vec<A> first, second;
    interleave<A>(at(even, n_even, m), at(odd, n_odd, m), first, second);
    const int64_t left = n - 2 * m;
    left >= L ? put<ADD, A>(out + 2 * m, first) : put_some<ADD, A>(out + 2 * m, first, left);
    if (left >= 2 * L) put<ADD, A>(out + 2 * m + L, second);
    if (left > L && left < 2 * L) put_some<ADD, A>(out + 2 * m + L, second, left - L);
  }
}

// K > 0: even, and the number of taps.
template <bool ADD, int K, class A>
void along_x_down2(const A* line, A* out, const A* taps, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const int64_t n = a.out_columns, width = K > 0 ? K : a.width;
  const A* from = line - a.pad_x;
  const auto at = [&](int64_t o) {
    Vec<A> v{}, even, odd;
    for (int64_t t = 0; t < width; t += 2) {
      const A* p = from + 2 * o + t;
      deinterleave<A>(load<A>(p), load<A>(p + L), even, odd);
      v += even * taps[t];
      if (t + 1 < width) v += odd * taps[t + 1];
    }
    return v;
  };
  int64_t o = 0;
  for (; o + L <= n; o += L) put<ADD, A>(out + o, at(o));
  if (o < n) put_some<ADD, A>(out + o, at(o), n - o);
}

// Any up and down.
template <bool ADD, class A>
void along_x_any(const A* line, A* out, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  for (int64_t o = 0; o < a.out_columns; o++) {
    const Phase p = phases[o];
    A v = 0;
    for (int64_t j = 0; p.tap + j * a.up_x < a.width; j++)
      v += line[p.pixel + j] * taps[p.tap + j * a.up_x];
    out[o] = ADD ? out[o] + v : v;
  }
}

// The same, of pixels of channels. J > 0: each result meets as many taps.
template <bool ADD, int J, class A>
void along_x_last(const A* line, A* out, const A* taps, const Phase* phases, int64_t pixel, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  for (int64_t o = 0; o < a.out_columns; o++, out += pixel) {
    const Phase p = phases[o];
    const A *from = line + p.pixel * pixel, *weights = taps + p.tap;
    const int64_t count = J > 0 ? J : (a.width - p.tap + a.up_x - 1) / a.up_x;
    const auto at = [&](int64_t i) {
      Vec<A> v{};
      for (int64_t j = 0; j < (J > 0 ? J : count); j++) v += load<A>(from + j * pixel + i) * weights[j * a.up_x];
      return v;
    };
    int64_t i = 0;
    for (; i + L <= pixel; i += L) put<ADD, A>(out + i, at(i));
    if (i < pixel) put_some<ADD, A>(out + i, at(i), pixel - i);
  }
}

template <bool LAST, bool ADD, class A>
void along_x(const A* line, A* out, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  const int64_t pixel = a.pixel;
  if (a.up_x == 1 && a.down_x == 1 && a.width == 4) return along_x_plain<ADD, 4>(line, out, taps, pixel, a);
  if (a.up_x == 1 && a.down_x == 1) return along_x_plain<ADD, 0>(line, out, taps, pixel, a);
  if constexpr (LAST) {
    if (a.width == 2 * a.up_x) return along_x_last<ADD, 2>(line, out, taps, phases, pixel, a);
    if (a.width == 4 * a.up_x) return along_x_last<ADD, 4>(line, out, taps, phases, pixel, a);
    return along_x_last<ADD, 0>(line, out, taps, phases, pixel, a);
  } else {
    if (a.up_x == 2 && a.down_x == 1 && a.width == 4) return along_x_up2<ADD, 2>(line, out, taps, phases, a);
    if (a.up_x == 2 && a.down_x == 1) return along_x_up2<ADD, 0>(line, out, taps, phases, a);
    if (a.up_x == 1 && a.down_x == 2 && a.width == 4) return along_x_down2<ADD, 4>(line, out, taps, a);
    if (a.up_x == 1 && a.down_x == 2) return along_x_down2<ADD, 0>(line, out, taps, a);
    along_x_any<ADD>(line, out, taps, phases, a);
  }
}

// Where rows are filtered: lines with zeros around, a few at a time, so that the second pass does not wait for the
// stores of the first; one for each call of a kernel.
template <bool LAST, class T>
struct Lines {
  using A = Wide<T>;
  static constexpr int64_t kMost = 8;
  const idgan::Upfirdn2d& a;
  const int64_t pixel;       // elements of a line's pixel
  int64_t length, together;  // elements of a line; lines in use
  A *memory, *first, *result, *weights;
  Phase* phases;
  Row<T>* rows;
  A offset = 0;  // added to every pixel of the image, of NCHW

  explicit Lines(const idgan::Upfirdn2d& args) : a(args), pixel(args.pixel) {
    phases = static_cast<Phase*>(malloc((a.out_columns + 1) * sizeof(Phase)));
    for (int64_t o = 0; o <= a.out_columns; o++) phases[o] = phase_of(o, a.up_x, a.down_x, a.pad_x);
    const int64_t reach = phases[a.out_columns - 1].pixel + (a.width + a.up_x - 1) / a.up_x;
    const int64_t left = phases[0].pixel < 0 ? -phases[0].pixel : 0, right = reach > a.columns ? reach - a.columns : 0;
    length = (left + a.columns + right) * pixel + 3 * LANES<A>;
    together = 4096 / length < 1 ? 1 : 4096 / length < kMost ? 4096 / length : kMost;
    memory = static_cast<A*>(calloc(together * length + a.out_columns * pixel + a.height, sizeof(A)));
    first = memory + left * pixel;
    result = memory + together * length;
    weights = result + a.out_columns * pixel;
    rows = static_cast<Row<T>*>(malloc(a.height * sizeof(Row<T>)));
  }
  ~Lines() {
    free(memory);
    free(phases);
    free(rows);
  }

  // Row `o` of a separable filter's result, before the pass along x, in line `i`.
  void down_y(const Rows<T>& image, int64_t o, int64_t i) {
    const Phase p = phase_of(o, a.up_y, a.down_y, a.pad_y);
    const A* taps = static_cast<const A*>(a.taps_y);
    int64_t count = 0;
    for (int64_t t = p.tap, row = p.pixel; t < a.height; t += a.up_y, row++) {
      if (row < 0 || row >= a.rows) continue;
      rows[count] = image.at(row);
      weights[count++] = taps[t];
    }
    weighted_rows<LAST>(first + i * length, image, rows, weights, count);
    A sum = 0;
    for (int64_t j = 0; j < count; j++) sum += weights[j];
    shift(first + i * length, offset * sum);
  }

  void shift(A* line, A by) const {
    if (LAST || offset == 0) return;
    for (int64_t x = 0; x < a.columns; x++) line[x] += by;
  }

  void across_x(int64_t i, A* to) {
    along_x<LAST, false>(first + i * length, to, static_cast<const A*>(a.taps_x), phases, a);
  }

  // Row `o` of the result of a filter that is not separable: a sum over its rows.
  void whole(const Rows<T>& image, int64_t o, A* to) {
    const Phase p = phase_of(o, a.up_y, a.down_y, a.pad_y);
    memset(to, 0, a.out_columns * pixel * sizeof(A));
    for (int64_t t = p.tap, row = p.pixel; t < a.height; t += a.up_y, row++) {
      if (row < 0 || row >= a.rows) continue;
      read_row<LAST>(first, image, row);
      shift(first, offset);
      along_x<LAST, true>(first, to, static_cast<const A*>(a.taps_x) + t * a.width, phases, a);
    }
  }

  // Rows [begin, end) of one image's result, each in the memory that where(o) names; then finish(o, row).
  template <class W, class F>
  void filtered(const Rows<T>& image, int64_t begin, int64_t end, const W& where, const F& finish) {
    const int64_t step = a.taps_y == nullptr ? 1 : together;
    for (int64_t o = begin; o < end; o += step) {
      const int64_t count = end - o < step ? end - o : step;
      if (a.taps_y == nullptr) {
        whole(image, o, where(o));
        finish(o, where(o));
        continue;
      }
      for (int64_t i = 0; i < count; i++) down_y(image, o + i, i);
      for (int64_t i = 0; i < count; i++) {
        across_x(i, where(o + i));
        finish(o + i, where(o + i));
      }
    }
  }
};

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows [own, own_end), and rows [from, to) around them.
struct RowSpan {
  int64_t own, own_end, from, to;
  int64_t rows() const { return to - from; }
};

// What a unit is: a block of result rows of an image.
struct Block {
  int64_t image, part, first, last;
};

template <class Operator>
inline Block block_of(const Operator& a, int64_t rows, int64_t unit) {
  const int64_t part = unit % a.blocks(), first = part * a.block();
  return {unit / a.blocks(), part, first, smaller(first + a.block(), rows)};
}

template <class T>
inline Rows<T> input_of(const idgan::Upfirdn2d& a, const Block& b) {
  return Rows<T>(a.in, a.phased, b.image, a.rows, a.columns, a.depth, a.pixel);
}
template <class T>
inline Rows<T> output_of(const idgan::Upfirdn2d& a, const Block& b) {
  return Rows<T>(a.out, a.phased_out, b.image, a.out_rows, a.out_columns, a.depth, a.pixel);
}

template <class T, bool LAST>
void upfirdn2d_of(const idgan::Upfirdn2d& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  Lines<LAST, T> lines(a);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block b = block_of(a, a.out_rows, unit);
    const Rows<T> in = input_of<T>(a, b), out = output_of<T>(a, b);
    if constexpr (sizeof(T) == sizeof(A)) {
      if (out.joined) {
        lines.filtered(in, b.first, b.last, [&](int64_t o) { return out.at(o).even; }, [](int64_t, const A*) {});
        continue;
      }
    }
    lines.filtered(
        in, b.first, b.last, [&](int64_t) { return lines.result; },
        [&](int64_t o, const A* row) { write_row<LAST>(out, o, row); });
  }
}

void upfirdn2d(const idgan::Upfirdn2d& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) {
    using T = decltype(element);
    a.depth > 1 ? upfirdn2d_of<T, true>(a, begin, end) : upfirdn2d_of<T, false>(a, begin, end);
  });
}

}  // namespace
