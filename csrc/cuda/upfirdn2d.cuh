// upfirdn2d with a filter of 4 x 4 taps and an optional epilogue: out = epilogue(decimated(FIR(x with zeros
// inserted))).
//
// x [N, C, H, W] of float16, bfloat16 or float32; the same size, up=2 or down=2 along both axes (up=2: even padding).
// channels_last (C a multiple of 16 bytes): a thread has 16 bytes of channels of a result, of up=2 of two side by
// side, and goes down rows; neighbors find each other's input in the first-level cache. NCHW: a block lays its input,
// shifted so that each thread's window is aligned, into shared memory by 16 bytes; a thread has 16 bytes of results of
// a row and goes down; threads exchange rows that do not lie at multiples of 16 bytes before they store them.
// Blocks of small maps hold several samples, or planes. Bytes: x, with the rim of each block's tile, and out, once.
// Operations: 8 products a result of separable taps (4 of up=2), else 16; sums in float. Source: arXiv 1912.04958, B.
#pragma once

#include <type_traits>

#include "divide.cuh"
#include "epilogue.cuh"
#include "fir.cuh"

namespace idgan {

// What every FIR kernel is given, and how its blocks divide the results.
struct Fir {
  const void* in;
  void* out;
  Filter filter;
  int64_t images;                       // planes of NCHW, samples of channels_last
  int channels, height, width, out_height, out_width;
  int pad_x, pad_y;                     // before the first pixel; negative crops
  int rows;                             // of a thread
  int log_c, log_x, log_y, log_images;  // threads of a block along channels, columns, strips and images
  int blocks_c, blocks_x, blocks_y;     // of an image
};

// Threads of a block by their place, blocks by theirs.
struct Place {
  int c, x, y, block_x, block_y;  // in units of a thread, over the whole image; the blocks they are in
  int in_x, in_y, image_in;       // within the block
  int64_t first_image, image;

  __device__ __forceinline__ explicit Place(const Fir& a) {
    const int t = threadIdx.x;
    uint32_t block = blockIdx.x;
    const int block_c = block % a.blocks_c;
    block /= a.blocks_c;
    block_x = block % a.blocks_x;
    block /= a.blocks_x;
    block_y = block % a.blocks_y;
    block /= a.blocks_y;
    in_x = t >> a.log_c & ((1 << a.log_x) - 1), in_y = t >> (a.log_c + a.log_x) & ((1 << a.log_y) - 1);
    image_in = t >> (a.log_c + a.log_x + a.log_y);
    c = (block_c << a.log_c) + (t & ((1 << a.log_c) - 1));
    x = (block_x << a.log_x) + in_x, y = (block_y << a.log_y) + in_y;
    first_image = int64_t(block) << a.log_images;
    image = image_in >> a.log_images ? a.images : first_image + image_in;  // a.images: of no image
  }
};

constexpr int kFirThreads = 128;
// Of a multiprocessor; an epilogue keeps its numbers in registers.
template <class E>
constexpr int kFirBlocks = std::is_same_v<E, Identity> ? 4 : 3;
template <Change C>
constexpr int kAcross = kUp<C>;  // results of a thread side by side, of channels_last

// O: the type of the result.
template <class T, Change C, class E, class O>
__global__ void __launch_bounds__(kFirThreads, kFirBlocks<E>) fir_channels_last_kernel(Fir a, E epilogue) {
  using A = acc_t<T>;
  constexpr int L = kVector<T>, X = kAcross<C>;
  __shared__ Taps<A> taps;
  const bool separable = fill(taps, a.filter);
  const Place p(a);
  const int channel = p.c * L, ox = p.x * X, oy = p.y * a.rows;
  if (p.image >= a.images || channel >= a.channels || ox >= a.out_width || oy >= a.out_height) return;
  const Follow<E, A, L> follow(epilogue, p.image, channel, a.channels);
  const int ix = (ox * kDown<C> - a.pad_x) / kUp<C>, iy = (oy * kDown<C> - a.pad_y) / kUp<C>;
  const T* const in = static_cast<const T*>(a.in) + p.image * a.height * a.width * a.channels + channel;
  O* const out = static_cast<O*>(a.out) + p.image * a.out_height * a.out_width * a.channels + channel;
  const auto source = [&](int s, Vec<T, L>(&window)[kWindow<C, X>]) {
    const int y = iy + s;
    const bool there = y >= 0 && y < a.height;
    const T* const row = in + int64_t(y) * a.width * a.channels;
#pragma unroll
    for (int i = 0; i < kWindow<C, X>; i++) {
      const int x = ix + i;
      window[i] = {};
      if (there && x >= 0 && x < a.width) window[i] = load<L>(row + x * a.channels);
    }
  };
  const auto finish = [&](int r, const Vec<A, L>(&sums)[X]) {
    const int64_t pixel = int64_t(oy + r) * a.out_width + ox;
#pragma unroll
    for (int x = 0; x < X; x++) {
      if (ox + x >= a.out_width) break;
      const A noise = follow.noise_at(pixel + x);
      Vec<O, L> result;
#pragma unroll
      for (int l = 0; l < L; l++) result.at[l] = rounded<O>(follow.run(sums[x].at[l], l, noise));
      store_pieces(out + (pixel + x) * a.channels, result);
    }
  };
  const int rows = min(a.rows, a.out_height - oy);
  separable ? walk<true, C, X, L, T, A>(taps, rows, source, finish)
            : walk<false, C, X, L, T, A>(taps, rows, source, finish);
}

// The shared memory of a block's input, in bytes.
constexpr int kTileBytes = 20480;

// Two vectors of 16 bytes side by side, of which 16 bytes are wanted from any number on.
template <class T>
union Two {
  uint32_t word[8];
  Vec<T, kVector<T>> half[2];
  __device__ Two() : word{} {}

  // Those from number `shift` of the first on.
  __device__ __forceinline__ Vec<T, kVector<T>> from(int shift) {
    const int bytes = shift * int(sizeof(T));
    if (bytes & 8) {
#pragma unroll
      for (int i = 0; i < 6; i++) word[i] = word[i + 2];
    }
    if (bytes & 4) {
#pragma unroll
      for (int i = 0; i < 5; i++) word[i] = word[i + 1];
    }
    if (bytes & 2) {
#pragma unroll
      for (int i = 0; i < 4; i++) word[i] = word[i] >> 16 | word[i + 1] << 16;
    }
    return half[0];
  }
};

// Numbers from element `at` of an array of `count` on, wherever that lies: 16 bytes on either side, shifted. Those
// beyond the array are 0. aligned: the array's first element lies at a multiple of 16 bytes.
template <class T, int N = kVector<T>>
__device__ __forceinline__ Vec<T, N> load_shifted(const T* array, int64_t count, int64_t at, bool aligned) {
  const int shift = aligned ? int(at & (N - 1)) : 0;
  Two<T> both;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int64_t from = at - shift + h * N;
    if (h == 1 && shift == 0) break;
    if (aligned && from >= 0 && from + N <= count) {
      both.half[h] = load<N>(array + from);
    } else {
#pragma unroll
      for (int i = 0; i < N; i++)
        if (from + i >= 0 && from + i < count) both.half[h].at[i] = array[from + i];
    }
  }
  return both.from(shift);
}

// Stores `count` numbers of a row from `row` on, of which 2^log_threads threads side by side, of one warp, have 16
// bytes each, thread number x the xth. Where these do not lie at multiples of 16 bytes, each thread takes the numbers
// up to the next multiple from the one behind it. For all of these threads.
template <class T>
__device__ __forceinline__ void store_row(T* row, int x, int log_threads, int count, const Vec<T, kVector<T>>& mine) {
  constexpr int N = kVector<T>;
  const int threads = 1 << log_threads, lane = threadIdx.x % 32;
  const int behind = int(reinterpret_cast<uintptr_t>(row) / sizeof(T) % N), shift = behind ? N - behind : 0;
  Two<T> both;
  both.half[0] = mine;
  if (shift) {
    const unsigned mask = (threads == 32 ? 0xffffffffu : (1u << threads) - 1) << (lane & ~(threads - 1));
#pragma unroll
    for (int i = 0; i < 4; i++) both.word[4 + i] = __shfl_down_sync(mask, both.word[i], 1, threads);
  }
  const Vec<T, N> numbers = both.from(shift);
  const int first = x * N + shift, there = x == threads - 1 ? N - shift : N;  // the last has none behind it
  if (there == N && first + N <= count) {
    store(row + first, numbers);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (i < there && first + i < count) row[first + i] = numbers.at[i];
  }
  if (x > 0) return;
#pragma unroll
  for (int i = 0; i < N; i++)
    if (i < shift && i < count) row[i] = mine.at[i];
}

// How a block's input lies in shared memory: [images, rows, pitch], pitch a multiple of 16 bytes.
struct Tile {
  int rows, pitch;
  Divisor by_rows, by_vectors;  // by_vectors: those of a row
  bool aligned, aligned_noise;  // the input's first element lies at 16 bytes; so does every row of noise
};

// Calls f(i, x, there, plane, at) for this thread's share of a block's input, V numbers of a row at once: the ith of
// them in shared memory, the column of the first, whether any lies in the image, their plane, and where the first would
// lie in memory. The block's input begins at (first_y, first_x) of its first plane.
template <int V, class F>
__device__ __forceinline__ void each_vector(const Fir& a, const Place& p, const Tile& tile, int first_x, int first_y,
                                            F&& f) {
  const uint32_t vectors = tile.pitch / V, all = (tile.rows * vectors) << a.log_images;
  for (uint32_t i = threadIdx.x; i < all; i += blockDim.x) {
    const uint32_t row = tile.by_vectors.quotient(i), z = tile.by_rows.quotient(row);
    const int x = first_x + int(i - row * vectors) * V, y = first_y + int(row - z * tile.rows);
    const int64_t plane = p.first_image + z;
    const bool there = plane < a.images && y >= 0 && y < a.height && x > -V && x < a.width;
    f(i, x, there, plane, (plane * a.height + y) * a.width + x);
  }
}

// Numbers of a row that a thread reads from shared memory at once.
template <class T, Change C>
constexpr int kChunk = kVector<T> * kDown<C> / kUp<C> < kVector<T> ? kVector<T> / kUp<C> : kVector<T>;

template <int CHUNK, int W, class T>
__device__ __forceinline__ void read_window(const T* from, Vec<T, 1> (&window)[W]) {
#pragma unroll
  for (int i = 0; i < W; i += CHUNK) {
    const Vec<T, CHUNK> part = load<CHUNK>(from + i);
#pragma unroll
    for (int j = 0; j < CHUNK && i + j < W; j++) window[i + j].at[0] = part.at[j];
  }
}

template <class T, Change C, class E>
__global__ void __launch_bounds__(kFirThreads, 5) fir_planes_kernel(Fir a, Tile tile, E epilogue) {
  using A = acc_t<T>;
  constexpr int V = kVector<T>, X = V, W = kWindow<C, X>, CHUNK = kChunk<T, C>;
  __shared__ Taps<A> taps;
  __shared__ Vec<T, V> input[kTileBytes / 16];
  const bool separable = fill(taps, a.filter);
  const Place p(a);
  const int first_x = ((p.block_x << a.log_x) * X * kDown<C> - a.pad_x) / kUp<C>;
  const int first_y = ((p.block_y << a.log_y) * a.rows * kDown<C> - a.pad_y) / kUp<C>;
  const int64_t count = a.images * a.height * a.width;
  each_vector<V>(a, p, tile, first_x, first_y, [&](uint32_t i, int x, bool there, int64_t, int64_t at) {
    Vec<T, V> numbers{};
    if (there) {
      numbers = load_shifted<T>(static_cast<const T*>(a.in), count, at, tile.aligned);
      if (x < 0 || x + V > a.width) {
#pragma unroll
        for (int j = 0; j < V; j++)
          if (x + j < 0 || x + j >= a.width) numbers.at[j] = T(0);
      }
    }
    input[i] = numbers;
  });
  __syncthreads();
  const int ox = p.x * X, oy = p.y * a.rows, group = (p.block_x << a.log_x) * X;
  if (p.image >= a.images || oy >= a.out_height) return;
  const int64_t sample = p.image / a.channels;
  const int channel = int(p.image - sample * a.channels);
  const Follow<E, A, 1> follow(epilogue, sample, channel, a.channels);
  const int row_in = p.image_in * tile.rows + p.in_y * a.rows * kDown<C> / kUp<C>;
  const T* const mine = reinterpret_cast<const T*>(input) + row_in * tile.pitch + p.in_x * X * kDown<C> / kUp<C>;
  T* const out = static_cast<T*>(a.out) + p.image * a.out_height * a.out_width;
  const auto source = [&](int s, Vec<T, 1>(&window)[W]) { read_window<CHUNK>(mine + s * tile.pitch, window); };
  const auto finish = [&](int r, const Vec<A, 1>(&sums)[X]) {
    const int64_t pixel = int64_t(oy + r) * a.out_width + ox;
    Vec<A, V> noise{};
    if (tile.aligned_noise && ox < a.out_width) {
      noise = follow.template noises_at<V>(pixel);
    } else {
#pragma unroll
      for (int x = 0; x < X; x++)
        if (ox + x < a.out_width) noise.at[x] = follow.noise_at(pixel + x);
    }
    Vec<T, V> result;
#pragma unroll
    for (int x = 0; x < X; x++) result.at[x] = rounded<T>(follow.run(sums[x].at[0], 0, noise.at[x]));
    store_row(out + pixel - p.in_x * X, p.in_x, a.log_x, a.out_width - group, result);
  };
  const int rows = min(a.rows, a.out_height - oy);
  separable ? walk<true, C, X, 1, T, A>(taps, rows, source, finish)
            : walk<false, C, X, 1, T, A>(taps, rows, source, finish);
}

}  // namespace idgan
