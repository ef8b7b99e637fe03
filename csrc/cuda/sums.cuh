// Sums over the threads and blocks of a kernel in a fixed order: each block writes its own, a second kernel adds them
// up.
#pragma once

#include "vector.cuh"

namespace idgan {

// The sums of v over 2^log_members threads of a block, whose numbers differ in the bits from `log_first` on. For all
// threads of a block; parts has room for those of each.
template <class A, int L>
__device__ __forceinline__ Vec<A, L> group_sum(const Vec<A, L>& v, Vec<A, L>* parts, int log_first, int log_members) {
  const int t = threadIdx.x, member = t >> log_first & ((1 << log_members) - 1);
  __syncthreads();  // what was summed before has been read
  parts[t] = v;
  for (int half = 1 << log_members >> 1; half; half >>= 1) {
    __syncthreads();
    if (member >= half) continue;
#pragma unroll
    for (int l = 0; l < L; l++) parts[t].at[l] += parts[t + (half << log_first)].at[l];
  }
  __syncthreads();
  return parts[t & ~(((1 << log_members) - 1) << log_first)];
}

constexpr int kSumThreads = 256;

// sums[batch, c] = sum over rows of table[batch, row, c]; batch: blockIdx.y. A block has 32 columns, and 8 rows at a
// time.
template <class A>
__global__ void __launch_bounds__(kSumThreads, 4)
    add_rows_kernel(const A* table, A* sums, int64_t rows, int64_t columns) {
  constexpr int Y = kSumThreads / 32;
  __shared__ A parts[Y][32];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  const int64_t c = int64_t(blockIdx.x) * 32 + x;
  table += blockIdx.y * rows * columns, sums += blockIdx.y * columns;
  A total = 0;
  if (c < columns)
    for (int64_t row = y; row < rows; row += Y) total += table[row * columns + c];
  parts[y][x] = total;
  __syncthreads();
  if (y == 0 && c < columns) {
    for (int i = 1; i < Y; i++) total += parts[i][x];
    sums[c] = total;
  }
}

// The same, launched.
template <class A>
void add_rows(const A* table, A* sums, int64_t batch, int64_t rows, int64_t columns, cudaStream_t stream) {
  constexpr int64_t kMost = 65535;  // of a grid's second axis
  for (int64_t first = 0; first < batch; first += kMost) {
    const dim3 grid(uint32_t(ceil_div<int64_t>(columns, 32)), uint32_t(std::min(kMost, batch - first)));
    const auto kernel = add_rows_kernel<A>;
    LAUNCH(kernel, grid, dim3(kSumThreads), stream, table + first * rows * columns, sums + first * columns, rows,
           columns);
  }
}

}  // namespace idgan
