#include "backends.h"

#include <vector>

namespace idgan::host {
namespace {

struct Choice {
  const char* op;  // a literal: compared as a pointer
  c10::DeviceType device;
  std::string impl, requested;
  std::optional<Backend> backend;
};

// Guarded by the GIL.
std::vector<Choice>& choices() {
  static std::vector<Choice> made;
  return made;
}

Chooser& chooser() {
  static Chooser* one = new Chooser();  // never destroyed: Python may be gone by then
  return *one;
}

std::optional<Backend> named(std::string_view name) {
  if (name == "native") return Backend::kNative;
  if (name == "triton") return Backend::kTriton;
  return std::nullopt;
}

}  // namespace

void choose_by(Chooser function) {
  chooser() = std::move(function);
  choices().clear();
}

std::optional<Backend> choose(const char* op, const Tensor& x, const Text& impl, const Text& requested) {
  if (!impl.plain || !requested.plain || !chooser()) return std::nullopt;
  const c10::DeviceType device = x.device().type();
  for (const Choice& one : choices())
    if (one.op == op && one.device == device && one.impl == impl.value && one.requested == requested.value)
      return one.backend;
  const std::string type = device == c10::kCPU ? "cpu" : "cuda";
  const auto backend = named(chooser()(op, type, impl.value, requested.value));
  choices().push_back({op, device, impl.value, requested.value, backend});
  return backend;
}

}  // namespace idgan::host
