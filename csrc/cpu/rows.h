// Rows of images in memory and in the caches.
//
// A line is a row in a cache, widened: of NCHW its pixels of one channel, [columns]; of channels_last (LAST) its pixels
// of all channels, [columns, pixel], where a pixel may be wider than the image's, up to whole vectors.
// An image is whole, or given as its four phases: pixels of even and odd rows and columns, each an image of its own.
#pragma once

#include <cstdlib>

#include "vec.h"

namespace {

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Pixel c of row r: even[r % 2] or odd[r % 2], by c, + r / 2 rows + c / 2 steps.
template <class T>
struct Rows {
  T *even[2], *odd[2];
  int64_t even_stride[2], odd_stride[2], step, columns, depth, pixel;
  bool joined;  // a row is one run of memory, as a line is

  // The image of number `image`; `of`: one address, or four of a phased image; pixel: elements of a line's pixel.
  Rows(void* const* of, bool phased, int64_t image, int64_t rows, int64_t columns_, int64_t depth_, int64_t pixel_)
      : step(phased ? depth_ : 2 * depth_), columns(columns_), depth(depth_), pixel(pixel_) {
    joined = !phased && depth == pixel;
    for (int p = 0; p < 2; p++) {
      if (phased) {
        const int64_t height = (rows + 1 - p) / 2;
        even_stride[p] = (columns + 1) / 2 * depth, odd_stride[p] = columns / 2 * depth;
        even[p] = static_cast<T*>(of[2 * p]) + image * height * even_stride[p];
        odd[p] = static_cast<T*>(of[2 * p + 1]) + image * height * odd_stride[p];
      } else {
        even_stride[p] = odd_stride[p] = 2 * columns * depth;
        even[p] = static_cast<T*>(of[0]) + (image * rows + p) * columns * depth;
        odd[p] = even[p] + depth;
      }
    }
  }

  struct Row {
    T *even, *odd;
  };
  Row at(int64_t r) const {
    return {even[r & 1] + (r >> 1) * even_stride[r & 1], odd[r & 1] + (r >> 1) * odd_stride[r & 1]};
  }
};

template <class T>
using Row = typename Rows<T>::Row;

// n zeros, from where a vector may start.
template <class A>
struct Memory {
  A* const data;

  explicit Memory(int64_t n) : data(static_cast<A*>(aligned_alloc(IDGAN_BYTES, up_to(n + 1, LANES<A>) * sizeof(A)))) {
    memset(data, 0, n * sizeof(A));
  }
  Memory(const Memory&) = delete;
  ~Memory() { free(data); }
};

// The sum of elements at p[j] + x, weighted.
template <int N, class T, class A>
inline Vec<A> weighted(const T* const (&p)[N], int64_t x, const A (&weights)[N]) {
  Vec<A> v = load_wide(p[0] + x) * weights[0];
  for (int j = 1; j < N; j++) v += load_wide(p[j] + x) * weights[j];
  return v;
}

template <int N, class T, class A>
inline A weighted_one(const T* const (&p)[N], int64_t x, const A (&weights)[N]) {
  A v = widen(p[0][x]) * weights[0];
  for (int j = 1; j < N; j++) v += widen(p[j][x]) * weights[j];
  return v;
}

template <bool ADD, class A>
inline void put(A* out, Vec<A> v) {
  store<A>(out, ADD ? load<A>(out) + v : v);
}

// The first n lanes.
template <bool ADD, class A>
inline void put_some(A* out, Vec<A> v, int64_t n) {
  store_some(out, ADD ? load_some(out, n) + v : v, n);
}

// line (+)= the weighted sum of N rows.
template <bool LAST, bool ADD, int N, class T, class A>
inline void weigh(A* line, const Rows<T>& image, const Row<T>* rows, const A* of_rows) {
  constexpr int L = LANES<A>;
  const T *even[N], *odd[N];
  A weights[N];  // a copy, which no store to the line can change
  for (int j = 0; j < N; j++) even[j] = rows[j].even, odd[j] = rows[j].odd, weights[j] = of_rows[j];
  if (image.joined) {
    const int64_t n = image.columns * image.pixel;
    int64_t x = 0;
    for (; x + L <= n; x += L) put<ADD, A>(line + x, weighted<N>(even, x, weights));
    if (!ADD && x < n && n >= L) {  // again from L before the end
      store<A>(line + n - L, weighted<N>(even, n - L, weights));
      return;
    }
    for (; x < n; x++) line[x] = (ADD ? line[x] : A(0)) + weighted_one<N>(even, x, weights);
  } else if constexpr (LAST) {
    const auto one = [&](A* to, const T* const(&p)[N], int64_t x) {
      int64_t i = 0;
      for (; i + L <= image.depth; i += L) put<ADD, A>(to + i, weighted<N>(p, x + i, weights));
      if (i == image.depth) return;
      Vec<A> v = load_some(p[0] + x + i, image.depth - i) * weights[0];
      for (int j = 1; j < N; j++) v += load_some(p[j] + x + i, image.depth - i) * weights[j];
      put<ADD, A>(to + i, v);
    };
    int64_t c = 0, x = 0;
    for (; c + 2 <= image.columns; c += 2, x += image.step) {
      one(line + c * image.pixel, even, x);
      one(line + (c + 1) * image.pixel, odd, x);
    }
    if (c < image.columns) one(line + c * image.pixel, even, x);
  } else {
    const int64_t n = image.columns, half = n / 2;
    int64_t m = 0;
    for (; m + L <= half; m += L) {
      Vec<A> first, second;
      interleave<A>(weighted<N>(even, m, weights), weighted<N>(odd, m, weights), first, second);
      put<ADD, A>(line + 2 * m, first);
      put<ADD, A>(line + 2 * m + L, second);
    }
    for (int64_t x = 2 * m; x < n; x++)
      line[x] = (ADD ? line[x] : A(0)) + weighted_one<N>(x % 2 ? odd : even, x / 2, weights);
  }
}

// line = the weighted sum of `count` rows, at least 1.
template <bool LAST, class T, class A>
void weighted_rows(A* line, const Rows<T>& image, const Row<T>* rows, const A* weights, int64_t count) {
  if (count == 1) weigh<LAST, false, 1>(line, image, rows, weights);
  if (count == 2) weigh<LAST, false, 2>(line, image, rows, weights);
  if (count == 3) weigh<LAST, false, 3>(line, image, rows, weights);
  if (count == 4 || count == 5) weigh<LAST, false, 4>(line, image, rows, weights);
  if (count >= 6) weigh<LAST, false, 6>(line, image, rows, weights);
  int64_t j = count < 6 ? 4 : 6;
  for (; j + 6 <= count; j += 6) weigh<LAST, true, 6>(line, image, rows + j, weights + j);
  for (; j < count; j++) weigh<LAST, true, 1>(line, image, rows + j, weights + j);
}

// Two lines at once, of rows that are runs of memory: sums of N rows, for the second line SHIFT rows further.
template <int N, int SHIFT, class T, class A>
inline void weigh_two(A* line, A* second, const Rows<T>& image, const Row<T>* rows, const A* of_line,
                      const A* of_second) {
  constexpr int L = LANES<A>;
  const T* p[N + SHIFT];
  A w[N], u[N];
  for (int j = 0; j < N + SHIFT; j++) p[j] = rows[j].even;
  for (int j = 0; j < N; j++) w[j] = of_line[j], u[j] = of_second[j];
  const auto both = [&](const auto& at, auto& v, auto& z) {
    for (int j = 0; j < N + SHIFT; j++) {
      const auto e = at(p[j]);
      if (j < N) v = j == 0 ? e * w[0] : v + e * w[j];
      if (j >= SHIFT) z = j == SHIFT ? e * u[0] : z + e * u[j - SHIFT];
    }
  };
  const int64_t n = image.columns * image.pixel, ahead = larger(n, 512);
  int64_t x = 0;
  for (; x + L <= n; x += L) {
    // Two of the next rows, of small images somewhat later ones, into the second-level cache: memory is read while
    // these lines are filtered along x. Numbers, since there may be no such row.
    const uintptr_t next = reinterpret_cast<uintptr_t>(p[N + SHIFT - 1]) + (ahead + x) * sizeof(T);
    __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
    __builtin_prefetch(reinterpret_cast<const void*>(next + n * sizeof(T)), 0, 2);
    Vec<A> v{}, z{};
    both([&](const T* row) { return load_wide(row + x); }, v, z);
    store<A>(line + x, v), store<A>(second + x, z);
  }
  for (; x < n; x++) both([&](const T* row) { return widen(row[x]); }, line[x], second[x]);
}

template <bool LAST, class T, class A>
inline void read_row(A* line, const Rows<T>& image, int64_t r) {
  const Row<T> row = image.at(r);
  const A one = 1;
  weigh<LAST, false, 1>(line, image, &row, &one);
}

template <bool LAST, class T, class A>
inline void write_row(const Rows<T>& image, int64_t r, const A* line) {
  constexpr int L = LANES<A>;
  const Row<T> row = image.at(r);
  if (image.joined) {
    const int64_t n = image.columns * image.pixel;
    int64_t x = 0;
    for (; x + L <= n; x += L) store_narrow(row.even + x, load<A>(line + x));
    for (; x < n; x++) narrow(line[x], row.even + x);
  } else if constexpr (LAST) {
    const auto one = [&](T* to, const A* from) {
      for (int64_t i = 0; i < image.depth; i += L) store_some(to + i, load<A>(from + i), image.depth - i);
    };
    int64_t c = 0, x = 0;
    for (; c + 2 <= image.columns; c += 2, x += image.step) {
      one(row.even + x, line + c * image.pixel);
      one(row.odd + x, line + (c + 1) * image.pixel);
    }
    if (c < image.columns) one(row.even + x, line + c * image.pixel);
  } else {
    const int64_t n = image.columns, half = n / 2;
    int64_t m = 0;
    for (; m + L <= half; m += L) {
      Vec<A> even, odd;
      deinterleave<A>(load<A>(line + 2 * m), load<A>(line + 2 * m + L), even, odd);
      store_narrow(row.even + m, even);
      store_narrow(row.odd + m, odd);
    }
    for (int64_t x = 2 * m; x < n; x++) narrow(line[x], (x % 2 ? row.odd : row.even) + x / 2);
  }
}

}  // namespace
