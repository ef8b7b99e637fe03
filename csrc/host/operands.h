// Arguments of Python as the host library takes them, and when it leaves a call to Python.
//
// A function of this library returns None for every call that is not plain: a wrong argument, a subclass of Tensor, a
// mode, torch.func, forward mode, a device without kernels. The Python path then runs it, or says what is wrong with it:
// each message exists once, there.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cmath>
#include <optional>
#include <string>

namespace idgan::host {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// As the operators' schemas have a tensor that may be missing.
inline OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

// A tensor or None; not plain where it is a subclass that may overload torch's functions, or anything else.
struct Operand {
  Tensor tensor;
  bool plain = false;

  bool defined() const { return tensor.defined(); }
  const Tensor* operator->() const { return &tensor; }
  const Tensor& operator*() const { return tensor; }
};

// A float or int of Python, or None.
struct Number {
  std::optional<double> value;
  bool plain = false;
};

struct Text {
  std::string value;
  bool plain = false;
};

// An int, or a list or tuple of them, at most four. Nothing else is plain.
struct Ints {
  std::array<int64_t, 4> values{};
  int count = 0;
  bool single = false;
};

// A tensor whose memory a kernel may read: dense, on a CPU or a CUDA device, floating, nothing lazy about it.
inline bool ordinary(const Tensor& t) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet allowed({DispatchKey::CPU, DispatchKey::CUDA, DispatchKey::ADInplaceOrView,
                                         DispatchKey::AutogradCPU, DispatchKey::AutogradCUDA, DispatchKey::AutocastCPU,
                                         DispatchKey::AutocastCUDA});
  if ((t.key_set().raw_repr() & ~allowed.raw_repr()) != 0) return false;
  const auto type = t.scalar_type();
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16 || type == at::kDouble;
}

// Whether an operand beside x may come into the arithmetic: on its device, and float64 only beside float64.
inline bool beside(const Operand& t, const Tensor& x) {
  if (!t.plain) return false;
  if (!t.defined()) return true;
  return ordinary(*t) && t->device() == x.device() && (t->scalar_type() != at::kDouble || x.scalar_type() == at::kDouble);
}

// Whether nothing stands around the call that changes what operators do: no mode, no transform, no trace.
bool nothing_around();

inline at::ScalarType accumulation(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

// Whether x [N, C, H, W] has its channels side by side; as _tensors.memory_format has it.
inline bool channels_last(const Tensor& x) {
  return x.dim() == 4 && x.size(1) > 1 && x.size(2) * x.size(3) > 1 && x.stride(1) == 1;
}

// The bound as the type of the result has it.
inline double rounded_to(double value, at::ScalarType type) {
  if (type == at::kHalf) return static_cast<float>(c10::Half(static_cast<float>(value)));
  if (type == at::kBFloat16) return static_cast<float>(c10::BFloat16(static_cast<float>(value)));
  return value;
}

enum class Backend : int64_t { kNative, kTriton };

}  // namespace idgan::host
