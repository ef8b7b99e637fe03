// out = clamp(gain lrelu(y scale + noise strength + b)) next where no filter comes between, and its gradients.
//
// y [N, C, P pixels], NCHW or channels_last; the other tensors as in epilogue.cuh. channels_last: a thread has 16 bytes
// of channels of a sample, whose numbers it keeps, and goes along pixels; NCHW: 16 bytes of pixels of a plane, and goes
// on in it. Backward, with g = dout and M = dz/dv, from y alone: h = g next M, dy = h scale, and sums over pixels of y
// h for scale, noise h for strength, h for b, g z for next. Blocks write theirs to a table [4, samples, pieces,
// channels]. Bytes: forward y + out; backward dout + y + dy. Operations: 10 and 20 an element, in float (double).
// Source: Karras et al., arXiv 1912.04958, section 2.2.
#pragma once

#include "epilogue.cuh"
#include "sums.cuh"

namespace idgan {

enum Summed : int { kOfScale, kOfStrength, kOfBias, kOfNext, kSummed };

// Where the threads of a block are. channels_last: 2^log_c of them along vectors of channels, the others along pixels
// of a sample. NCHW: 2^log_p along vectors of pixels, the others along planes.
struct Strides {
  int64_t samples, pixels;
  int channels, log_c, log_p;
  int blocks_c;   // of channels, or of planes
  int pieces;     // of the pixels of a sample or plane
  int64_t piece;  // vectors of pixels (NCHW) or pixels
};

constexpr int kLogEpilogueThreads = 8, kEpilogueThreads = 1 << kLogEpilogueThreads;

template <bool LAST, int N>
struct Walk {
  int64_t sample;
  int channel, piece;
  int64_t at, step;        // in elements
  int64_t pixel, skipped;  // first pixel, and how many to go on by
  int64_t steps;
  bool there;

  __device__ __forceinline__ explicit Walk(const Strides& a) {
    const int t = threadIdx.x;
    int64_t block = blockIdx.x;
    const int64_t block_c = block % a.blocks_c;
    block /= a.blocks_c;
    piece = int(block % a.pieces);
    block /= a.pieces;
    int64_t units, first;
    if (LAST) {
      sample = block, channel = int((block_c << a.log_c) + (t & ((1 << a.log_c) - 1))) * N;
      units = a.pixels, first = piece * a.piece + (t >> a.log_c), skipped = kEpilogueThreads >> a.log_c;
      there = channel < a.channels;
      at = (sample * a.pixels + first) * a.channels + channel, step = skipped * a.channels, pixel = first;
    } else {
      const int64_t plane = block_c * (kEpilogueThreads >> a.log_p) + (t >> a.log_p);
      sample = plane / a.channels, channel = int(plane - sample * a.channels);
      units = a.pixels / N, first = piece * a.piece + (t & ((1 << a.log_p) - 1)), skipped = int64_t(N) << a.log_p;
      there = sample < a.samples;
      at = plane * a.pixels + first * N, step = skipped, pixel = first * N;
    }
    const int64_t end = min((piece + 1) * a.piece, units), stride = LAST ? skipped : skipped / N;
    steps = there && first < end ? (end - first + stride - 1) / stride : 0;
  }
};

template <class T, bool LAST, int N>
__global__ void __launch_bounds__(kEpilogueThreads, 4)
    epilogue_fwd_kernel(const T* __restrict__ y, T* __restrict__ out, Strides strides, Epilogue<acc_t<T>> epilogue) {
  using A = acc_t<T>;
  Walk<LAST, N> walk(strides);
  if (walk.steps == 0) return;
  const Follow<Epilogue<A>, A, LAST ? N : 1> follow(epilogue, walk.sample, walk.channel, strides.channels);
#pragma unroll 2
  for (int64_t i = 0; i < walk.steps; i++, walk.at += walk.step, walk.pixel += walk.skipped) {
    Vec<T, N> numbers = load<N>(y + walk.at);
    const Vec<A, LAST ? 1 : N> noises = follow.template noises_at<LAST ? 1 : N>(walk.pixel);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const A noise = noises.at[LAST ? 0 : j];
      numbers.at[j] = rounded<T>(follow.run(widened(numbers.at[j]), LAST ? j : 0, noise));
    }
    store(out + walk.at, numbers);
  }
}

// What the gradients of a place need: h, and z.
template <class A>
struct Through {
  A h, z;
};

// From g = dout and s, which is y, or z itself. A result that nothing follows shows z as it was rounded.
template <bool FROM_Y, class T, class E, class A, int L>
__device__ __forceinline__ Through<A> through(A g, A s, int l, A noise, const Follow<E, A, L>& follow) {
  A z = s;
  if (FROM_Y) {
    z = follow.activated(s, l, noise);
    if (!follow.e.next) z = widened(rounded<T>(z));
  }
  return {through_activation(g * follow.next.at[l], z, follow.e), z};
}

// Where the sums of a block go: of one piece of a sample's pixels, from a channel on.
template <class A>
struct Table {
  A* numbers;  // [kSummed, samples, pieces, channels]
  int64_t samples, pieces, channels;
  bool wanted[kSummed];

  template <int L>
  __device__ __forceinline__ void write(const Vec<A, L> (&sums)[kSummed], Vec<A, L>* parts, int log_first,
                                        int log_members, int64_t sample, int64_t piece, int channel, bool mine) const {
#pragma unroll
    for (int k = 0; k < kSummed; k++) {
      if (!wanted[k]) continue;
      const Vec<A, L> total = group_sum(sums[k], parts, log_first, log_members);
      A* const to = numbers + ((k * samples + sample) * pieces + piece) * channels + channel;
#pragma unroll
      for (int l = 0; l < L; l++)
        if (mine) to[l] = total.at[l];
    }
  }
};

// dy and the table may be missing. s: y, or z, of type S.
template <class T, class S, bool FROM_Y, bool LAST, int N>
__global__ void __launch_bounds__(kEpilogueThreads, 2)
    epilogue_bwd_kernel(const T* __restrict__ dout, const S* __restrict__ s, T* __restrict__ dy, Table<acc_t<T>> table,
                        Strides strides, Epilogue<acc_t<T>> epilogue) {
  using A = acc_t<T>;
  constexpr int L = LAST ? N : 1;
  __shared__ Vec<A, L> parts[kEpilogueThreads];
  Walk<LAST, N> walk(strides);
  const int64_t sample = walk.there ? walk.sample : 0;
  const int channel = walk.there ? walk.channel : 0;
  const Follow<Epilogue<A>, A, L> follow(epilogue, sample, channel, strides.channels);
  Vec<A, L> sums[kSummed] = {};
  for (int64_t i = 0; i < walk.steps; i++, walk.at += walk.step, walk.pixel += walk.skipped) {
    Vec<T, N> g = load<N>(dout + walk.at);
    const Vec<S, N> from = load_pieces<N>(s + walk.at);
    const Vec<A, LAST ? 1 : N> noises = follow.template noises_at<LAST ? 1 : N>(walk.pixel);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const int l = LAST ? j : 0;
      const A noise = noises.at[LAST ? 0 : j], wide_g = widened(g.at[j]);
      const auto [h, z] = through<FROM_Y, T>(wide_g, A(widened(from.at[j])), l, noise, follow);
      g.at[j] = rounded<T>(h * follow.scale.at[l]);
      if (FROM_Y) sums[kOfScale].at[l] += h * widened(from.at[j]);
      sums[kOfStrength].at[l] += h * noise, sums[kOfBias].at[l] += h, sums[kOfNext].at[l] += wide_g * z;
    }
    if (dy) store(dy + walk.at, g);
  }
  if (!table.numbers) return;
  const int t = threadIdx.x, log_members = LAST ? kLogEpilogueThreads - strides.log_c : strides.log_p;
  const bool mine = walk.there && (LAST ? t >> strides.log_c == 0 : (t & ((1 << strides.log_p) - 1)) == 0);
  table.write(sums, parts, LAST ? strides.log_c : 0, log_members, sample, walk.piece, channel, mine);
}

// noise[i] = strength times the sum of h over channels, and over samples that share the noise: dnoise of [images,
// pixels]. channels_last: a warp has a pixel, its threads go along channels; NCHW: a block has 32 pixels, its warps go
// along channels.
template <class T, class S, bool FROM_Y, bool LAST>
__global__ void __launch_bounds__(kEpilogueThreads, 2)
    noise_bwd_kernel(const T* dout, const S* s, acc_t<T>* dnoise, Strides a, int64_t images,
                     Epilogue<acc_t<T>> epilogue) {
  using A = acc_t<T>;
  constexpr int WARPS = kEpilogueThreads / 32;
  __shared__ Vec<A, 1> parts[kEpilogueThreads];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t place = LAST ? int64_t(blockIdx.x) * WARPS + warp : int64_t(blockIdx.x) * 32 + lane;
  const bool there = place < images * a.pixels;
  const int64_t image = place / a.pixels, pixel = place - image * a.pixels, together = a.samples / images;
  A total = 0;
  for (int64_t n = image * together; there && n < (image + 1) * together; n++) {
    for (int c = LAST ? lane : warp; c < a.channels; c += LAST ? 32 : WARPS) {
      const Follow<Epilogue<A>, A, 1> follow(epilogue, n, c, a.channels);
      const int64_t at = LAST ? (n * a.pixels + pixel) * a.channels + c : (n * a.channels + c) * a.pixels + pixel;
      total += through<FROM_Y, T>(A(widened(dout[at])), A(widened(s[at])), 0, follow.noise_at(pixel), follow).h;
    }
  }
  total = group_sum(Vec<A, 1>{total}, parts, LAST ? 0 : 5, LAST ? 5 : 3).at[0];
  if (!there || (LAST ? lane : warp)) return;
  dnoise[place] = total * (epilogue.strength ? *epilogue.strength : A(1));
}

}  // namespace idgan
