// y = the 3x3 correlation of x [N, I, H, W] with weight [O, I, 3, 3], stride 1, padding 1, of channels_last images.
//
// Winograd's F(2x2, 3x3): Y = A^T [(G g G^T) * (B^T d B)] A for each 2x2 tile of y, the product being one of numbers for
// each of 16 points and summed over I. Of 9 I O products a pixel 4 I O are left, as 16 matrix products [tiles, I] [I, O].
// Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.1.
//
// Mapping: first the weight at the 16 points, in panels of two vectors of O: a unit is a panel and kBlock channels of I.
// Then a unit is a block of tiles: its inputs at the 16 points stay in the L2 cache and meet one panel after the other,
// TILE_ROWS tiles times one panel in registers. Bytes: x twice (tiles overlap), y once, the weight 16/9 times and once more
// for each block. Flops a tile: 32 I, 32 I O, 24 O. Accumulation in float (double for double), over I in its order, so
// that neither blocks nor threads change a result. Inputs above a quarter of the type's largest may overflow; where a
// convolution gives an infinity, this may give NaN.
#pragma once

#include "kernels.h"
#include "rows.h"

namespace {

template <class A>
constexpr int PANEL = 2 * LANES<A>;
constexpr int TILE_ROWS = IDGAN_BYTES == 64 ? 14 : 6;  // accumulators: two vectors each, of 32 or 16 registers

// The three numbers g at the four points: G g.
template <class V>
inline void at_points(V g0, V g1, V g2, V* out, int step) {
  const V ends = g0 + g2;
  out[0] = g0;
  out[step] = (ends + g1) / 2;
  out[2 * step] = (ends - g1) / 2;
  out[3 * step] = g2;
}

template <class A>
void winograd_weight_of(const idgan::WinogradConv2d& a, int64_t begin, int64_t end) {
  constexpr int P = PANEL<A>, L = LANES<A>, B = idgan::WinogradConv2d::kBlock;
  const int64_t blocks = a.weight_blocks(), depth = a.in_channels;
  const Memory<A> taps(9 * B * P);  // [9, B, P]
  const auto at = [&](int64_t k, int64_t i) { return taps.data + (k * B + i) * P; };
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t panel = unit / blocks, first_i = unit % blocks * B, n = smaller(B, depth - first_i);
    for (int64_t p = 0; p < P; p++) {
      const int64_t o = panel * P + p;
      const A* const weight = static_cast<const A*>(a.weight) + o * a.weight_strides[0] + first_i * a.weight_strides[1];
      for (int64_t k = 0; k < 9; k++) {
        const A* const tap = weight + k / 3 * a.weight_strides[2] + k % 3 * a.weight_strides[3];
        for (int64_t i = 0; i < n; i++) at(k, i)[p] = o < a.out_channels ? tap[i * a.weight_strides[1]] : A(0);
      }
    }
    for (int64_t i = 0; i < n; i++) {
      for (int half = 0; half < P; half += L) {
        Vec<A> g[9], rows[12], points[16];
        for (int k = 0; k < 9; k++) g[k] = load<A>(at(k, i) + half);
        for (int x = 0; x < 3; x++) at_points(g[x], g[3 + x], g[6 + x], rows + x, 3);
        for (int y = 0; y < 4; y++) at_points(rows[3 * y], rows[3 * y + 1], rows[3 * y + 2], points + 4 * y, 1);
        for (int64_t k = 0; k < 16; k++) {
          store<A>(static_cast<A*>(a.points) + ((k * a.panels(P) + panel) * depth + first_i + i) * P + half, points[k]);
        }
      }
    }
  }
}

// B^T d of four numbers d.
template <class V>
inline void difference(V d0, V d1, V d2, V d3, V* out, int step) {
  out[0] = d0 - d2;
  out[step] = d1 + d2;
  out[2 * step] = d2 - d1;
  out[3 * step] = d1 - d3;
}

// Where a tile's 4x4 inputs are: pixels of x, or zeros.
template <class A>
struct Patch {
  const A* pixels[16];

  Patch(const idgan::WinogradConv2d& a, int64_t tile, const A* zeros) {
    const idgan::WinogradConv2d::Tile t = a.tile(tile);
    for (int k = 0; k < 16; k++) {
      const int64_t row = t.row - 1 + k / 4, column = t.column - 1 + k % 4;
      const bool inside = row >= 0 && row < a.rows && column >= 0 && column < a.columns;
      const int64_t pixel = (t.image * a.rows + row) * a.columns + column;
      pixels[k] = inside ? static_cast<const A*>(a.x) + pixel * a.in_channels : zeros;
    }
  }
};

// A tile's inputs at the 16 points, each `step` elements after the last.
template <class A>
inline void input_at_points(const Patch<A>& patch, int64_t depth, A* out, int64_t step) {
  for (int64_t c = 0; c < depth; c += LANES<A>) {
    Vec<A> d[16], rows[16], points[16];
    for (int k = 0; k < 16; k++) d[k] = load_some(patch.pixels[k] + c, depth - c);
    for (int x = 0; x < 4; x++) difference(d[x], d[4 + x], d[8 + x], d[12 + x], rows + x, 4);
    for (int y = 0; y < 4; y++) {
      difference(rows[4 * y], rows[4 * y + 1], rows[4 * y + 2], rows[4 * y + 3], points + 4 * y, 1);
    }
    for (int k = 0; k < 16; k++) store<A>(out + k * step + c, points[k]);
  }
}

// out [TILE_ROWS, PANEL] = in [TILE_ROWS, depth] panel [depth, PANEL].
template <class A>
inline void product(const A* in, int64_t stride, const A* panel, int64_t depth, A* out) {
  constexpr int P = PANEL<A>, L = LANES<A>;
  Vec<A> sums[TILE_ROWS][2] = {};
  for (int64_t i = 0; i < depth; i++) {
    const Vec<A> low = load<A>(panel + i * P), high = load<A>(panel + i * P + L);
#pragma GCC unroll 14
    for (int r = 0; r < TILE_ROWS; r++) {
      const Vec<A> v = splat<A>(in[r * stride + i]);
      sums[r][0] += v * low, sums[r][1] += v * high;
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < TILE_ROWS; r++) store<A>(out + r * P, sums[r][0]), store<A>(out + r * P + L, sums[r][1]);
}

// A tile of y from its products at the 16 points, each `step` elements after the last: A^T m A.
template <class A>
inline void output_tile(const idgan::WinogradConv2d& a, int64_t tile, int64_t first_o, const A* in, int64_t step) {
  const idgan::WinogradConv2d::Tile t = a.tile(tile);
  const bool below = t.row + 1 < a.rows, right = t.column + 1 < a.columns;
  const int64_t depth = a.out_channels, pixel = (t.image * a.rows + t.row) * a.columns + t.column;
  A* const y = static_cast<A*>(a.y) + pixel * depth + first_o;
  for (int64_t c = 0; c < smaller(PANEL<A>, depth - first_o); c += LANES<A>) {
    const int64_t lanes = depth - first_o - c;
    Vec<A> m[16], sums[4], differences[4];
    for (int k = 0; k < 16; k++) m[k] = load<A>(in + k * step + c);
    for (int x = 0; x < 4; x++) {
      sums[x] = m[x] + m[4 + x] + m[8 + x];
      differences[x] = m[4 + x] - m[8 + x] - m[12 + x];
    }
    A* const next = y + a.columns * depth;
    store_some(y + c, sums[0] + sums[1] + sums[2], lanes);
    if (right) store_some(y + depth + c, sums[1] - sums[2] - sums[3], lanes);
    if (below) store_some(next + c, differences[0] + differences[1] + differences[2], lanes);
    if (below && right) store_some(next + depth + c, differences[1] - differences[2] - differences[3], lanes);
  }
}

template <class A>
void winograd_conv2d_of(const idgan::WinogradConv2d& a, int64_t begin, int64_t end) {
  constexpr int P = PANEL<A>;
  const int64_t depth = a.in_channels, panels = a.panels(P), most = a.block;
  const int64_t stride = up_to(depth, LANES<A>) + LANES<A>;  // not a power of two, for the L1 cache's sake
  const Memory<A> zeros(depth), in(16 * most * stride), out(16 * most * P);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t first = unit * most, n = smaller(most, a.tiles() - first);
    for (int64_t t = 0; t < n; t++) {
      input_at_points(Patch<A>(a, first + t, zeros.data), depth, in.data + t * stride, most * stride);
    }
    for (int64_t panel = 0; panel < panels; panel++) {
      for (int64_t k = 0; k < 16; k++) {
        const A* const points = static_cast<const A*>(a.points) + (k * panels + panel) * depth * P;
        for (int64_t t = 0; t < n; t += TILE_ROWS) {
          product(in.data + (k * most + t) * stride, stride, points, depth, out.data + (k * most + t) * P);
        }
      }
      for (int64_t t = 0; t < n; t++) output_tile(a, first + t, panel * P, out.data + t * P, most * P);
    }
  }
}

void winograd_weight(const idgan::WinogradConv2d& a, int64_t begin, int64_t end) {
  a.dtype == idgan::kDouble ? winograd_weight_of<double>(a, begin, end) : winograd_weight_of<float>(a, begin, end);
}

void winograd_conv2d(const idgan::WinogradConv2d& a, int64_t begin, int64_t end) {
  a.dtype == idgan::kDouble ? winograd_conv2d_of<double>(a, begin, end) : winograd_conv2d_of<float>(a, begin, end);
}

}  // namespace
