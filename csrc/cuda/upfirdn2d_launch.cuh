// Which kernel of upfirdn2d.cuh and fir_any.cuh a call launches, and how its blocks divide the results. No torch.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "fir_any.cuh"
#include "fir_calls.h"

namespace idgan {

inline Filter filter_of(const FirCall& a) { return {a.f, a.f_height, a.f_width, a.both_axes, a.flip, a.gain}; }

template <class A>
Epilogue<A> epilogue_of(const EpilogueCall& e, int64_t pixels) {
  const auto at = [](const void* p) { return static_cast<const A*>(p); };
  const int64_t step = e.shared_noise ? 0 : pixels;
  return {at(e.scale), at(e.noise), at(e.strength), at(e.bias), at(e.next), step, A(e.slope), A(e.gain), A(e.clamp)};
}

inline bool aligned_noise(const Identity&) { return true; }
template <class A>
bool aligned_noise(const Epilogue<A>& e) {
  return at_16_bytes(e.noise);
}

inline dim3 grid_of(int64_t blocks) {
  if (blocks > kMaxGrid)
    throw std::runtime_error("upfirdn2d: the images are too large for one launch: split the batch");
  return dim3(uint32_t(blocks));
}

// How many blocks a plan has.
inline int64_t blocks_of(Fir& f, int vectors, int out_columns_of_thread) {
  f.blocks_c = ceil_div(vectors, 1 << f.log_c);
  f.blocks_x = ceil_div(f.out_width, out_columns_of_thread << f.log_x);
  f.blocks_y = ceil_div(f.out_height, f.rows << f.log_y);
  return int64_t(f.blocks_c) * f.blocks_x * f.blocks_y * ceil_div<int64_t>(f.images, 1 << f.log_images);
}

// Whether a filter can be walked down the rows: 4 x 4 taps, and the same change along both axes.
inline bool walkable(const FirCall& a, Change* change) {
  const bool four = a.f && a.f_width == kTaps && (a.both_axes || a.f_height == kTaps);
  if (!four || a.dtype == kDouble || a.up_x != a.up_y || a.down_x != a.down_y) return false;
  *change = a.up_x == 2 ? Change::kUp : a.down_x == 2 ? Change::kDown : Change::kNone;
  if (a.up_x * a.down_x > 2) return false;
  return *change != Change::kUp || (a.pad_x % 2 == 0 && a.pad_y % 2 == 0);
}

// Whether channels_last images can be read by 16 bytes; a row has fewer than 2^31 numbers.
template <class T>
bool in_vectors(const FirCall& a) {
  const int64_t widest = int64_t(std::max(a.width, a.out_width)) * a.channels;
  return a.channels % kVector<T> == 0 && at_16_bytes(a.in) && at_16_bytes(a.out) && widest < (int64_t(1) << 31);
}

// Whether the kernels that walk down rows take a call, and how it changes the size.
template <class T>
bool walks(const FirCall& a, Change* change) {
  return walkable(a, change) && (!a.channels_last || in_vectors<T>(a));
}

inline Fir described(const FirCall& a) {
  Fir f{};
  f.in = a.in, f.out = a.out, f.filter = filter_of(a);
  f.images = a.channels_last ? a.samples : a.samples * a.channels;
  f.channels = a.channels, f.height = a.height, f.width = a.width, f.out_height = a.out_height,
  f.out_width = a.out_width;
  f.pad_x = a.pad_x, f.pad_y = a.pad_y;
  return f;
}

// How a kernel divides its results: `fir` filled in, and the sizes of the launch.
struct Division2d {
  Fir fir;
  Tile tile;  // of NCHW
  int64_t blocks;
  int threads;
};

// A block has 128 bytes of channels, then columns, then strips; what is left over goes to channels and to samples, or
// is left out. Strips are long, since their rims are read twice, but every multiprocessor has something to do.
template <class T, Change C>
Division2d divided_channels_last(const FirCall& a) {
  const int vectors = a.channels / kVector<T>, across = kAcross<C>;
  const int need_c = log2_up(vectors), need_x = log2_up(ceil_div(a.out_width, across));
  const auto plan = [&](int rows) {
    Division2d d{described(a)};
    Fir& f = d.fir;
    f.rows = rows;
    int left = log2_up(kFirThreads);
    const auto take = [&](int wanted) {
      const int taken = std::min(wanted, left);
      left -= taken;
      return taken;
    };
    f.log_c = take(std::min(need_c, 3)), f.log_x = take(std::min(need_x, 4));
    f.log_y = take(log2_up(ceil_div(a.out_height, rows)));
    f.log_c += take(need_c - f.log_c);
    f.log_images = take(log2_up(a.samples));
    d.blocks = blocks_of(f, vectors, across), d.threads = std::max(kFirThreads >> left, 32);
    return d;
  };
  int rows = std::min(32, std::max(2, 1 << log2_up(a.out_height)));
  while (rows > 16 && plan(rows).blocks < 2 * a.num_sms) rows /= 2;
  while (rows > 2 && plan(rows).blocks < a.num_sms / 2) rows /= 2;
  return plan(rows);
}

// A block has 128 columns, then strips, as far as its input, of type I, fits shared memory; what is left over goes to
// planes.
template <class T, Change C, class I>
Division2d divided_planes(const FirCall& a) {
  constexpr int V = kVector<T>, CHUNK = kChunk<I, C>;
  const auto plan = [&](int rows) {
    Division2d d{described(a)};
    Fir& f = d.fir;
    const auto fits = [&] {
      const int window = ceil_div(kWindow<C, V>, CHUNK) * CHUNK;
      d.tile.pitch = ceil_div(((1 << f.log_x) - 1) * V * kDown<C> / kUp<C> + window, V) * V;
      d.tile.rows = rows_met<C>(rows << f.log_y);
      return int64_t(d.tile.rows) * d.tile.pitch * sizeof(I) << f.log_images <= kTileBytes;
    };
    f.rows = rows;
    const int most = log2_up(kFirThreads);
    f.log_x = std::min({log2_up(ceil_div(a.out_width, V)), log2_up(128 / V), most});
    f.log_y = std::min(log2_up(ceil_div(a.out_height, rows)), most - f.log_x);
    while (f.log_y > 0 && !fits()) f.log_y--;
    while (f.log_x > 0 && !fits()) f.log_x--;
    f.log_images = std::min(log2_up(f.images), most - f.log_x - f.log_y);
    while (f.log_images > 0 && !fits()) f.log_images--;
    fits();
    d.blocks = blocks_of(f, 1, V), d.threads = std::max(1 << (f.log_x + f.log_y + f.log_images), 32);
    return d;
  };
  int rows = std::min(8, std::max(2, 1 << log2_up(a.out_height)));
  while (rows > 2 && plan(rows).blocks < 2 * a.num_sms) rows /= 2;
  Division2d d = plan(rows);
  d.tile.by_rows = Divisor(uint32_t(d.tile.rows)), d.tile.by_vectors = Divisor(uint32_t(d.tile.pitch / V));
  d.tile.aligned = at_16_bytes(a.in);
  return d;
}

template <class T, Change C, class E, class O = T>
void walked(const FirCall& a, const E& epilogue, cudaStream_t stream) {
  if (a.channels_last) {
    const Division2d d = divided_channels_last<T, C>(a);
    const auto kernel = fir_channels_last_kernel<T, C, E, O>;
    LAUNCH(kernel, grid_of(d.blocks), dim3(d.threads), stream, d.fir, epilogue);
  } else {
    Division2d d = divided_planes<T, C, T>(a);
    d.tile.aligned_noise = aligned_noise(epilogue) && a.out_width % kVector<T> == 0;
    const auto kernel = fir_planes_kernel<T, C, E>;
    LAUNCH(kernel, grid_of(d.blocks), dim3(d.threads), stream, d.fir, d.tile, epilogue);
  }
}

template <class T, bool LAST>
void any(const FirCall& a, const Epilogue<acc_t<T>>& epilogue, cudaStream_t stream) {
  FirAny f{a.in, a.out, filter_of(a)};
  f.x = {a.width, a.out_width, a.f ? a.f_width : 1, a.up_x, a.down_x, a.pad_x};
  f.y = {a.height, a.out_height, a.f ? (a.both_axes ? a.f_width : a.f_height) : 1, a.up_y, a.down_y, a.pad_y};
  f.images = LAST ? a.samples : a.samples * a.channels, f.channels = a.channels;
  f.tile_x = std::min(a.out_width, LAST ? 8 : 32), f.tile_y = std::min(a.out_height, LAST ? 8 : 16);
  const int64_t lanes =
      LAST ? std::min(a.channels, 32) : std::min<int64_t>(f.images, std::max(1, 512 / (f.tile_x * f.tile_y)));
  f.tile_c = int(lanes);
  const auto bytes = [&] {
    const int64_t rows = f.y.met(f.tile_y), columns = f.x.met(f.tile_x) + (a.both_axes ? f.tile_x : 0);
    return rows * columns * f.tile_c * int64_t(sizeof(acc_t<T>));
  };
  while (bytes() > kAnyBytes && f.tile_c > (LAST ? 8 : 1)) f.tile_c /= 2;
  while (bytes() > kAnyBytes && f.tile_x * f.tile_y > 1) (f.tile_x > f.tile_y ? f.tile_x : f.tile_y) /= 2;
  while (bytes() > kAnyBytes && f.tile_c > 1) f.tile_c /= 2;
  if (bytes() > kAnyBytes)
    throw std::runtime_error(
        "upfirdn2d: the pixels that one result meets must fit 40 KB, got a filter that is too large: "
        "use ops.backend(\"triton\")");
  f.blocks_x = ceil_div(a.out_width, f.tile_x), f.blocks_y = ceil_div(a.out_height, f.tile_y);
  f.blocks_c = int(ceil_div<int64_t>(LAST ? a.channels : f.images, f.tile_c));
  const int64_t blocks = int64_t(f.blocks_c) * f.blocks_x * f.blocks_y * (LAST ? a.samples : 1);
  const auto kernel = fir_any_kernel<T, LAST>;
  LAUNCH(kernel, grid_of(blocks), dim3(kAnyThreads), stream, f, epilogue);
}

}  // namespace idgan
