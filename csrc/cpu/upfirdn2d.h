// y[o] = sum over t of taps[t] * stuffed[o * down + t - pad], along x and along y; stuffed: up - 1 zeros after a pixel.
//
// For a given o only every up-th tap meets a pixel: the first is t0 = (pad - o * down) mod up, at pixel
// i0 = (o * down + t0 - pad) / up, so no zero is ever stored or multiplied (polyphase).
// Mapping: a unit is a block of result rows of one image, of channels_last with all channels. Of a separable filter,
// two result rows at a time are first sums of input rows (along y, into lines with zeros on both sides, in the caches)
// and then filtered along x. Bytes: the input once from memory, if its height(f) rows stay in cache, the result once.
// Flops an output: 2 (fh / up_y + fw / up_x) for columns of about equal numbers. Accumulation in float (double for
// double).
#pragma once

#include "along_x.h"

namespace {

// Where rows are filtered: lines with zeros around, a few at a time, and as many results.
template <bool LAST, class T>
struct Lines {
  using A = acc_t<T>;
  static constexpr int64_t kMost = 8;
  const idgan::Upfirdn2d& a;
  const Memory<Phase> phases;   // along x
  const Memory<Row<T>> rows;    // of the image
  const int64_t per_phase;      // taps along y that a row meets, at most
  const Memory<A> weights;      // taps along y by phase, [up_y, per_phase]
  const int64_t left, length;   // elements of a line before pixel 0, and of all of it
  const int64_t together;       // lines in use
  const Memory<A> lines, results;
  A* const first;               // pixel 0 of the first line
  A offset = 0;                 // added to every pixel of the image, of NCHW

  explicit Lines(const idgan::Upfirdn2d& args)
      : a(args),
        phases(a.out_columns),
        rows(a.rows),
        per_phase((a.height + a.up_y - 1) / a.up_y),
        weights(a.up_y * per_phase),
        left(larger(0, -phase_of(0, a.up_x, a.down_x, a.pad_x).pixel) * a.pixel),
        // Behind a line's end along_x_down2_four reads up to 4 LANES - 4 elements, the others less.
        length(up_to(left + larger(a.columns, reach()) * a.pixel, LANES<A>) + 4 * LANES<A>),
        together(a.taps_y == nullptr ? 1 : larger(2, smaller(4096 / length, kMost))),
        lines(together * length),
        results(together * out_length()),
        first(lines.data + left) {
    for (int64_t o = 0; o < a.out_columns; o++) phases.data[o] = phase_of(o, a.up_x, a.down_x, a.pad_x);
    for (int64_t t = 0; a.taps_y != nullptr && t < a.height; t++)
      weights.data[t % a.up_y * per_phase + t / a.up_y] = static_cast<const A*>(a.taps_y)[t];
  }
  // The end of the pixels that taps may meet.
  int64_t reach() const {
    return phase_of(a.out_columns - 1, a.up_x, a.down_x, a.pad_x).pixel + (a.width + a.up_x - 1) / a.up_x;
  }
  int64_t out_length() const { return a.out_columns * a.pixel; }

  // Which taps and rows of the image row `o` of the result meets.
  struct Met {
    int64_t tap, row, count;
  };
  Met met(int64_t o) const {
    const Phase p = phase_of(o, a.up_y, a.down_y, a.pad_y);
    const int64_t skipped = larger(0, -p.pixel), taps = (a.height - p.tap + a.up_y - 1) / a.up_y;
    return {p.tap + skipped * a.up_y, p.pixel + skipped, larger(0, smaller(taps, a.rows - p.pixel) - skipped)};
  }

  const A* weights_of(const Met& m) const { return weights.data + m.tap % a.up_y * per_phase + m.tap / a.up_y; }

  // Row `o` of a separable filter's result, before the pass along x, in `line`.
  void down_y(const Rows<T>& image, int64_t o, A* line) {
    const Met m = met(o);
    if (m.count == 0) {
      memset(line, 0, image.columns * image.pixel * sizeof(A));
      return;
    }
    weighted_rows<LAST>(line, image, rows.data + m.row, weights_of(m), m.count);
    shift(line, weights_of(m), m.count);
  }

  // Rows `o` and o + 1 likewise, each input row read once for both; false where these meet other rows than usual.
  bool down_y_two(const Rows<T>& image, int64_t o, A* line) {
    const Met m = met(o), next = met(o + 1);
    const int64_t count = m.count, by = next.row - m.row;
    const bool known = (count == 4 && (by == 1 || by == 2)) || (count == 2 && (by == 0 || by == 1));
    if (!known || next.count != count || !image.joined) return false;
    const A *const w = weights_of(m), *const u = weights_of(next);
    A* const second = line + length;
    const Row<T>* const from = rows.data + m.row;
    if (count == 4 && by == 1) weigh_two<4, 1>(line, second, image, from, w, u);
    if (count == 4 && by == 2) weigh_two<4, 2>(line, second, image, from, w, u);
    if (count == 2 && by == 0) weigh_two<2, 0>(line, second, image, from, w, u);
    if (count == 2 && by == 1) weigh_two<2, 1>(line, second, image, from, w, u);
    shift(line, w, count), shift(second, u, count);
    return true;
  }

  // Adds what the offset gives to a sum of rows with these weights.
  void shift(A* line, const A* of_rows, int64_t count) const {
    if (LAST || offset == 0) return;
    A sum = 0;
    for (int64_t j = 0; j < count; j++) sum += of_rows[j];
    put_all<true>(line, a.columns, [by = splat<A>(offset * sum)](int64_t) { return by; });
  }

  // Row `o` of the result of a filter that is not separable: a sum over its rows.
  void whole(const Rows<T>& image, int64_t o, A* to) {
    const Met m = met(o);
    memset(to, 0, out_length() * sizeof(A));
    for (int64_t j = 0; j < m.count; j++) {
      read_row<LAST>(first, image, m.row + j);
      const A one = 1;
      shift(first, &one, 1);
      const A* taps = static_cast<const A*>(a.taps_x) + (m.tap + j * a.up_y) * a.width;
      along_x<LAST, true>(Strip<A>{first, 0, 1, to}, taps, phases.data, a);
    }
  }

  // Rows [begin, end) of one image's result, `together` of them from where(o) on; then finish(o, row).
  template <class W, class F>
  void filtered(const Rows<T>& image, int64_t begin, int64_t end, const W& where, const F& finish) {
    if (begin >= end) return;
    const Met last = met(end - 1);
    for (int64_t r = met(begin).row; r < smaller(last.row + last.count, a.rows); r++) rows.data[r] = image.at(r);
    for (int64_t o = begin; o < end; o += together) {
      const int64_t count = smaller(end - o, together);
      A* const to = where(o);
      if (a.taps_y == nullptr) {
        whole(image, o, to);
      } else {
        for (int64_t i = 0; i < count; i++) {
          A* const line = first + i * length;
          if (i + 1 < count && down_y_two(image, o + i, line)) i++;
          else down_y(image, o + i, line);
        }
        along_x<LAST, false>(Strip<A>{first, length, count, to}, static_cast<const A*>(a.taps_x), phases.data, a);
      }
      for (int64_t i = 0; i < count; i++) finish(o + i, to + i * out_length());
    }
  }
};

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
  using A = acc_t<T>;
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
        in, b.first, b.last, [&](int64_t) { return lines.results.data; },
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
