// Pointwise work on a row, by vectors: of a line, of a whole image in memory, of the small tensors; and sums over rows.
#pragma once

#include "rows.h"

namespace {

// A vector of a row: at `i` of a line, at pixel p and, of channels_last, channel c. FULL: it has all its lanes.
template <bool FULL>
struct At {
  int64_t i, p, c, lanes;
};

template <class T, bool FULL>
inline Vec<acc_t<T>> load_at(const T* p, At<FULL> at) {
  if constexpr (FULL) return load_wide(p);
  else return first(p, at.lanes);
}

template <class T, bool FULL>
inline void store_at(T* p, Vec<acc_t<T>> v, At<FULL> at) {
  if constexpr (FULL) store_narrow(p, v);
  else put_first(p, v, at.lanes);
}

// Calls f for the vectors of a row of an image.
template <bool LAST, class T, class F>
inline void each(const Rows<T>& image, const F& f) {
  constexpr int L = LANES<acc_t<T>>;
  if constexpr (LAST) {
    for (int64_t p = 0; p < image.columns; p++) {
      int64_t c = 0;
      for (; c + L <= image.depth; c += L) f(At<true>{p * image.pixel + c, p, c, L});
      if (c < image.depth) f(At<false>{p * image.pixel + c, p, c, image.depth - c});
    }
  } else {
    int64_t i = 0;
    for (; i + L <= image.columns; i += L) f(At<true>{i, i, 0, L});
    if (i < image.columns) f(At<false>{i, i, 0, image.columns - i});
  }
}

template <class T, bool FULL>
inline Vec<acc_t<T>> read(const Rows<T>& image, Row<T> row, At<FULL> at) {
  return load_at(row.even + at.p * image.depth + at.c, at);
}

template <class T, bool FULL>
inline void write(const Rows<T>& image, Row<T> row, At<FULL> at, Vec<acc_t<T>> v) {
  store_at(row.even + at.p * image.depth + at.c, v, at);
}

// A small tensor at one sample. NCHW: the value of one channel, in all lanes.
template <bool LAST, class A>
struct OfChannel {
  Vec<A> value;

  OfChannel(const A* given, int64_t, A otherwise, A*) : value(splat<A>(given == nullptr ? otherwise : *given)) {}
  template <bool FULL>
  Vec<A> operator()(At<FULL>) const {
    return value;
  }
};

// channels_last: the values of all channels, in memory of whole vectors.
template <class A>
struct OfChannel<true, A> {
  const A* values;

  OfChannel(const A* given, int64_t channels, A otherwise, A* memory) : values(memory) {
    for (int64_t c = 0; c < channels; c++) memory[c] = given != nullptr ? given[c] : otherwise;
  }
  template <bool FULL>
  Vec<A> operator()(At<FULL> at) const {
    return load<A>(values + at.c);
  }
};

// A sum over the pixels of a unit in two levels, of a row and of the rows, so that rounding errors stay as small as
// torch's. NCHW: one sum, in lanes that are added up at the end.
template <bool LAST, class A>
struct Sum {
  Vec<A> total{}, row{};

  explicit Sum(int64_t, A*) {}
  template <bool FULL>
  void add(At<FULL> at, Vec<A> v) {
    if constexpr (FULL) {
      row += v;
    } else {  // lanes without a pixel may hold NaN, of 0 * inf
      A some[LANES<A>];
      store<A>(some, v);
      row += first(some, at.lanes);
    }
  }
  void end_row() {
    total += row;
    row = Vec<A>{};
  }
  void into(A* sum) const { *sum = sum_of<A>(total); }
};

// channels_last: a sum for each channel, in memory of 2 size elements.
template <class A>
struct Sum<true, A> {
  int64_t size;
  A *row, *total;

  Sum(int64_t size_, A* memory) : size(size_), row(memory), total(memory + size) {
    memset(memory, 0, 2 * size * sizeof(A));
  }
  template <bool FULL>
  void add(At<FULL> at, Vec<A> v) {
    put<true, A>(row + at.c, v);
  }
  void end_row() {
    for (int64_t c = 0; c < size; c += LANES<A>) put<true, A>(total + c, load<A>(row + c));
    memset(row, 0, size * sizeof(A));
  }
  void into(A* sums) const { memcpy(sums, total, size * sizeof(A)); }
};

}  // namespace
