// u = FIR(y), v = u * scale[n, c] + noise * strength + b[c], z = clamp(gain * lrelu(v)), out = z * next[n, c].
//
// Backward, with g = dout and M = dz/dv: h = g * next * M; dy = scale * FIR^T(h). Sums over pixels: y * FIR^T(h) for
// scale, h * noise for strength, h for b, g * z for next. z is out where nothing follows, else computed again from y.
// Mapping: units of result rows, as in upfirdn2d.h; rows of u and h stay in the caches. Rows of h at a unit's edge are
// computed by both neighbors and summed by one. Bytes: forward y and out once; backward dout, out, y and dy.
// Accumulation in float (double for double); sums of a unit in float, of the units in double.
#pragma once

#include "activations.h"
#include "pixels.h"
#include "upfirdn2d.h"

namespace {

// The small tensors, at the sample and channels of one unit; memory: of three times as many elements as a pixel.
template <bool LAST, class A>
struct Small {
  OfChannel<LAST, A> scale, bias, next;
  const A* noise;
  A strength, slope, gain, clamp, sign;

  Small(const idgan::StyledEpilogue& a, const Block& b, A* memory)
      : scale(at(a.scale, a, b, true), a.channels, A(1), memory),
        bias(at(a.bias, a, b, false), a.channels, A(0), memory + a.fir.pixel),
        next(at(a.next, a, b, true), a.channels, A(1), memory + 2 * a.fir.pixel) {
    noise = static_cast<const A*>(a.noise);
    if (noise != nullptr && a.noise_images > 1) noise += sample(a, b) * a.fir.out_rows * a.fir.out_columns;
    strength = a.strength ? *static_cast<const A*>(a.strength) : A(1);
    slope = A(a.slope), gain = A(a.gain), clamp = A(a.clamp), sign = a.gain > 0 ? A(1) : A(-1);
  }
  static int64_t sample(const idgan::StyledEpilogue& a, const Block& b) {
    return LAST ? b.image : b.image / a.channels;
  }
  static const A* at(const void* given, const idgan::StyledEpilogue& a, const Block& b, bool of_sample) {
    if (given == nullptr) return nullptr;
    const int64_t channel = LAST ? 0 : b.image % a.channels;
    return static_cast<const A*>(given) + (of_sample ? sample(a, b) * a.channels : 0) + channel;
  }

  // Of the pixels of row `o`, or null.
  const A* noise_row(int64_t o, int64_t columns) const { return noise ? noise + o * columns : nullptr; }

  template <bool FULL>
  static Vec<A> noise_at(const A* row, At<FULL> at) {
    if (row == nullptr) return Vec<A>{};
    return LAST ? splat<A>(row[at.p]) : load_at(row + at.p, at);
  }

  // z of u at one place.
  template <bool FULL>
  Vec<A> activated(Vec<A> u, At<FULL> at, const A* noise_row) const {
    return lrelu_forward(u * scale(at), noise_at(noise_row, at) * strength + bias(at), slope, gain, clamp);
  }
};

// Calls finish(o, u) for rows [begin, end) of u; without a filter these are rows of y.
template <bool LAST, class T, class F>
inline void rows_of(bool filtered, Lines<LAST, T>& lines, const Rows<T>& image, int64_t begin, int64_t end,
                    const F& finish) {
  if (filtered) {
    lines.filtered(image, begin, end, [&](int64_t) { return lines.results.data; }, finish);
    return;
  }
  for (int64_t o = begin; o < end; o++) {
    read_row<LAST>(lines.results.data, image, o);
    finish(o, lines.results.data);
  }
}

template <class T, bool LAST>
void styled_epilogue_fwd_of(const idgan::StyledEpilogue& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const auto& fir = a.fir;
  Lines<LAST, T> lines(fir);
  Memory<A> memory(3 * fir.pixel);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block b = block_of(fir, fir.out_rows, unit);
    const Small<LAST, A> of_unit(a, b, memory.data);
    const Rows<T> y = input_of<T>(fir, b), out = output_of<T>(fir, b);
    rows_of(a.filtered, lines, y, b.first, b.last, [&](int64_t o, const A* u) {
      const Small<LAST, A> small = of_unit;  // a copy, which no store to the result can change
      const Row<T> to = out.at(o);
      const A* noise = small.noise_row(o, fir.out_columns);
      each<LAST>(out, [&](auto at) {
        write(out, to, at, small.activated(load_at(u + at.i, at), at, noise) * small.next(at));
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
  using A = acc_t<T>;
  const auto &fir = a.fir, &back = a.back;
  const int64_t pixel = back.pixel, out_n = fir.out_columns * pixel;
  int64_t most = 0;
  for (int64_t part = 0; part < back.blocks(); part++) most = larger(most, span_of_h(a, part).rows());
  Memory<A> h(most * out_n), y_line(back.out_columns * pixel), memory((3 + 4 * 2) * pixel);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block b = block_of(back, back.out_rows, unit);
    const auto [own, own_end, from, to] = span_of_h(a, b.part);
    const Small<LAST, A> of_unit(a, b, memory.data);
    const auto sum = [&](int64_t i) { return Sum<LAST, A>(pixel, memory.data + (3 + 2 * i) * pixel); };
    Sum<LAST, A> of_scale = sum(0), of_strength = sum(1), of_bias = sum(2), of_next = sum(3);
    const Rows<T> y = input_of<T>(fir, b), dy = output_of<T>(back, b);
    const auto result = [&](auto element, void* p) {
      void* const whole[] = {p};
      return Rows<decltype(element)>(whole, false, b.image, fir.out_rows, fir.out_columns, fir.depth, pixel);
    };
    const Rows<T> out = result(T{}, a.out_in), dout = result(T{}, a.dout);

    struct Two {
      Vec<A> v, gz;
    };
    const auto h_row = [&](int64_t o, const A* u) {
      const Small<LAST, A> small = of_unit;
      A* const to_h = h.data + (o - from) * out_n;
      const Row<T> g_row = dout.at(o), out_row = out.at(o);
      const A* noise = small.noise_row(o, fir.out_columns);
      const auto one = [&](auto at) {
        const auto g = read(dout, g_row, at);
        const auto z = u != nullptr ? small.activated(load_at(u + at.i, at), at, noise) : read(out, out_row, at);
        const auto v = lrelu_backward(g * small.next(at), z, small.slope, small.gain, small.sign, small.clamp);
        store_at(to_h + at.i, v, at);
        return Two{v, g * z};
      };
      if (o < own || o >= own_end) return each<LAST>(out, [&](auto at) { one(at); });
      Sum<LAST, A> strength = of_strength, bias = of_bias, next = of_next;
      each<LAST>(out, [&](auto at) {
        const auto [v, gz] = one(at);
        bias.add(at, v);
        if (u != nullptr) next.add(at, gz);
        if (noise != nullptr) strength.add(at, v * small.noise_at(noise, at));
      });
      strength.end_row(), bias.end_row(), next.end_row();
      of_strength = strength, of_bias = bias, of_next = next;
      if (a.h != nullptr) write_row<LAST>(result(A{}, a.h), o, to_h);
    };
    if (a.next != nullptr) {
      Lines<LAST, T> again(fir);
      rows_of(a.filtered, again, y, from, to, h_row);
    } else {
      for (int64_t o = from; o < to; o++) h_row(o, nullptr);
    }

    idgan::Upfirdn2d shifted = back;
    shifted.rows = to - from;
    shifted.pad_y = back.pad_y + from;
    Lines<LAST, A> lines(shifted);
    void* const whole[] = {h.data};
    const Rows<A> h_rows(whole, false, 0, shifted.rows, back.columns, pixel, pixel);
    const auto dy_row = [&](int64_t o, A* t) {
      const Small<LAST, A> small = of_unit;
      Sum<LAST, A> scale = of_scale;
      if (!fir.phased) {
        const Row<T> to = dy.at(o), y_row = y.at(o);
        each<LAST>(dy, [&](auto at) {
          const auto v = load_at(t + at.i, at);
          if (a.want_scale) scale.add(at, v * read(y, y_row, at));
          write(dy, to, at, v * small.scale(at));
        });
      } else {
        if (a.want_scale) read_row<LAST>(y_line.data, y, o);
        each<LAST>(dy, [&](auto at) {
          const auto v = load_at(t + at.i, at);
          if (a.want_scale) scale.add(at, v * load_at(y_line.data + at.i, at));
          store_at(t + at.i, v * small.scale(at), at);
        });
        write_row<LAST>(dy, o, t);
      }
      scale.end_row();
      of_scale = scale;
    };
    if (a.filtered) {
      lines.filtered(h_rows, b.first, b.last, [&](int64_t) { return lines.results.data; }, dy_row);
    } else {
      for (int64_t o = b.first; o < b.last; o++) dy_row(o, h.data + (o - from) * out_n);
    }
    A* const sums = static_cast<A*>(a.sums) + unit * 4 * pixel;
    of_scale.into(sums), of_strength.into(sums + pixel), of_bias.into(sums + 2 * pixel), of_next.into(sums + 3 * pixel);
  }
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
