// What follows a layer's convolution; formulas, shapes and names as in idgan_fast/ops/layer/styled_epilogue.py.
#pragma once

#include <vector>

#include "operands.h"

namespace idgan::host {

// u = FIR(y), v = u scale + noise strength + b, z = clamp(gain lrelu(v), -clamp, clamp), out = z next_styles.
struct Epilogue {
  OptionalTensor f, scale, noise, strength, b, next_styles;
  std::array<int64_t, 4> padding{};
  double fir_gain = 1, slope = 1, gain = 1;
  std::optional<double> clamp;
  Backend backend = Backend::kNative;

  bool changes_nothing() const {
    const bool vectors = f || scale || noise || strength || b || next_styles;
    return !vectors && padding == std::array<int64_t, 4>{} && fir_gain == 1 && slope == 1 && gain == 1 && !clamp;
  }
};

// Differentiable. y: the image whole or in its four phases; vectors of any floating type, shapes checked.
Tensor apply_epilogue(const std::vector<Tensor>& y, Epilogue e);

// x [N, C, H, W] times styles [N, C].
Tensor modulate(const Tensor& x, const Tensor& styles, Backend backend);

}  // namespace idgan::host
