// upfirdn2d of any filter and any factors, in one kernel through shared memory, with an optional epilogue.
//
// x [N, C, H, W], NCHW or channels_last, float16, bfloat16, float32 or float64. A block has a tile of results of some
// planes (NCHW) or channels (channels_last): it lays the input pixels that the tile meets into shared memory, widened;
// a 1-D filter goes along x into a second array there and then along y, a 2-D one is applied at once. Taps that would
// meet the zeros of upsampling are left out. Bytes: x, with the rim of each tile, and out once. Operations: of a
// separable filter 2 taps / up a result and axis, the first axis also for the rim; sums in float (double).
#pragma once

#include "upfirdn2d.cuh"

namespace idgan {

constexpr int kAnyThreads = 256;
constexpr int kAnyBytes = 40960;  // of shared memory: the input, and of a separable filter also what it gives along x

// One axis: `in` pixels, taps, up and down, the padding before. The tile's results begin at `first`.
struct Axis {
  int in, out, taps, up, down, pad;

  // The first pixel at or after position p of the upsampled axis.
  __host__ __device__ int pixel_from(int p) const { return p >= 0 ? (p + up - 1) / up : -(-p / up); }
  __host__ __device__ int position(int result) const { return result * down - pad; }
  // Pixels that `results` results side by side meet, at most.
  __host__ __device__ int met(int results) const { return ((results - 1) * down + taps - 1) / up + 1; }
};

struct FirAny {
  const void* in;
  void* out;
  Filter filter;
  Axis x, y;
  int64_t images;         // planes of NCHW, samples of channels_last
  int channels;
  int tile_x, tile_y, tile_c;  // results of a block; tile_c: planes, or channels
  int blocks_x, blocks_y, blocks_c;
};

// Numbers [lanes, rows, columns] of NCHW or [rows, columns, lanes] of channels_last, one after the other.
template <bool LAST>
struct Box {
  int lanes, rows, columns;
  __device__ __forceinline__ int size() const { return lanes * rows * columns; }
  __device__ __forceinline__ int at(int l, int y, int x) const {
    return LAST ? (y * columns + x) * lanes + l : (l * rows + y) * columns + x;
  }
  // Calls f(lane, row, column, place) for this thread's share.
  template <class F>
  __device__ __forceinline__ void each(F&& f) const {
    const int inner = LAST ? lanes : columns, middle = LAST ? columns : rows;
    for (int i = threadIdx.x; i < size(); i += kAnyThreads) {
      const int rest = i / inner, a = i - rest * inner, outer = rest / middle, b = rest - outer * middle;
      LAST ? f(a, outer, b, i) : f(outer, b, a, i);
    }
  }
};

// Calls f(i, k) for each tap k of a result that meets a pixel, number i from `first` on.
template <class F>
__device__ __forceinline__ void each_tap(const Axis& axis, int result, int first, F&& f) {
  const int p = axis.position(result), pixel = axis.pixel_from(p);
  for (int k = pixel * axis.up - p, i = pixel - first; k < axis.taps; k += axis.up, i++) f(i, k);
}

template <class T, bool LAST>
__global__ void __launch_bounds__(kAnyThreads, 4) fir_any_kernel(FirAny a, Epilogue<acc_t<T>> epilogue) {
  using A = acc_t<T>;
  __shared__ A numbers[kAnyBytes / sizeof(A)];
  uint32_t block = blockIdx.x;
  const int first_lane = LAST ? block % a.blocks_c * a.tile_c : 0;
  const int64_t plane_block = LAST ? 0 : block % a.blocks_c;
  block /= a.blocks_c;
  const int ox = block % a.blocks_x * a.tile_x;
  block /= a.blocks_x;
  const int oy = block % a.blocks_y * a.tile_y;
  block /= a.blocks_y;
  const int64_t first_image = LAST ? int64_t(block) : plane_block * a.tile_c;
  const int lanes = LAST ? min(a.tile_c, a.channels - first_lane) : int(min(int64_t(a.tile_c), a.images - first_image));
  const int columns = min(a.tile_x, a.x.out - ox), rows = min(a.tile_y, a.y.out - oy);
  const int ix = a.x.pixel_from(a.x.position(ox)), iy = a.y.pixel_from(a.y.position(oy));
  const Box<LAST> input{lanes, a.y.met(rows), a.x.met(columns)}, between{lanes, input.rows, columns};
  const Box<LAST> results{lanes, rows, columns};
  // The place in memory of pixel (y, x) of a lane's image of this size.
  const auto place = [&](int lane, int64_t y, int x, int height, int width) {
    return LAST ? ((first_image * height + y) * width + x) * a.channels + first_lane + lane
                : ((first_image + lane) * height + y) * width + x;
  };
  const T* const in = static_cast<const T*>(a.in);
  input.each([&](int lane, int row, int column, int i) {
    const int y = iy + row, x = ix + column;
    const bool there = y >= 0 && y < a.y.in && x >= 0 && x < a.x.in;
    numbers[i] = there ? widened(in[place(lane, y, x, a.y.in, a.x.in)]) : A(0);
  });
  __syncthreads();
  const A gain = A(a.filter.gain);
  A* const along_x = numbers + input.size();
  if (a.filter.both_axes) {
    between.each([&](int lane, int row, int column, int i) {
      A sum = 0;
      each_tap(a.x, ox + column, ix,
               [&](int x, int k) { sum += numbers[input.at(lane, row, x)] * a.filter.along<A>(k); });
      along_x[i] = sum * gain;
    });
    __syncthreads();
  }
  results.each([&](int lane, int row, int column, int) {
    A u = 0;
    each_tap(a.y, oy + row, iy, [&](int y, int k) {
      if (a.filter.both_axes) {
        u += along_x[between.at(lane, y, column)] * a.filter.along<A>(k);
      } else {
        each_tap(a.x, ox + column, ix, [&](int x, int m) {
          u += numbers[input.at(lane, y, x)] * (a.filter.at<A>(k, m) * gain);
        });
      }
    });
    const int64_t image = first_image + (LAST ? 0 : lane), sample = LAST ? image : image / a.channels;
    const int channel = LAST ? first_lane + lane : int(image - sample * a.channels);
    const Follow<Epilogue<A>, A, 1> follow(epilogue, sample, channel, a.channels);
    const A noise = follow.noise_at(int64_t(oy + row) * a.x.out + ox + column);
    static_cast<T*>(a.out)[place(lane, oy + row, ox + column, a.y.out, a.x.out)] = rounded<T>(follow.run(u, 0, noise));
  });
}

}  // namespace idgan
