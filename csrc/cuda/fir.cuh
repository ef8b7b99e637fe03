// A filter of 4 x 4 taps walked down the rows of an image: what upfirdn2d and styled_epilogue share.
//
// A thread has X results side by side, of L numbers each (L channels of channels_last, 1 of NCHW), and goes down `rows`
// of them. Each input row it loads once, for all results that the row meets, whose sums stay open in registers. Taps
// that are an outer product weigh the row along x first, 8 products for a result instead of 16; whether they are is
// found out on the GPU, since the filter lies there. Nothing is multiplied with the zeros of upsampling.
#pragma once

#include <math.h>

#include "vector.cuh"

namespace idgan {

// How the size of an image changes, along both axes.
enum class Change : int { kNone, kUp, kDown };

template <Change C>
constexpr int kUp = C == Change::kUp ? 2 : 1;
template <Change C>
constexpr int kDown = C == Change::kDown ? 2 : 1;

constexpr int kTaps = 4;

// A filter in the GPU's memory: [taps] along both axes, or [height, width]; data null for one tap of 1.
struct Filter {
  const float* data;
  int height, width;
  bool both_axes;  // 1-D
  bool flip;       // true correlates
  double gain;

  // The tap that the input at (i, j) of a window is weighed by, or along one axis of a 1-D filter.
  template <class A>
  __device__ __forceinline__ A at(int i, int j) const {
    return data ? A(data[(flip ? i : height - 1 - i) * width + (flip ? j : width - 1 - j)]) : A(1);
  }
  template <class A>
  __device__ __forceinline__ A along(int k) const {
    return A(data[flip ? k : width - 1 - k]);
  }
};

// The taps of a block, in shared memory.
template <class A>
struct Taps {
  A all[kTaps][kTaps];   // the gain included
  A x[kTaps], y[kTaps];  // whose outer product they are, if separable
};

// Fills taps from a filter of 4 x 4 or 4; returns whether they are separable. For all threads of a block.
template <class A>
__device__ __forceinline__ bool fill(Taps<A>& taps, const Filter& f) {
  const int t = threadIdx.x, i = t / kTaps, j = t % kTaps;
  const bool mine = t < kTaps * kTaps;
  if (mine) taps.all[i][j] = (f.both_axes ? f.along<A>(i) * f.along<A>(j) : f.at<A>(i, j)) * A(f.gain);
  __syncthreads();
  if (mine) {  // of an outer product: the sums along the axes, over the whole sum
    A of_row = 0, of_column = 0;
#pragma unroll
    for (int k = 0; k < kTaps; k++) of_row += taps.all[i][k], of_column += taps.all[k][j];
    if (j == 0) taps.y[i] = of_row;
    if (i == 0) taps.x[j] = of_column;
  }
  __syncthreads();
  A sum = 0;
#pragma unroll
  for (int k = 0; k < kTaps; k++) sum += taps.x[k];
  const A rounding = sizeof(A) == 8 ? A(1e-15) : A(3e-7);
  bool same = true;
  if (mine) same = fabs(taps.x[j] * taps.y[i] - taps.all[i][j] * sum) <= rounding * sum * sum;
  // Of a sum whose square is too small for its rounding to count, nothing is known.
  const bool separable = __syncthreads_and(same && fabs(sum) > A(1e-12));
  if (t < kTaps) taps.y[t] /= sum;
  __syncthreads();
  return separable;
}

// Input pixels that X results side by side meet.
template <Change C, int X>
constexpr int kWindow = ((X - 1) * kDown<C> + kTaps - 1) / kUp<C> + 1;

// Input rows that `rows` results meet.
template <Change C>
__host__ __device__ constexpr int rows_met(int rows) {
  return ((rows - 1) * kDown<C> + kTaps - 1) / kUp<C> + 1;
}

// Widened pixel by pixel, since a whole window of numbers for sums would take too many registers.
template <Change C, int X, int L, class T, class A>
__device__ __forceinline__ void along_x(const Vec<T, L> (&window)[kWindow<C, X>], const A* taps, Vec<A, L> (&sums)[X]) {
#pragma unroll
  for (int i = 0; i < kWindow<C, X>; i++) {
    Vec<A, L> pixel;
#pragma unroll
    for (int l = 0; l < L; l++) pixel.at[l] = widened(window[i].at[l]);
#pragma unroll
    for (int x = 0; x < X; x++) {
      const int k = i * kUp<C> - x * kDown<C>;
      if (k < 0 || k >= kTaps) continue;
#pragma unroll
      for (int l = 0; l < L; l++)
        sums[x].at[l] = k < kUp<C> ? pixel.at[l] * taps[k] : sums[x].at[l] + pixel.at[l] * taps[k];
    }
  }
}

// source(s, window) gives input row s; finish(r, results) takes row r of the results, in order but for neighbors of
// kUp. Window and results begin at the first that the thread has; of kUp that lies on an input pixel, along both axes.
template <bool SEPARABLE, Change C, int X, int L, class T, class A, class Source, class Finish>
__device__ __forceinline__ void walk(const Taps<A>& taps, int rows, Source&& source, Finish&& finish) {
  constexpr int UP = kUp<C>, DOWN = kDown<C>;
  constexpr int OPEN = kTaps / DOWN, PERIOD = kTaps / UP;  // after a period of rows the same sums are open
  Vec<A, L> open[OPEN][X] = {};
  const int steps = rows_met<C>(rows);
  for (int first = 0; first < steps; first += PERIOD) {
#pragma unroll
    for (int u = 0; u < PERIOD; u++) {
      const int s = first + u;
      if (s >= steps) break;
      Vec<T, L> window[kWindow<C, X>];
      Vec<A, L> weighed[X];
      source(s, window);
      if (SEPARABLE) along_x<C, X, L, T, A>(window, taps.x, weighed);
#pragma unroll
      for (int k = kTaps - 1; k >= 0; k--) {
        if ((u * UP + 2 * kTaps - k) % DOWN) continue;
        Vec<A, L>(&sums)[X] = open[(u * UP + 2 * kTaps - k) / DOWN % OPEN];
        if (!SEPARABLE) along_x<C, X, L, T, A>(window, taps.all[k], weighed);
        const A tap = SEPARABLE ? taps.y[k] : A(1);
#pragma unroll
        for (int x = 0; x < X; x++) {
#pragma unroll
          for (int l = 0; l < L; l++)
            sums[x].at[l] = k < UP ? weighed[x].at[l] * tap : sums[x].at[l] + weighed[x].at[l] * tap;
        }
        const int r = (s * UP + 2 * kTaps - k) / DOWN - 2 * kTaps / DOWN;
        if (k >= kTaps - UP && r >= 0 && r < rows) finish(r, sums);
      }
    }
  }
}

}  // namespace idgan
