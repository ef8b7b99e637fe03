// kernel_energy for torch; the kernels are in kernel_energy.cuh.
#include "tensors.h"

namespace idgan {
namespace {

Tensor energy_of_weight(Tensor weight) {
  const bool last = channels_last(weight);
  weight = dense(weight, last);
  KernelEnergyCall a{};
  a.outputs = weight.size(0), a.inputs = weight.size(1), a.taps = weight.size(2) * weight.size(3);
  Tensor energy = empty_wide(weight, {a.outputs, a.inputs});
  if (weight.numel() == 0) return torch::stable::zero_(energy);
  a.dtype = dtype_of(weight), a.weight = weight.data_ptr(), a.energy = energy.data_ptr(), a.channels_last = last;
  const OnDevice on(weight);
  a.processors = on.processors;
  kernel_energy(a, on.stream);
  return energy;
}

}  // namespace

REGISTER_OPERATORS(m) { m.impl("kernel_energy", TORCH_BOX(&energy_of_weight)); }

}  // namespace idgan
