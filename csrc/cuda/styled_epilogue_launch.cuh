// Which kernel of styled_epilogue.cuh and styled_epilogue_fir.cuh a call launches, and how its blocks divide the work.
#pragma once

#include "styled_epilogue_fir.cuh"
#include "upfirdn2d_launch.cuh"

namespace idgan {

// channels_last: a block has 128 bytes of channels of a sample; NCHW: up to 256 vectors of a plane. As many pieces of
// the pixels as give every multiprocessor several blocks, of four turns of a block at least.
inline Strides divided(const PixelsCall& a, int vector) {
  Strides s{a.samples, a.pixels, a.channels};
  const int64_t units = a.channels_last ? a.pixels : a.pixels / vector;
  int64_t others, turn;
  if (a.channels_last) {
    const int64_t vectors = a.channels / vector;
    s.log_c = std::min(log2_up(vectors), std::max(3, kLogEpilogueThreads - log2_up(a.pixels)));
    s.log_c = std::min(s.log_c, kLogEpilogueThreads);
    s.blocks_c = int(ceil_div<int64_t>(vectors, 1 << s.log_c));
    others = a.samples * s.blocks_c, turn = kEpilogueThreads >> s.log_c;
  } else {
    s.log_p = std::min(log2_up(units), kLogEpilogueThreads);
    others = ceil_div<int64_t>(a.samples * a.channels, kEpilogueThreads >> s.log_p), turn = 1 << s.log_p;
    if (others > kMaxGrid)
      throw std::runtime_error("styled_epilogue: at most 2^31 planes go into a launch: split the batch");
    s.blocks_c = int(others);
  }
  const int64_t most = std::max<int64_t>(units / (turn * 4), 1);
  s.pieces = int(std::clamp<int64_t>(int64_t(a.num_sms) * kBlocksPerSm / others, 1, most));
  s.piece = ceil_div<int64_t>(units, s.pieces);
  s.pieces = int(ceil_div<int64_t>(units, s.piece));
  return s;
}

inline int64_t blocks_of(const PixelsCall& a, const Strides& s) {
  return int64_t(s.blocks_c) * s.pieces * (a.channels_last ? a.samples : 1);
}

// Whether all arrays can be read by 16 bytes.
template <class T>
bool in_vectors(const PixelsCall& a, const EpilogueCall& e, std::initializer_list<const void*> arrays) {
  bool aligned = a.channels_last || at_16_bytes(e.noise);
  for (const void* p : arrays) aligned &= at_16_bytes(p);
  return aligned && (a.channels_last ? a.channels : a.pixels) % kVector<T> == 0;
}

// Adds up a table of sums, of so many pieces of a sample.
template <class A>
void add_up(const SumsCall& sums, int64_t samples, int64_t pieces, int channels, cudaStream_t stream) {
  A* const table = static_cast<A*>(sums.table);
  const int64_t size = samples * pieces * channels;
  const auto add = [&](Summed which, void* to, int64_t batch, int64_t rows) {
    if (to) add_rows<A>(table + which * size, static_cast<A*>(to), batch, rows, channels, stream);
  };
  add(kOfScale, sums.scale, samples, pieces);
  add(kOfBias, sums.bias, 1, samples * pieces);
  add(kOfNext, sums.next, samples, pieces);
  if (!sums.strength) return;
  A* const of_channels = table + kSummed * size;
  add(kOfStrength, of_channels, 1, samples * pieces);
  add_rows<A>(of_channels, static_cast<A*>(sums.strength), 1, channels, 1, stream);
}

inline int64_t table_of(int64_t samples, int64_t pieces, int channels) {
  return kSummed * samples * pieces * channels + channels;
}

template <class A>
Table<A> table_of(const SumsCall& s, int64_t samples, int64_t pieces, int64_t channels) {
  Table<A> t{static_cast<A*>(s.table), samples, pieces, channels};
  t.wanted[kOfScale] = s.scale, t.wanted[kOfStrength] = s.strength, t.wanted[kOfBias] = s.bias,
  t.wanted[kOfNext] = s.next;
  return t;
}

template <class T, class S, bool FROM_Y, bool LAST, int N>
void epilogue_bwd_as(const PixelsCall& a, const BackwardCall& b, const EpilogueCall& e, cudaStream_t stream) {
  using A = acc_t<T>;
  const Strides s = divided(a, N);
  const auto kernel = epilogue_bwd_kernel<T, S, FROM_Y, LAST, N>;
  LAUNCH(kernel, grid_of(blocks_of(a, s)), dim3(kEpilogueThreads), stream, static_cast<const T*>(b.dout),
         static_cast<const S*>(b.s), static_cast<T*>(b.dy), table_of<A>(b.sums, a.samples, s.pieces, a.channels), s,
         epilogue_of<A>(e, a.pixels));
  if (b.sums.table) add_up<A>(b.sums, a.samples, s.pieces, a.channels, stream);
}

template <class T, class S, bool FROM_Y>
void epilogue_bwd_of(const PixelsCall& a, const BackwardCall& b, const EpilogueCall& e, cudaStream_t stream) {
  constexpr int V = kVector<T>;
  const bool wide = in_vectors<T>(a, e, {b.dout, b.s, b.dy});
  if (a.channels_last) {
    wide ? epilogue_bwd_as<T, S, FROM_Y, true, V>(a, b, e, stream)
         : epilogue_bwd_as<T, S, FROM_Y, true, 1>(a, b, e, stream);
  } else {
    wide ? epilogue_bwd_as<T, S, FROM_Y, false, V>(a, b, e, stream)
         : epilogue_bwd_as<T, S, FROM_Y, false, 1>(a, b, e, stream);
  }
}

template <class T, class S>
void fir_bwd_of(const FirCall& a, const BackwardCall& b, const Through4& through, const EpilogueCall& e,
                cudaStream_t stream) {
  using A = acc_t<T>;
  const auto epilogue = epilogue_of<A>(e, int64_t(a.height) * a.width);
  Division2d d = a.channels_last ? divided_channels_last<T, Change::kNone>(a) : divided_planes<T, Change::kNone, A>(a);
  const int64_t pieces = int64_t(d.fir.blocks_x) * d.fir.blocks_y;
  const auto table = table_of<A>(b.sums, a.samples, pieces, a.channels);
  if (a.channels_last) {
    const auto kernel = fir_bwd_channels_last_kernel<T, S>;
    LAUNCH(kernel, grid_of(d.blocks), dim3(d.threads), stream, d.fir, through, table, epilogue);
  } else {
    d.tile.aligned &= at_16_bytes(through.z) && at_16_bytes(through.y);
    const auto kernel = fir_bwd_planes_kernel<T, S>;
    LAUNCH(kernel, grid_of(d.blocks), dim3(d.threads), stream, d.fir, d.tile, through, table, epilogue);
  }
  if (b.sums.table) add_up<A>(b.sums, a.samples, pieces, a.channels, stream);
}

}  // namespace idgan
