// Upsampling, padding, filtering and downsampling; formulas, shapes and names as in idgan_fast/ops/upfirdn2d.py.
#pragma once

#include "operands.h"

namespace idgan::host {

struct Resampling {
  std::array<int64_t, 2> up{1, 1}, down{1, 1};  // x, y
  std::array<int64_t, 4> padding{};             // x0, x1, y0, y1
  bool flip_filter = false;
  double gain = 1;
  Backend backend = Backend::kNative;
};

// A filter as the kernels read it: on x's device, float32; nullopt if it is not one that may be read so.
std::optional<Tensor> taps(const Operand& f, const Tensor& x);

// As Python gives it; nullopt if an argument is not plain. centered: padded by what keeps the image centered too, and
// with the gain that keeps the mean of the upsampled image, as filter2d, upsample2d and downsample2d have it.
std::optional<Resampling> resampling(const Tensor& f, const Ints& up, const Ints& down, const Ints& padding,
                                     bool centered);

// Pads by what keeps the image centered too, as _resampling.padded_for has it.
void center(Resampling& r, const Tensor& f);

// The gradient of this resampling, for an image and a result of these sizes along y and x. Of r's padding it reads what
// comes before the image.
Resampling adjoint(const Resampling& r, const Tensor& f, std::array<int64_t, 2> size, std::array<int64_t, 2> out_size);

// The size of the result along y and x.
std::array<int64_t, 2> output_size(const Tensor& x, const Tensor& f, const Resampling& r);

// Differentiable; f float32 on x's device or undefined.
Tensor apply_upfirdn2d(const Tensor& x, const Tensor& f, const Resampling& r);

}  // namespace idgan::host
