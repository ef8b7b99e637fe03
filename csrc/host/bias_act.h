// clamp(gain * act(x + b), -clamp, clamp) and its gradients; formulas, shapes and names as in idgan_fast/ops/bias_act.py
// and bias_lrelu.py.
#pragma once

#include <string>

#include "operands.h"

namespace idgan::host {

struct Activation {
  int64_t dim = 1;  // of the bias
  std::string act;
  double alpha = 0, gain = 1;
  std::optional<double> clamp;
  Backend backend = Backend::kNative;
};

// The activation with its defaults filled in, for a result of this type; nullopt if an argument is not plain.
std::optional<Activation> activation(const std::string& act, const Number& alpha, const Number& gain,
                                     const Number& clamp, at::ScalarType type);

// The slope below 0 of an activation that is piecewise linear.
std::optional<double> negative_slope(const Activation& a);

// Whether the gradients can be read from the result: bias_lrelu's.
bool reads_its_result(const Activation& a);

// Differentiable; b of any floating type or undefined, x and b checked.
Tensor apply_bias_act(const Tensor& x, Tensor b, const Activation& a);

}  // namespace idgan::host
