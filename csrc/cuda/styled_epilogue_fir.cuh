// The gradients of styled_epilogue through a filter of 4 x 4 taps: dy = scale FIR^T(h), h = g next M as in
// styled_epilogue.cuh, with the sums over pixels.
//
// The walk of upfirdn2d.cuh, whose input is h, computed from g = dout and z as it is read: out where nothing follows,
// else z computed again. channels_last: each thread sums h, noise h and g z of the pixels of h that are its own, and
// y FIR^T(h) of its results. NCHW: h lies in shared memory, in the type of the arithmetic, and the sums of h are left
// to epilogue_bwd_kernel. Bytes: dout, z, y (for the sums of scale) and dy once, with the rims of dout and z.
// Operations: 30 a result. Source: Karras et al., arXiv 1912.04958, section 2.2.
#pragma once

#include "styled_epilogue.cuh"
#include "upfirdn2d.cuh"

namespace idgan {

// Beside Fir, whose input is dout and whose results are dy; z is of type S.
struct Through4 {
  const void *z, *y;  // y null: no sums of scale
  int own_x, own_y;   // where in its window a result's own pixel of h lies
};

template <class T, class S>
__global__ void __launch_bounds__(kFirThreads, sizeof(T) == 2 ? 2 : 3)
    fir_bwd_channels_last_kernel(Fir a, Through4 b, Table<acc_t<T>> table, Epilogue<acc_t<T>> epilogue) {
  using A = acc_t<T>;
  constexpr int L = kVector<T>, W = kTaps;
  constexpr Change C = Change::kNone;
  __shared__ Taps<A> taps;
  __shared__ Vec<A, L> parts[kFirThreads];
  const bool separable = fill(taps, a.filter);
  const Place p(a);
  const bool there = p.image < a.images && p.c * L < a.channels;
  const int channel = there ? p.c * L : 0, ox = p.x, oy = p.y * a.rows;
  const int64_t image = there ? p.image : 0;
  const Follow<Epilogue<A>, A, L> follow(epilogue, image, channel, a.channels);
  Vec<A, L> sums[kSummed] = {};
  if (there && ox < a.out_width && oy < a.out_height) {
    const int ix = ox - a.pad_x, iy = oy - a.pad_y, rows = min(a.rows, a.out_height - oy);
    const int64_t of_image = image * a.height * a.width * a.channels + channel;
    const T* const dout = static_cast<const T*>(a.in) + of_image;
    const S* const z = static_cast<const S*>(b.z) + of_image;
    const int64_t of_result = image * a.out_height * a.out_width * a.channels + channel;
    const T* const y = static_cast<const T*>(b.y) + of_result;
    T* const dy = static_cast<T*>(a.out) + of_result;
    const auto source = [&](int s, Vec<A, L>(&window)[W]) {
      const int row = iy + s;
      const bool row_there = row >= 0 && row < a.height, own_row = s >= b.own_y && s < b.own_y + rows;
#pragma unroll
      for (int i = 0; i < W; i++) {
        const int x = ix + i;
        window[i] = {};
        if (!row_there || x < 0 || x >= a.width) continue;
        const int64_t pixel = int64_t(row) * a.width + x;
        const Vec<T, L> g = load<L>(dout + pixel * a.channels);
        const Vec<S, L> from = load_pieces<L>(z + pixel * a.channels);
        const bool own = own_row && i == b.own_x;
        const A noise = own ? follow.noise_at(pixel) : A(0);
#pragma unroll
        for (int l = 0; l < L; l++) {
          const A wide_g = widened(g.at[l]), wide_z = widened(from.at[l]);
          const A h = through_activation(wide_g * follow.next.at[l], wide_z, epilogue);
          window[i].at[l] = h;
          if (own)
            sums[kOfStrength].at[l] += h * noise, sums[kOfBias].at[l] += h, sums[kOfNext].at[l] += wide_g * wide_z;
        }
      }
    };
    const auto finish = [&](int r, const Vec<A, L>(&results)[1]) {
      const int64_t at = (int64_t(oy + r) * a.out_width + ox) * a.channels;
      Vec<T, L> numbers{};
      if (b.y) numbers = load<L>(y + at);
#pragma unroll
      for (int l = 0; l < L; l++) {
        sums[kOfScale].at[l] += results[0].at[l] * widened(numbers.at[l]);
        numbers.at[l] = rounded<T>(results[0].at[l] * follow.scale.at[l]);
      }
      store(dy + at, numbers);
    };
    separable ? walk<true, C, 1, L, A, A>(taps, rows, source, finish)
              : walk<false, C, 1, L, A, A>(taps, rows, source, finish);
  }
  if (!table.numbers) return;
  table.write(sums, parts, a.log_c, a.log_x + a.log_y, image, p.block_y * a.blocks_x + p.block_x, channel,
              there && p.in_x == 0 && p.in_y == 0);
}

// N numbers from element `at` on, as load_shifted, also of more than 16 bytes.
template <class S, int N>
__device__ __forceinline__ Vec<S, N> load_shifted_pieces(const S* array, int64_t count, int64_t at, bool aligned) {
  constexpr int M = kVector<S>;
  Vec<S, N> v;
#pragma unroll
  for (int i = 0; i < N; i += M) {
    const Vec<S, M> piece = load_shifted<S>(array, count, at + i, aligned);
#pragma unroll
    for (int j = 0; j < M; j++) v.at[i + j] = piece.at[j];
  }
  return v;
}

template <class T, class S>
__global__ void __launch_bounds__(kFirThreads, 4)
    fir_bwd_planes_kernel(Fir a, Tile tile, Through4 b, Table<acc_t<T>> table, Epilogue<acc_t<T>> epilogue) {
  using A = acc_t<T>;
  constexpr int V = kVector<T>, X = V, W = kWindow<Change::kNone, X>, CHUNK = kVector<A>;
  constexpr Change C = Change::kNone;
  __shared__ Taps<A> taps;
  __shared__ Vec<A, CHUNK> input[kTileBytes / 16];
  __shared__ Vec<A, 1> parts[kFirThreads];
  const bool separable = fill(taps, a.filter);
  const Place p(a);
  const int first_x = (p.block_x << a.log_x) * X - a.pad_x, first_y = (p.block_y << a.log_y) * a.rows - a.pad_y;
  const int64_t count = a.images * a.height * a.width;
  each_vector<V>(a, p, tile, first_x, first_y, [&](uint32_t i, int x, bool there, int64_t plane, int64_t at) {
    Vec<A, V> h{};
    if (there) {
      const Vec<T, V> g = load_shifted<T>(static_cast<const T*>(a.in), count, at, tile.aligned);
      const Vec<S, V> s = load_shifted_pieces<S, V>(static_cast<const S*>(b.z), count, at, tile.aligned);
      const A next = epilogue.next ? epilogue.next[plane] : A(1);
#pragma unroll
      for (int j = 0; j < V; j++)
        if (x + j >= 0 && x + j < a.width)
          h.at[j] = through_activation(widened(g.at[j]) * next, A(widened(s.at[j])), epilogue);
    }
#pragma unroll
    for (int j = 0; j < V; j += CHUNK) {
      Vec<A, CHUNK> part;
#pragma unroll
      for (int k = 0; k < CHUNK; k++) part.at[k] = h.at[j + k];
      input[i * (V / CHUNK) + j / CHUNK] = part;
    }
  });
  __syncthreads();
  const int ox = p.x * X, oy = p.y * a.rows, group = (p.block_x << a.log_x) * X;
  const bool there = p.image < a.images;
  const int64_t plane = there ? p.image : 0, sample = plane / a.channels;
  const A scale = epilogue.scale ? epilogue.scale[plane] : A(1);
  Vec<A, 1> sums[kSummed] = {};
  if (there && oy < a.out_height) {
    const A* const mine =
        reinterpret_cast<const A*>(input) + (p.image_in * tile.rows + p.in_y * a.rows) * tile.pitch + p.in_x * X;
    const int64_t of_plane = plane * a.out_height * a.out_width;
    const T* const y = static_cast<const T*>(b.y);
    T* const dy = static_cast<T*>(a.out);
    const auto source = [&](int s, Vec<A, 1>(&window)[W]) { read_window<CHUNK>(mine + s * tile.pitch, window); };
    const auto finish = [&](int r, const Vec<A, 1>(&results)[X]) {
      const int64_t at = of_plane + int64_t(oy + r) * a.out_width + ox;
      Vec<T, V> numbers{};
      if (b.y && ox < a.out_width)
        numbers = load_shifted<T>(y, a.images * a.out_height * a.out_width, at, tile.aligned);
#pragma unroll
      for (int x = 0; x < X; x++) {
        if (ox + x < a.out_width) sums[kOfScale].at[0] += results[x].at[0] * widened(numbers.at[x]);
        numbers.at[x] = rounded<T>(results[x].at[0] * scale);
      }
      store_row(dy + at - p.in_x * X, p.in_x, a.log_x, a.out_width - group, numbers);
    };
    const int rows = min(a.rows, a.out_height - oy);
    separable ? walk<true, C, X, 1, A, A>(taps, rows, source, finish)
              : walk<false, C, X, 1, A, A>(taps, rows, source, finish);
  }
  if (!table.numbers) return;
  table.write(sums, parts, 0, a.log_x + a.log_y, sample, p.block_y * a.blocks_x + p.block_x,
              int(plane - sample * a.channels), there && p.in_x == 0 && p.in_y == 0);
}

}  // namespace idgan
