// kernel_energy for torch; the kernel is in kernel_energy.h.
#include "tensors.h"

namespace idgan {
namespace {

Tensor kernel_energy(Tensor weight) {
  const bool last = channels_last(weight);
  weight = dense(weight, last);
  const int64_t o = weight.size(0), i = weight.size(1);
  Tensor energy = torch::stable::new_empty(weight, {o, i}, wide_type(weight));
  KernelEnergy a{};
  a.dtype = dtype_of(weight);
  a.weight = weight.data_ptr(), a.out = energy.data_ptr();
  a.count = o * i, a.channels = i, a.taps = weight.size(2) * weight.size(3), a.channels_last = last;
  const auto kernel = kernels().kernel_energy;
  torch::stable::parallel_for(0, a.units(), grain(a.kBlock * a.taps),
                              [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  return energy;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m) { m.impl("kernel_energy", TORCH_BOX(&kernel_energy)); }

}  // namespace idgan
