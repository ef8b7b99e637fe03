// u = FIR_up(x + b[c]), z = clamp(gain * lrelu(u)), y = FIR_down(z), and for the gradients the sign mask of u, 2 bits a
// pixel: 0 above 0, 1 below, 2 where the clamp binds; or the linear operator of a fixed sign mask: y = FIR_down(u * M)
// with M = dz/du, which the mask shows.
//
// The bias is inside the filter, and does not reach the zeros around the image: a weighted sum of rows gets b times the
// sum of their weights. Mapping: a unit is a block of rows of y of one NCHW image; the rows of z that it meets lie in a
// buffer that fits the second-level cache, and no image of u or z is ever written. Rows of z at a unit's edge are
// computed by both neighbors. Bytes: x, y and the sign mask (1/4 byte a pixel of u) once. Flops a pixel of u:
// 2 (fh / up_y + fw / up_x), and of y: 2 (fh + fw) for separable filters. Accumulation in float (double for double).
#pragma once

#include "activations.h"
#include "upfirdn2d.h"

namespace {

// Twice the number of a lane: where the bits of its pixel lie.
template <class A>
inline Integers<A> shifts_of_lanes() {
  Integers<A> v{};
  for (int i = 0; i < LANES<A>; i++) v[i] = 2 * i;
  return v;
}

// z of a row of u, in place; sign_mask: that of the row, zero so far, or null.
template <class A>
void activate(A* row, uint8_t* sign_mask, const idgan::FilteredLrelu& a) {
  constexpr int L = LANES<A>;
  const int64_t n = a.up.out_columns;
  const A slope = A(a.slope), gain = A(a.gain), clamp = A(a.clamp);
  const Integers<A> shifts = shifts_of_lanes<A>(), none{}, negative = none + 1, clamped_ = none + 2;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const Vec<A> u = load<A>(row + i), z = lrelu_forward(u, Vec<A>{}, slope, gain, clamp);
    store<A>(row + i, z);
    if (sign_mask == nullptr) continue;
    Integers<A> pixel = u <= 0 ? negative : none;
    pixel = (z >= clamp ? clamped_ : z <= -clamp ? clamped_ : pixel) << shifts;
    uint32_t bits = 0;
    for (int lane = 0; lane < L; lane++) bits |= uint32_t(pixel[lane]);
    bits <<= 2 * (i % 4);
    for (int byte = 0; byte < (L + 3) / 4; byte++) sign_mask[i / 4 + byte] |= uint8_t(bits >> 8 * byte);
  }
  for (; i < n; i++) {
    const A u = row[i];
    row[i] = lrelu_forward(u, A(0), slope, gain, clamp);
    const int pixel = row[i] >= clamp || row[i] <= -clamp ? 2 : u <= 0;
    if (sign_mask != nullptr) sign_mask[i / 4] |= pixel << 2 * (i % 4);
  }
}

// A row of u times dz/du, in place.
template <class A>
void follow(A* row, const uint8_t* sign_mask, const idgan::FilteredLrelu& a) {
  constexpr int L = LANES<A>;
  const int64_t n = a.up.out_columns;
  const A gain = A(a.gain), below = A(a.gain * a.slope);
  const Integers<A> shifts = shifts_of_lanes<A>();
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    uint32_t bits = 0;
    for (int byte = 0; byte < (L + 3) / 4; byte++) bits |= uint32_t(sign_mask[i / 4 + byte]) << 8 * byte;
    const Integers<A> word = Integers<A>{} + int(bits >> 2 * (i % 4)), pixel = word >> shifts & 3;
    const Vec<A> zero{}, factor = pixel == 0 ? splat<A>(gain) : pixel == 1 ? splat<A>(below) : zero;
    store<A>(row + i, load<A>(row + i) * factor);
  }
  for (; i < n; i++) {
    const int pixel = sign_mask[i / 4] >> 2 * (i % 4) & 3;
    row[i] *= pixel == 0 ? gain : pixel == 1 ? below : A(0);
  }
}

// Rows of z in one part of the image: those whose sign mask it writes, and those that it computes.
inline RowSpan span_of_z(const idgan::FilteredLrelu& a, int64_t part) {
  const int64_t parts = a.blocks(), rows = a.down.rows;
  const int64_t first = part * a.block(), last = smaller(first + a.block(), a.down.out_rows);
  const auto within = [&](int64_t row) { return smaller(larger(row, 0), rows); };
  const int64_t met = within(first * a.down.down_y - a.down.pad_y);
  const int64_t met_end = within((last - 1) * a.down.down_y - a.down.pad_y + a.down.height);
  if (a.sign_mask == nullptr) return {met, met_end, met, larger(met, met_end)};
  const int64_t own = part * rows / parts, own_end = (part + 1) * rows / parts;
  return {own, own_end, smaller(own, met), larger(own_end, met_end)};
}

template <class T>
void filtered_lrelu_of(const idgan::FilteredLrelu& a, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  Lines<false, T> lines(a.up);
  const int64_t columns = a.up.out_columns, mask_columns = (columns + 3) / 4;
  int64_t most = 1;
  for (int64_t part = 0; part < a.blocks(); part++) most = larger(most, span_of_z(a, part).rows());
  const Memory<A> z(most * columns);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block b = block_of(a, a.down.out_rows, unit);
    const auto [own, own_end, from, to] = span_of_z(a, b.part);
    if (a.bias != nullptr) lines.offset = static_cast<const A*>(a.bias)[b.image % a.channels];
    const auto where = [&](int64_t o) { return z.data + (o - from) * columns; };
    const auto mask_row = [&](uint8_t* mask, int64_t o) { return mask + (b.image * a.down.rows + o) * mask_columns; };
    lines.filtered(input_of<T>(a.up, b), from, to, where, [&](int64_t o, A* row) {
      if (a.fixed_mask != nullptr) return follow(row, mask_row(const_cast<uint8_t*>(a.fixed_mask), o), a);
      uint8_t* sign_mask = a.sign_mask != nullptr && o >= own && o < own_end ? mask_row(a.sign_mask, o) : nullptr;
      if (sign_mask != nullptr) memset(sign_mask, 0, mask_columns);
      activate(row, sign_mask, a);
    });
    idgan::Upfirdn2d shifted = a.down;
    shifted.rows = to - from;
    shifted.pad_y = a.down.pad_y + from;
    Lines<false, A> down(shifted);
    void* const memory[] = {z.data};
    const Rows<A> z_rows(memory, false, 0, shifted.rows, columns, 1, 1);
    const Rows<T> y = output_of<T>(a.down, b);
    down.filtered(
        z_rows, b.first, b.last, [&](int64_t) { return down.results.data; },
        [&](int64_t o, const A* row) { write_row<false>(y, o, row); });
  }
}

void filtered_lrelu(const idgan::FilteredLrelu& a, int64_t begin, int64_t end) {
  with_type(a.up.dtype, [&](auto element) { filtered_lrelu_of<decltype(element)>(a, begin, end); });
}

}  // namespace
