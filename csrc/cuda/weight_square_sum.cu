// weight_square_sum of calls.h: which of weight_square_sum.cuh's kernels a call launches, and on how many blocks.
#include "weight_square_sum.cuh"

namespace idgan {
namespace {

constexpr int kBlocksAtLeast = 2;  // of a multiprocessor, if there are kernels enough

template <class T, int N>
void square_sum_of_channels(const WeightSquareSumCall& a, int64_t rows, int64_t channels, CUstream_st* stream) {
  const int64_t blocks = ceil_div<int64_t>(rows * (channels / N), kSquareSumThreads);
  if (blocks > kMaxGrid) throw std::runtime_error("weight_square_sum: the weight has too many kernels");
  const auto kernel = square_sum_of_channels_kernel<T, N>;
  LAUNCH(kernel, dim3(uint32_t(blocks)), dim3(kSquareSumThreads), stream, static_cast<const T*>(a.weight),
         static_cast<acc_t<T>*>(a.square_sum), rows, a.taps, channels);
}

template <class T, int N>
void square_sum_of_taps(const WeightSquareSumCall& a, CUstream_st* stream) {
  const int64_t count = a.outputs * a.inputs, wanted = ceil_div<int64_t>(count, a.num_sms * kBlocksAtLeast);
  const int64_t most = std::min<int64_t>(kSquareSumThreads, kSquareSumTile / a.taps);
  const int64_t kernels = std::min(std::clamp<int64_t>(wanted, 32, kSquareSumThreads), most) / N * N;
  const int64_t blocks = ceil_div(count, kernels);
  if (blocks > kMaxGrid) throw std::runtime_error("weight_square_sum: the weight has too many kernels");
  const auto kernel = square_sum_of_taps_kernel<T, N>;
  LAUNCH(kernel, dim3(uint32_t(blocks)), dim3(kSquareSumThreads), stream, static_cast<const T*>(a.weight),
         static_cast<acc_t<T>*>(a.square_sum), count, uint32_t(a.taps), uint32_t(kernels));
}

template <class T>
void square_sum_of(const WeightSquareSumCall& a, CUstream_st* stream) {
  constexpr int N = kVector<T>;
  const bool aligned = at_16_bytes(a.weight);
  if (a.channels_last || a.taps == 1) {
    const int64_t rows = a.taps == 1 ? 1 : a.outputs, channels = a.taps == 1 ? a.outputs * a.inputs : a.inputs;
    return aligned && channels % N == 0 ? square_sum_of_channels<T, N>(a, rows, channels, stream)
                                        : square_sum_of_channels<T, 1>(a, rows, channels, stream);
  }
  if (a.taps > kSquareSumTile / N) return square_sum_of_channels<T, 1>(a, a.outputs * a.inputs, 1, stream);
  return aligned ? square_sum_of_taps<T, N>(a, stream) : square_sum_of_taps<T, 1>(a, stream);
}

}  // namespace

void weight_square_sum(const WeightSquareSumCall& a, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) { square_sum_of<decltype(t)>(a, stream); });
}

}  // namespace idgan
