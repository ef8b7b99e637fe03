// The registered operators that the host library calls: those of a backend, found once.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <string>

#include "operands.h"

namespace idgan::host {

// The entry of an autograd context for all that is no tensor: each entry is looked up by a string.
inline constexpr char kNumbers[] = "numbers";

// Below autograd, and with autocast off: dtypes are settled before a kernel is called.
struct OfKernels {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

template <class Op>
auto find(const char* space) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string(space) + "::" + Op::name).c_str(), "")
      .template typed<typename Op::Signature>();
}

// An Op has a `name` and a `Signature` as its schema in the operator's Python file has them.
template <class Op, class... Args>
auto call(Backend backend, Args&&... args) {
  if (backend == Backend::kNative) {
    static const auto native = find<Op>("idgan_fast");
    return native.call(std::forward<Args>(args)...);
  }
  static const auto triton = find<Op>("idgan_fast_triton");
  return triton.call(std::forward<Args>(args)...);
}

}  // namespace idgan::host
