// kernel_energy of calls.h: which of kernel_energy.cuh's kernels a call launches, and on how many blocks.
#include "kernel_energy.cuh"

namespace idgan {
namespace {

constexpr int kBlocksAtLeast = 2;  // of a multiprocessor, if there are kernels enough

template <class T, int N>
void energy_of_channels(const KernelEnergyCall& a, int64_t rows, int64_t channels, CUstream_st* stream) {
  const int64_t blocks = ceil_div<int64_t>(rows * (channels / N), kEnergyThreads);
  if (blocks > kMaxGrid) throw std::runtime_error("kernel_energy: the weight has too many kernels");
  const auto kernel = energy_of_channels_kernel<T, N>;
  LAUNCH(kernel, dim3(uint32_t(blocks)), dim3(kEnergyThreads), stream, static_cast<const T*>(a.weight),
         static_cast<wide_t<T>*>(a.energy), rows, a.taps, channels);
}

template <class T, int N>
void energy_of_taps(const KernelEnergyCall& a, CUstream_st* stream) {
  const int64_t count = a.outputs * a.inputs, wanted = ceil_div<int64_t>(count, a.processors * kBlocksAtLeast);
  const int64_t most = std::min<int64_t>(kEnergyThreads, kEnergyTile / a.taps);
  const int64_t kernels = std::min(std::clamp<int64_t>(wanted, 32, kEnergyThreads), most) / N * N;
  const int64_t blocks = ceil_div(count, kernels);
  if (blocks > kMaxGrid) throw std::runtime_error("kernel_energy: the weight has too many kernels");
  const auto kernel = energy_of_taps_kernel<T, N>;
  LAUNCH(kernel, dim3(uint32_t(blocks)), dim3(kEnergyThreads), stream, static_cast<const T*>(a.weight),
         static_cast<wide_t<T>*>(a.energy), count, uint32_t(a.taps), uint32_t(kernels));
}

template <class T>
void energy_of(const KernelEnergyCall& a, CUstream_st* stream) {
  constexpr int N = kVector<T>;
  const bool aligned = at_16_bytes(a.weight);
  if (a.channels_last || a.taps == 1) {
    const int64_t rows = a.taps == 1 ? 1 : a.outputs, channels = a.taps == 1 ? a.outputs * a.inputs : a.inputs;
    return aligned && channels % N == 0 ? energy_of_channels<T, N>(a, rows, channels, stream)
                                        : energy_of_channels<T, 1>(a, rows, channels, stream);
  }
  if (a.taps > kEnergyTile / N) return energy_of_channels<T, 1>(a, a.outputs * a.inputs, 1, stream);
  return aligned ? energy_of_taps<T, N>(a, stream) : energy_of_taps<T, 1>(a, stream);
}

}  // namespace

void kernel_energy(const KernelEnergyCall& a, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) { energy_of<decltype(t)>(a, stream); });
}

}  // namespace idgan
