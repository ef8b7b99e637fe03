// What the torch-facing files of both libraries share: layouts, and what arguments mean. LibTorch's stable ABI alone.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "types.h"

namespace idgan {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type in which x is computed.
inline ScalarType accumulation_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Whether x [N, C, H, W] has its channels side by side; as _tensors.memory_format has it.
inline bool channels_last(const Tensor& x) {
  return x.dim() == 4 && x.size(1) > 1 && x.size(2) * x.size(3) > 1 && x.stride(1) == 1;
}

inline bool dense_channels_last(const Tensor& x) {
  const int64_t c = x.size(1), h = x.size(2), w = x.size(3);
  return (w == 1 || x.stride(3) == c) && (h == 1 || x.stride(2) == w * c) &&
         (x.size(0) == 1 || x.stride(0) == h * w * c);
}

inline MemoryFormat format(bool last) { return last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous; }

// x without holes, in the layout `last` or NCHW; x itself where it is so already.
inline Tensor dense(const Tensor& x, bool last) {
  if (last ? channels_last(x) && dense_channels_last(x) : x.is_contiguous()) return x;
  return torch::stable::contiguous(x, format(last));
}

// A new tensor of x's dtype, of which nothing is written.
inline Tensor unwritten(const Tensor& x, IntHeaderOnlyArrayRef size, bool last) {
  return torch::stable::empty(size, x.scalar_type(), std::nullopt, x.device(), std::nullopt, format(last));
}

// Sums of this type, 0 to begin with; without elements, and so without a launch, where they are not wanted.
inline Tensor sums_of(const Tensor& x, bool wanted, const std::vector<int64_t>& size, ScalarType type) {
  if (wanted) return torch::stable::new_zeros(x, size, type);
  return torch::stable::empty({0}, type, std::nullopt, x.device());
}

// x as [outer, channels, inner] in the order of its memory, channels along `dim`; [1, 1, all] if it has none.
struct Split {
  int64_t outer = 1, channels = 1, inner = 1;

  Split(const Tensor& x, bool last, bool biased, int64_t dim) {
    if (!biased) {
      inner = x.numel();
      return;
    }
    bool before = true;
    for (int64_t i = 0; i < x.dim(); i++) {
      const int64_t d = last && i > 0 ? (i == 3 ? 1 : i + 1) : i;
      if (d == dim) {
        channels = x.size(d), before = false;
      } else {
        (before ? outer : inner) *= x.size(d);
      }
    }
  }
};

// A bound as the kernels take it: NaN for none.
inline double or_none(std::optional<double> clamp) { return clamp.value_or(std::numeric_limits<double>::quiet_NaN()); }

inline Activation activation_of(const std::string& name) {
  const char* names[] = {"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"};
  int number = 0;
  for (const char* one : names) {
    if (name == one) return Activation(number);
    number++;
  }
  STD_TORCH_CHECK(false, "bias_act: no activation named ", name);
  return kLinear;
}

}  // namespace idgan
