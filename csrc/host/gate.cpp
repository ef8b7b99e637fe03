#include "gate.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <atomic>

namespace idgan::host {
namespace {

using torch::autograd::variable_list;

std::atomic<bool> dropping = false;

struct Gate : torch::autograd::Function<Gate> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& weight) { return weight.view_as(weight); }

  static variable_list backward(torch::autograd::AutogradContext*, variable_list g) {
    return {dropping ? Tensor() : g[0]};
  }
};

}  // namespace

void drop_weight_gradients(bool dropped) { dropping = dropped; }

Tensor gated(const Tensor& weight) {
  return at::GradMode::is_enabled() && weight.requires_grad() ? Gate::apply(weight) : weight;
}

}  // namespace idgan::host
