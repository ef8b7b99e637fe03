// y[o] = sum over t of taps[t] * stuffed[o * down + t - pad], along x and along y; stuffed: up - 1 zeros after each pixel.
//
// For a given o only every up-th tap meets a pixel: the first is t0 = (pad - o * down) mod up, at pixel
// i0 = (o * down + t0 - pad) / up, so no zero is ever stored or multiplied (polyphase).
// Mapping: a unit is a block of result rows of one image. Of a separable filter, a result row is first a sum of input rows
// (vertical pass, into a line with zeros on both sides, in the first-level cache), then filtered along x. Bytes: the input
// once from memory, if its height(f) rows stay in cache, the result once. Flops an output: 2 (fh / up_y + fw / up_x) for
// columns of about equal numbers. Accumulation in float (double for double).
#pragma once

#include <cstdlib>

#include "kernels.h"
#include "vec.h"

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

// line[x] = sum over j < n of weights[j] * rows[j][x]
template <class T, class A, int N>
inline void weigh_rows(A* line, const T* const* rows, const A* weights, int64_t n) {
  constexpr int L = LANES<A>;
  int64_t x = 0;
  for (; x + L <= n; x += L) {
    Vec<A> v = load_wide(rows[0] + x) * weights[0];
    for (int j = 1; j < N; j++) v += load_wide(rows[j] + x) * weights[j];
    store<A>(line + x, v);
  }
  for (; x < n; x++) {
    A v = widen(rows[0][x]) * weights[0];
    for (int j = 1; j < N; j++) v += widen(rows[j][x]) * weights[j];
    line[x] = v;
  }
}

template <class T, class A>
void vertical(A* line, const T* const* rows, const A* weights, int64_t count, int64_t n) {
  if (count == 0) {
    memset(line, 0, n * sizeof(A));
    return;
  }
  const int64_t first = count < 4 ? count : 4;
  if (first == 1) weigh_rows<T, A, 1>(line, rows, weights, n);
  if (first == 2) weigh_rows<T, A, 2>(line, rows, weights, n);
  if (first == 3) weigh_rows<T, A, 3>(line, rows, weights, n);
  if (first == 4) weigh_rows<T, A, 4>(line, rows, weights, n);
  constexpr int L = LANES<A>;
  for (int64_t j = 4; j < count; j++) {
    int64_t x = 0;
    for (; x + L <= n; x += L) store<A>(line + x, load<A>(line + x) + load_wide(rows[j] + x) * weights[j]);
    for (; x < n; x++) line[x] += widen(rows[j][x]) * weights[j];
  }
}

// The horizontal passes: out[o] (+)= sum over t. `line` points at pixel 0, with zeros around as far as taps reach.
// K > 0: the number of taps is known when compiled.

template <bool ADD, class A>
inline void put(A* out, Vec<A> v) {
  store<A>(out, ADD ? load<A>(out) + v : v);
}

template <bool ADD, int K, class A>
void along_x_plain(const A* line, A* out, const A* taps, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const int k = K > 0 ? K : int(a.width);
  const A* from = line - a.pad_x;
  int64_t o = 0;
  for (; o + L <= a.out_columns; o += L) {
    Vec<A> v = load<A>(from + o) * taps[0];
    for (int t = 1; t < k; t++) v += load<A>(from + o + t) * taps[t];
    put<ADD, A>(out + o, v);
  }
  for (; o < a.out_columns; o++) {
    A v = 0;
    for (int t = 0; t < k; t++) v += from[o + t] * taps[t];
    out[o] = ADD ? out[o] + v : v;
  }
}

template <bool ADD, class A>
void along_x_up2(const A* line, A* out, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const Phase even = phases[0], odd = phases[1];
  const int64_t half = a.out_columns / 2;
  const int64_t n_even = (a.width - even.tap + 1) / 2, n_odd = (a.width - odd.tap + 1) / 2;
  const auto at = [&](Phase p, int64_t n, int64_t m) {
    A v = 0;
    for (int64_t j = 0; j < n; j++) v += line[p.pixel + m + j] * taps[p.tap + 2 * j];
    return v;
  };
  int64_t m = 0;
  for (; m + L <= half; m += L) {
    Vec<A> e{}, o{}, first, second;
    for (int64_t j = 0; j < n_even; j++) e += load<A>(line + even.pixel + m + j) * taps[even.tap + 2 * j];
    for (int64_t j = 0; j < n_odd; j++) o += load<A>(line + odd.pixel + m + j) * taps[odd.tap + 2 * j];
    interleave<A>(e, o, first, second);
    put<ADD, A>(out + 2 * m, first);
    put<ADD, A>(out + 2 * m + L, second);
  }
  for (int64_t o = 2 * m; o < a.out_columns; o++) {
    const A v = o % 2 ? at(odd, n_odd, o / 2) : at(even, n_even, o / 2);
    out[o] = ADD ? out[o] + v : v;
  }
}

template <bool ADD, class A>
void along_x_down2(const A* line, A* out, const A* taps, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  const A* from = line - a.pad_x;
  const int64_t pairs = a.width / 2;
  int64_t o = 0;
  // The last vector would read past the zeros by one, so it is left to the loop of single pixels.
  for (; o + L < a.out_columns; o += L) {
    Vec<A> v{}, even, odd;
    for (int64_t j = 0; j < pairs; j++) {
      const A* p = from + 2 * o + 2 * j;
      deinterleave<A>(load<A>(p), load<A>(p + L), even, odd);
      v += even * taps[2 * j] + odd * taps[2 * j + 1];
    }
    if (a.width % 2) {
      const A* p = from + 2 * o + 2 * pairs;
      deinterleave<A>(load<A>(p), load<A>(p + L), even, odd);
      v += even * taps[2 * pairs];
    }
    put<ADD, A>(out + o, v);
  }
  for (; o < a.out_columns; o++) {
    A v = 0;
    for (int64_t t = 0; t < a.width; t++) v += from[2 * o + t] * taps[t];
    out[o] = ADD ? out[o] + v : v;
  }
}

// Any up, down and depth; vectors lie along the depth.
template <bool ADD, class A>
void along_x_any(const A* line, A* out, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  constexpr int L = LANES<A>;
  for (int64_t o = 0; o < a.out_columns; o++) {
    const Phase p = phases[o];
    const A* from = line + p.pixel * a.depth;
    A* to = out + o * a.depth;
    int64_t e = 0;
    for (; e + L <= a.depth; e += L) {
      Vec<A> v{};
      for (int64_t t = p.tap, j = 0; t < a.width; t += a.up_x, j++) v += load<A>(from + j * a.depth + e) * taps[t];
      put<ADD, A>(to + e, v);
    }
    for (; e < a.depth; e++) {
      A v = 0;
      for (int64_t t = p.tap, j = 0; t < a.width; t += a.up_x, j++) v += from[j * a.depth + e] * taps[t];
      to[e] = ADD ? to[e] + v : v;
    }
  }
}

template <bool ADD, class A>
void along_x(const A* line, A* out, const A* taps, const Phase* phases, const idgan::Upfirdn2d& a) {
  if (a.depth == 1 && a.up_x == 1 && a.down_x == 1) {
    if (a.width == 4) return along_x_plain<ADD, 4>(line, out, taps, a);
    return along_x_plain<ADD, 0>(line, out, taps, a);
  }
  if (a.depth == 1 && a.up_x == 2 && a.down_x == 1) return along_x_up2<ADD>(line, out, taps, phases, a);
  if (a.depth == 1 && a.up_x == 1 && a.down_x == 2) return along_x_down2<ADD>(line, out, taps, a);
  along_x_any<ADD>(line, out, taps, phases, a);
}

// Where rows are filtered: lines with zeros around, a few at a time, so that the second pass does not wait for the stores
// of the first; one for each call of a kernel.
template <class T>
struct Lines {
  using A = Wide<T>;
  static constexpr int64_t kMost = 8;
  const idgan::Upfirdn2d& a;
  int64_t n, length, together;  // elements of an input row; of a line; lines in use
  A *memory, *first, *result, *weights;
  Phase* phases;
  const T** rows;

  explicit Lines(const idgan::Upfirdn2d& args) : a(args), n(args.columns * args.depth) {
    phases = static_cast<Phase*>(malloc((a.out_columns + 1) * sizeof(Phase)));
    for (int64_t o = 0; o <= a.out_columns; o++) phases[o] = phase_of(o, a.up_x, a.down_x, a.pad_x);
    const int64_t reach = phases[a.out_columns - 1].pixel + (a.width + a.up_x - 1) / a.up_x;
    const int64_t left = phases[0].pixel < 0 ? -phases[0].pixel : 0, right = reach > a.columns ? reach - a.columns : 0;
    length = (left + a.columns + right) * a.depth + 2 * LANES<A>;
    together = 4096 / length < 1 ? 1 : 4096 / length < kMost ? 4096 / length : kMost;
    memory = static_cast<A*>(calloc(together * length + a.out_columns * a.depth + a.height, sizeof(A)));
    first = memory + left * a.depth;
    result = memory + together * length;
    weights = result + a.out_columns * a.depth;
    rows = static_cast<const T**>(malloc(a.height * sizeof(T*)));
  }
  ~Lines() {
    free(memory);
    free(phases);
    free(rows);
  }

  // Row `o` of a separable filter's result, before the pass along x, in line `i`.
  void down_y(const T* image, int64_t o, int64_t i) {
    const Phase p = phase_of(o, a.up_y, a.down_y, a.pad_y);
    const A* taps = static_cast<const A*>(a.taps_y);
    int64_t count = 0;
    for (int64_t t = p.tap, row = p.pixel; t < a.height; t += a.up_y, row++) {
      if (row < 0 || row >= a.rows) continue;
      rows[count] = image + row * n;
      weights[count++] = taps[t];
    }
    vertical<T, A>(first + i * length, rows, weights, count, n);
  }

  void across_x(int64_t i, A* to) {
    along_x<false>(first + i * length, to, static_cast<const A*>(a.taps_x), phases, a);
  }

  // Row `o` of the result of a filter that is not separable: a sum over its rows.
  void whole(const T* image, int64_t o, A* to) {
    const Phase p = phase_of(o, a.up_y, a.down_y, a.pad_y);
    const A one = 1;
    memset(to, 0, a.out_columns * a.depth * sizeof(A));
    for (int64_t t = p.tap, row = p.pixel; t < a.height; t += a.up_y, row++) {
      if (row < 0 || row >= a.rows) continue;
      const T* from = image + row * n;
      vertical<T, A>(first, &from, &one, 1, n);
      along_x<true>(first, to, static_cast<const A*>(a.taps_x) + t * a.width, phases, a);
    }
  }
};

// Rows [o, o + count) of one image's result; `finish` gets each row's number and its wide elements.
template <class T, class F>
inline void filtered_rows(Lines<T>& lines, const T* image, int64_t begin, int64_t end, const F& finish) {
  const int64_t step = lines.a.taps_y == nullptr ? 1 : lines.together;
  for (int64_t o = begin; o < end; o += step) {
    const int64_t count = end - o < step ? end - o : step;
    if (lines.a.taps_y == nullptr) {
      lines.whole(image, o, lines.result);
      finish(o, lines.result);
      continue;
    }
    for (int64_t i = 0; i < count; i++) lines.down_y(image, o + i, i);
    for (int64_t i = 0; i < count; i++) {
      lines.across_x(i, lines.result);
      finish(o + i, lines.result);
    }
  }
}

template <class T>
void upfirdn2d_as(const idgan::Upfirdn2d& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  Lines<T> lines(a);
  const int64_t out_n = a.out_columns * a.depth;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t image = unit / a.blocks(), first = unit % a.blocks() * a.block();
    const int64_t last = first + a.block() < a.out_rows ? first + a.block() : a.out_rows;
    const T* from = static_cast<const T*>(a.in) + image * a.rows * lines.n;
    T* to = static_cast<T*>(a.out) + image * a.out_rows * out_n;
    filtered_rows(lines, from, first, last, [&](int64_t o, const A* row) {
      T* y = to + o * out_n;
      int64_t i = 0;
      for (; i + LANES<A> <= out_n; i += LANES<A>) store_narrow(y + i, load<A>(row + i));
      for (; i < out_n; i++) narrow(row[i], y + i);
    });
  }
}

void upfirdn2d(const idgan::Upfirdn2d& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto element) { upfirdn2d_as<decltype(element)>(a, begin, end); });
}

}  // namespace
