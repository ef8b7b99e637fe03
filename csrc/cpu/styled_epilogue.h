// u = FIR(y), v = u * scale[n, c] + noise * strength + b[c], z = clamp(gain * lrelu(v)), out = z * next[n, c].
//
// Backward, with g = dout and M = dz/dv: h = g * next * M; dy = scale * FIR^T(h). Sums over pixels: y * FIR^T(h) for scale,
// h * noise for strength, h for b, g * z for next. z is out where nothing follows, else it is computed again from y.
// Mapping: units of result rows, as in upfirdn2d.h; rows of u and h stay in the first-level cache. Rows of h at a unit's
// edge are computed by both neighbours and summed by one. Bytes: forward y and out once; backward dout, out, y and dy.
// Accumulation in float (double for double); sums of a unit in float, of the units in double.
#pragma once

#include "bias_lrelu.h"
#include "upfirdn2d.h"

namespace {

// A vector, or one element, of a row of `columns` pixels: at element i, depth e, pixel p.
template <class V>
struct At {
  int64_t i, e, p;
};

// LAST: channels side by side, so that vectors lie along the depth; else along the row, of one channel.
template <bool LAST, class A, class F>
inline void each(int64_t columns, int64_t depth, const F& f) {
  constexpr int L = LANES<A>;
  if constexpr (LAST) {
    for (int64_t p = 0; p < columns; p++) {
      int64_t e = 0;
      for (; e + L <= depth; e += L) f(At<Vec<A>>{p * depth + e, e, p});
      for (; e < depth; e++) f(At<A>{p * depth + e, e, p});
    }
  } else {
    int64_t i = 0;
    for (; i + L <= columns; i += L) f(At<Vec<A>>{i, 0, i});
    for (; i < columns; i++) f(At<A>{i, 0, i});
  }
}

template <class V>
constexpr bool IS_VECTOR = sizeof(V) > sizeof(double);

template <class T, class V>
inline V read(const T* row, At<V> at) {
  if constexpr (IS_VECTOR<V>) {
    return load_wide(row + at.i);
  } else {
    return widen(row[at.i]);
  }
}

template <class T, class V>
inline void write(T* row, At<V> at, V v) {
  if constexpr (IS_VECTOR<V>) {
    store_narrow(row + at.i, v);
  } else {
    narrow(v, row + at.i);
  }
}

// One value a channel, or one a pixel; `otherwise` where there is none.
template <bool LAST, class A, class V>
inline V of_channel(const A* values, At<V> at, A otherwise) {
  if (values == nullptr) return otherwise - V{};
  if constexpr (LAST && IS_VECTOR<V>) {
    return load<A>(values + at.e);
  } else {
    return values[at.e] - V{};
  }
}
template <bool LAST, class A, class V>
inline V of_pixel(const A* values, At<V> at) {
  if (values == nullptr) return V{};
  if constexpr (!LAST && IS_VECTOR<V>) {
    return load<A>(values + at.p);
  } else {
    return values[at.p] - V{};
  }
}

// A sum over the pixels of a unit for each channel, in two levels, so that rounding errors stay as small as torch's: of a
// row, in a register of lanes (LAST: in `line` [depth]), and of the rows, in `total` [depth or 1].
template <bool LAST, class A>
struct Sum {
  A *total, *line;
  int64_t depth;
  Vec<A> vector{};
  A rest = 0;

  Sum(A* total_, A* line_, int64_t depth_) : total(total_), line(line_), depth(depth_) {
    for (int64_t e = 0; e < depth; e++) total[e] = line[e] = 0;
  }
  template <class V>
  void add(At<V> at, V v) {
    if constexpr (LAST && IS_VECTOR<V>) {
      store<A>(line + at.e, load<A>(line + at.e) + v);
    } else if constexpr (LAST) {
      line[at.e] += v;
    } else if constexpr (IS_VECTOR<V>) {
      vector += v;
    } else {
      rest += v;
    }
  }
  void end_row() {
    if constexpr (LAST) {
      for (int64_t e = 0; e < depth; e++) total[e] += line[e], line[e] = 0;
    } else {
      *total += sum_of<A>(vector) + rest;
      vector = Vec<A>{}, rest = 0;
    }
  }
};

// The small tensors, at the sample and channels of one image.
template <class A>
struct Small {
  const A *scale, *bias, *next, *noise;
  A strength, slope, gain, clamp, sign;

  Small(const idgan::StyledEpilogue& a, int64_t image) {
    const int64_t sample = a.channels_last ? image : image / a.channels;
    const int64_t c = a.channels_last ? 0 : image % a.channels, at = sample * a.channels + c;
    const auto offset = [](const void* p, int64_t by) { return p ? static_cast<const A*>(p) + by : nullptr; };
    scale = offset(a.scale, at), bias = offset(a.bias, c), next = offset(a.next, at);
    noise = offset(a.noise, a.noise_images > 1 ? sample * a.fir.out_rows * a.fir.out_columns : 0);
    strength = a.strength ? *static_cast<const A*>(a.strength) : A(1);
    slope = A(a.slope), gain = A(a.gain), clamp = A(a.clamp), sign = a.gain > 0 ? A(1) : A(-1);
  }

  // z of u at one place; noise_row: of the row's pixels, or null.
  template <bool LAST, class V>
  V activated(V u, At<V> at, const A* noise_row) const {
    const V offset = of_pixel<LAST>(noise_row, at) * strength + of_channel<LAST>(bias, at, A(0));
    return lrelu_forward(u * of_channel<LAST>(scale, at, A(1)), offset, slope, gain, clamp);
  }
};

// Calls finish(o, u) for rows [begin, end) of u; without a filter these are rows of y.
template <class T, class F>
inline void rows_of(Lines<T>& lines, const T* image, int64_t begin, int64_t end, const F& finish) {
  const auto& a = lines.a;
  if (a.width == 1 && a.height == 1 && a.up_x == 1 && a.down_x == 1 && a.pad_x == 0 && a.pad_y == 0 &&
      a.columns == a.out_columns) {
    const Wide<T> one = 1;
    for (int64_t o = begin; o < end; o++) {
      const T* from = image + o * lines.n;
      vertical<T, Wide<T>>(lines.result, &from, &one, 1, lines.n);
      finish(o, lines.result);
    }
  } else {
    filtered_rows(lines, image, begin, end, finish);
  }
}

template <class T, bool LAST>
void styled_epilogue_fwd_of(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  const auto& fir = a.fir;
  Lines<T> lines(fir);
  const int64_t out_n = fir.out_columns * fir.depth;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t image = unit / fir.blocks(), first = unit % fir.blocks() * fir.block();
    const int64_t last = first + fir.block() < fir.out_rows ? first + fir.block() : fir.out_rows;
    const Small<A> small(a, image);
    T* out = static_cast<T*>(fir.out) + image * fir.out_rows * out_n;
    rows_of(lines, static_cast<const T*>(fir.in) + image * fir.rows * lines.n, first, last, [&](int64_t o, const A* u) {
      T* to = out + o * out_n;
      const A* noise = small.noise ? small.noise + o * fir.out_columns : nullptr;
      each<LAST, A>(fir.out_columns, fir.depth, [&](auto at) {
        write(to, at, small.template activated<LAST>(read(u, at), at, noise) * of_channel<LAST>(small.next, at, A(1)));
      });
    });
  }
}

template <class T, bool LAST>
void styled_epilogue_bwd_of(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  const auto &fir = a.fir, &back = a.back;
  const int64_t n = fir.columns * fir.depth, out_n = fir.out_columns * fir.depth;
  // Rows of h that the rows of one unit meet, at most; the filter of `back` sees them as an image of its own.
  const int64_t most = (back.block() * back.down_y + back.height) / back.up_y + 2 + (fir.out_rows + back.blocks() - 1) / back.blocks();
  A* h = static_cast<A*>(malloc(((most + 1) * out_n + 3 * fir.depth) * sizeof(A)));
  A* line = h + (most + 1) * out_n;
  Lines<T> again(fir);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t image = unit / back.blocks(), part = unit % back.blocks(), parts = back.blocks();
    const int64_t first = part * back.block();
    const int64_t last = first + back.block() < back.out_rows ? first + back.block() : back.out_rows;
    const int64_t own = part * fir.out_rows / parts, own_end = (part + 1) * fir.out_rows / parts;
    const auto within = [&](int64_t row) { return row < 0 ? 0 : row > fir.out_rows ? fir.out_rows : row; };
    const int64_t met = within(phase_of(first, back.up_y, back.down_y, back.pad_y).pixel);
    const int64_t met_end = within(phase_of(last - 1, back.up_y, back.down_y, back.pad_y).pixel + (back.height + back.up_y - 1) / back.up_y);
    const int64_t from = met < own ? met : own, to = met_end > own_end ? met_end : own_end;
    const Small<A> small(a, image);
    A* sums = static_cast<A*>(a.sums) + unit * 4 * fir.depth;
    Sum<LAST, A> of_scale(sums, line, fir.depth);
    Sum<LAST, A> of_bias(sums + 2 * fir.depth, line + fir.depth, fir.depth);
    Sum<LAST, A> of_next(sums + 3 * fir.depth, line + 2 * fir.depth, fir.depth);
    A strength = 0;
    const T* y = static_cast<const T*>(fir.in) + image * fir.rows * n;
    const T* out = static_cast<const T*>(a.out_in) + image * fir.out_rows * out_n;
    const T* dout = static_cast<const T*>(a.dout) + image * fir.out_rows * out_n;

    const auto h_row = [&](int64_t o, const A* u) {
      A* to_h = h + (o - from) * out_n;
      const T *g_row = dout + o * out_n, *out_row = out + o * out_n;
      const A* noise = small.noise ? small.noise + o * fir.out_columns : nullptr;
      const bool mine = o >= own && o < own_end;
      Vec<A> with_noise{};
      A rest = 0;
      each<LAST, A>(fir.out_columns, fir.depth, [&](auto at) {
        auto g = read(g_row, at), z = g;
        if (u != nullptr) {
          z = small.template activated<LAST>(read(u, at), at, noise);
        } else {
          z = read(out_row, at);
        }
        const auto v = lrelu_backward(g * of_channel<LAST>(small.next, at, A(1)), z, small.slope, small.gain, small.sign, small.clamp);
        write(to_h, at, v);
        if (!mine) return;
        of_bias.add(at, v);
        if (u != nullptr) of_next.add(at, g * z);
        if (noise == nullptr) return;
        if constexpr (IS_VECTOR<decltype(g)>) {
          with_noise += v * of_pixel<LAST>(noise, at);
        } else {
          rest += v * noise[at.p];
        }
      });
      strength += sum_of<A>(with_noise) + rest;
      if (mine) of_bias.end_row(), of_next.end_row();
      if (mine && a.h != nullptr)
        memcpy(static_cast<A*>(a.h) + (image * fir.out_rows + o) * out_n, to_h, out_n * sizeof(A));
    };
    if (a.next != nullptr) {
      rows_of(again, y, from, to, h_row);
    } else {
      for (int64_t o = from; o < to; o++) h_row(o, nullptr);
    }

    // FIR^T of the rows in h: row `from` of the image is its row 0.
    idgan::Upfirdn2d shifted = back;
    shifted.rows = to - from;
    shifted.pad_y = back.pad_y + from * back.up_y;
    Lines<A> lines(shifted);
    T* dy = static_cast<T*>(back.out) + image * back.out_rows * n;
    rows_of(lines, static_cast<const A*>(h), first, last, [&](int64_t o, const A* t) {
      T* dy_row = dy + o * n;
      const T* y_row = y + o * n;
      each<LAST, A>(back.out_columns, back.depth, [&](auto at) {
        const auto v = read(t, at);
        of_scale.add(at, v * read(y_row, at));
        write(dy_row, at, v * of_channel<LAST>(small.scale, at, A(1)));
      });
      of_scale.end_row();
    });
    sums[fir.depth] = strength;
  }
  free(h);
}

template <class T>
void styled_epilogue_fwd_as(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  a.channels_last ? styled_epilogue_fwd_of<T, true>(a, begin, end) : styled_epilogue_fwd_of<T, false>(a, begin, end);
}

template <class T>
void styled_epilogue_bwd_as(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  a.channels_last ? styled_epilogue_bwd_of<T, true>(a, begin, end) : styled_epilogue_bwd_of<T, false>(a, begin, end);
}

void styled_epilogue_fwd(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  with_type(a.fir.dtype, [&](auto element) { styled_epilogue_fwd_as<decltype(element)>(a, begin, end); });
}

void styled_epilogue_bwd(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  with_type(a.fir.dtype, [&](auto element) { styled_epilogue_bwd_as<decltype(element)>(a, begin, end); });
}

}  // namespace
