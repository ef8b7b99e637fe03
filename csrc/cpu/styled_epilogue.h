// u = FIR(y), v = u * scale[n, c] + noise * strength + b[c], z = clamp(gain * lrelu(v)), out = z * next[n, c].
//
// Backward, with g = dout and M = dz/dv: h = g * next * M; dy = scale * FIR^T(h). Sums over pixels: y * FIR^T(h) for
// scale, h * noise for strength, h for b, g * z for next. z is out where nothing follows, else computed again from y.
// Mapping: units of result rows, as in upfirdn2d.h; rows of u and h stay in the caches. Rows of h at a unit's edge are
// computed by both neighbours and summed by one. Bytes: forward y and out once; backward dout, out, y and dy.
// Accumulation in float (double for double); sums of a unit in float, of the units in double.
#pragma once

#include "bias_lrelu.h"
#include "upfirdn2d.h"

namespace {

// A vector, or one element, of a row: at `i` of a line, at pixel p, of channels_last at channel c.
template <class V>
struct At {
  int64_t i, p, c;
};

// Of channels_last always vectors; the last of a pixel may hold fewer channels than lanes.
template <bool LAST, class T, class F>
inline void each(const Rows<T>& image, const F& f) {
  using A = Wide<T>;
  constexpr int L = LANES<A>;
  if constexpr (LAST) {
    for (int64_t p = 0; p < image.columns; p++)
      for (int64_t c = 0; c < image.depth; c += L) f(At<Vec<A>>{p * image.pixel + c, p, c});
  } else {
    int64_t i = 0;
    for (; i + L <= image.columns; i += L) f(At<Vec<A>>{i, i, 0});
    for (; i < image.columns; i++) f(At<A>{i, i, 0});
  }
}

template <class V>
constexpr bool IS_VECTOR = sizeof(V) > sizeof(double);

// Of a line.
template <class A, class V>
inline V read(const A* line, At<V> at) {
  if constexpr (IS_VECTOR<V>) {
    return load<A>(line + at.i);
  } else {
    return line[at.i];
  }
}

template <class A, class V>
inline void keep(A* line, At<V> at, V v) {
  if constexpr (IS_VECTOR<V>) {
    store<A>(line + at.i, v);
  } else {
    line[at.i] = v;
  }
}

// Of a row of a whole image in memory.
template <bool LAST, class T, class V>
inline V read(const Rows<T>& image, Row<T> row, At<V> at) {
  if constexpr (LAST) {
    return load_some(row.even + at.p * (image.step / 2) + at.c, image.depth - at.c);
  } else if constexpr (IS_VECTOR<V>) {
    return load_wide(row.even + at.i);
  } else {
    return widen(row.even[at.i]);
  }
}

template <bool LAST, class T, class V>
inline void write(const Rows<T>& image, Row<T> row, At<V> at, V v) {
  if constexpr (LAST) {
    store_some(row.even + at.p * (image.step / 2) + at.c, v, image.depth - at.c);
  } else if constexpr (IS_VECTOR<V>) {
    store_narrow(row.even + at.i, v);
  } else {
    narrow(v, row.even + at.i);
  }
}

// A sum over the pixels of a unit, in two levels, so that rounding errors stay as small as torch's: of a row and of the
// rows. NCHW: one sum, in lanes that are added up at the end.
template <bool LAST, class A>
struct Sum {
  Vec<A> row{}, total{};
  A row_rest = 0, rest = 0;

  explicit Sum(int64_t) {}
  void start() { *this = Sum(0); }
  void add(At<Vec<A>>, Vec<A> v) { row += v; }
  void add(At<A>, A v) { row_rest += v; }
  void end_row() {
    total += row, rest += row_rest;
    row = Vec<A>{}, row_rest = 0;
  }
  void into(A* sum) const { *sum = sum_of<A>(total) + rest; }
};

// channels_last: a sum for each channel.
template <class A>
struct Sum<true, A> {
  int64_t size;
  A *row, *total;

  explicit Sum(int64_t size_) : size(size_), row(static_cast<A*>(malloc(2 * size * sizeof(A)))), total(row + size) {}
  ~Sum() { free(row); }
  void start() { memset(row, 0, 2 * size * sizeof(A)); }
  void add(At<Vec<A>> at, Vec<A> v) { put<true, A>(row + at.c, v); }
  void end_row() {
    for (int64_t c = 0; c < size; c += LANES<A>) put<true, A>(total + c, load<A>(row + c));
    memset(row, 0, size * sizeof(A));
  }
  void into(A* sums) const { memcpy(sums, total, size * sizeof(A)); }
};

// One of the small tensors, at a unit's sample and channels. NCHW: one value, in all lanes.
template <bool LAST, class A>
struct OfChannel {
  Vec<A> value;

  explicit OfChannel(int64_t) {}
  void set(const A* given, int64_t, A otherwise) { value = splat<A>(given == nullptr ? otherwise : *given); }
  Vec<A> operator()(At<Vec<A>>) const { return value; }
  A operator()(At<A>) const { return value[0]; }
};

template <class A>
struct OfChannel<true, A> {
  int64_t size;
  A* values;

  explicit OfChannel(int64_t size_) : size(size_), values(static_cast<A*>(malloc(size * sizeof(A)))) {}
  ~OfChannel() { free(values); }
  void set(const A* given, int64_t channels, A otherwise) {
    for (int64_t c = 0; c < size; c++) values[c] = given != nullptr && c < channels ? given[c] : otherwise;
  }
  Vec<A> operator()(At<Vec<A>> at) const { return load<A>(values + at.c); }
};

// The small tensors, at the sample and channels of one unit.
template <bool LAST, class A>
struct Small {
  const idgan::StyledEpilogue& a;
  OfChannel<LAST, A> scale, bias, next;
  const A* noise;
  A strength, slope, gain, clamp, sign;

  explicit Small(const idgan::StyledEpilogue& args)
      : a(args), scale(a.fir.pixel), bias(a.fir.pixel), next(a.fir.pixel) {
    strength = a.strength ? *static_cast<const A*>(a.strength) : A(1);
    slope = A(a.slope), gain = A(a.gain), clamp = A(a.clamp), sign = a.gain > 0 ? A(1) : A(-1);
  }
  void start(const Block& b) {
    const int64_t sample = LAST ? b.image : b.image / a.channels, channel = LAST ? 0 : b.image % a.channels;
    const auto set = [&](auto& of, const void* given, int64_t at, A otherwise) {
      of.set(given ? static_cast<const A*>(given) + at + channel : nullptr, a.channels, otherwise);
    };
    set(scale, a.scale, sample * a.channels, A(1)), set(next, a.next, sample * a.channels, A(1));
    set(bias, a.bias, 0, A(0));
    noise = static_cast<const A*>(a.noise);
    if (noise != nullptr && a.noise_images > 1) noise += sample * a.fir.out_rows * a.fir.out_columns;
  }

  template <class V>
  static V noise_at(const A* row, At<V> at) {
    if (row == nullptr) return V{};
    if constexpr (IS_VECTOR<V> && !LAST) {
      return load<A>(row + at.p);
    } else {
      return row[at.p] - V{};
    }
  }

  // z of u at one place; noise_row: of the row's pixels, or null.
  template <class V>
  V activated(V u, At<V> at, const A* noise_row) const {
    return lrelu_forward(u * scale(at), noise_at(noise_row, at) * strength + bias(at), slope, gain, clamp);
  }
};

// Calls finish(o, u) for rows [begin, end) of u; without a filter these are rows of y.
template <bool LAST, class T, class F>
inline void rows_of(bool filtered, Lines<LAST, T>& lines, const Rows<T>& image, int64_t begin, int64_t end,
                    const F& finish) {
  if (filtered) {
    lines.filtered(image, begin, end, [&](int64_t) { return lines.result; }, finish);
    return;
  }
  for (int64_t o = begin; o < end; o++) {
    read_row<LAST>(lines.result, image, o);
    finish(o, lines.result);
  }
}

template <class T, bool LAST>
void styled_epilogue_fwd_of(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  const auto& fir = a.fir;
  Lines<LAST, T> lines(fir);
  Small<LAST, A> small(a);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block b = block_of(fir, fir.out_rows, unit);
    small.start(b);
    const Rows<T> y = input_of<T>(fir, b), out = output_of<T>(fir, b);
    rows_of(a.filtered, lines, y, b.first, b.last, [&](int64_t o, const A* u) {
      const Row<T> to = out.at(o);
      const A* noise = small.noise ? small.noise + o * fir.out_columns : nullptr;
      each<LAST>(out, [&](auto at) {
        write<LAST>(out, to, at, small.activated(read(u, at), at, noise) * small.next(at));
      });
    });
  }
}

// Rows of h in one part of the image: those that it sums, and those that it computes, which its rows of dy meet too.
inline RowSpan span_of_h(const idgan::StyledEpilogue& a, int64_t part) {
  const int64_t parts = a.back.blocks(), rows = a.fir.out_rows;
  const int64_t own = part * rows / parts, own_end = (part + 1) * rows / parts;
  const int64_t first = part * a.back.block(), last = smaller(first + a.back.block(), a.back.out_rows);
  const auto within = [&](int64_t row) { return smaller(larger(row, 0), rows); };
  return {own, own_end, smaller(own, within(first - a.back.pad_y)),
          larger(own_end, within(last - 1 - a.back.pad_y + a.back.height))};
}

template <class T, bool LAST>
void styled_epilogue_bwd_of(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  using A = Wide<T>;
  const auto &fir = a.fir, &back = a.back;
  const int64_t pixel = back.pixel;
  const int64_t out_n = fir.out_columns * pixel;
  const int64_t parts = back.blocks();
  int64_t most = 0;
  for (int64_t part = 0; part < parts; part++) most = larger(most, span_of_h(a, part).rows());
  A* h = static_cast<A*>(malloc((most * out_n + back.out_columns * pixel) * sizeof(A)));
  A* y_line = h + most * out_n;
  Small<LAST, A> small(a);
  Sum<LAST, A> of_scale(pixel), of_strength(pixel), of_bias(pixel), of_next(pixel);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block b = block_of(back, back.out_rows, unit);
    const auto [own, own_end, from, to] = span_of_h(a, b.part);
    small.start(b);
    for (auto* sum : {&of_scale, &of_strength, &of_bias, &of_next}) sum->start();
    const Rows<T> y = input_of<T>(fir, b), dy = output_of<T>(back, b);
    const auto result = [&](void* p) {
      void* const whole[] = {p};
      return Rows<T>(whole, false, b.image, fir.out_rows, fir.out_columns, fir.depth, pixel);
    };
    const Rows<T> out = result(a.out_in), dout = result(a.dout);

    const auto h_row = [&](int64_t o, const A* u) {
      A* to_h = h + (o - from) * out_n;
      const Row<T> g_row = dout.at(o), out_row = out.at(o);
      const A* noise = small.noise ? small.noise + o * fir.out_columns : nullptr;
      const bool mine = o >= own && o < own_end;
      each<LAST>(out, [&](auto at) {
        const auto g = read<LAST>(dout, g_row, at);
        const auto z = u != nullptr ? small.activated(read(u, at), at, noise) : read<LAST>(out, out_row, at);
        const auto after = g * small.next(at);
        const auto v = lrelu_backward(after, z, small.slope, small.gain, small.sign, small.clamp);
        keep(to_h, at, v);
        if (!mine) return;
        of_bias.add(at, v);
        if (u != nullptr) of_next.add(at, g * z);
        if (noise != nullptr) of_strength.add(at, v * small.noise_at(noise, at));
      });
      of_bias.end_row(), of_next.end_row(), of_strength.end_row();
      if (mine && a.h != nullptr) {
        void* const whole[] = {a.h};
        const Rows<A> all(whole, false, b.image, fir.out_rows, fir.out_columns, fir.depth, pixel);
        write_row<LAST>(all, o, to_h);
      }
    };
    if (a.next != nullptr) {
      Lines<LAST, T> again(fir);
      rows_of(a.filtered, again, y, from, to, h_row);
    } else {
      for (int64_t o = from; o < to; o++) h_row(o, nullptr);
    }

    // FIR^T of the rows in h: row `from` of the image is its row 0.
    idgan::Upfirdn2d shifted = back;
    shifted.rows = to - from;
    shifted.pad_y = back.pad_y + from;
    Lines<LAST, A> lines(shifted);
    void* const memory[] = {h};
    const Rows<A> h_rows(memory, false, 0, shifted.rows, back.columns, pixel, pixel);
    const auto dy_row = [&](int64_t o, A* t) {
      if (a.want_scale) {
        read_row<LAST>(y_line, y, o);
        each<LAST>(dy, [&](auto at) { of_scale.add(at, read(t, at) * read(y_line, at)); });
        of_scale.end_row();
      }
      if (a.scale != nullptr) {
        each<LAST>(dy, [&](auto at) {
          const auto v = read(t, at) * small.scale(at);
          keep(t, at, v);
        });
      }
      write_row<LAST>(dy, o, t);
    };
    if (a.filtered) {
      lines.filtered(h_rows, b.first, b.last, [&](int64_t) { return lines.result; }, dy_row);
    } else {
      for (int64_t o = b.first; o < b.last; o++) dy_row(o, h + (o - from) * out_n);
    }
    A* sums = static_cast<A*>(a.sums) + unit * 4 * pixel;
    of_scale.into(sums), of_bias.into(sums + 2 * pixel), of_next.into(sums + 3 * pixel);
    of_strength.into(sums + pixel);
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
