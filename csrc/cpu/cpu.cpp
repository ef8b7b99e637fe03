// Which instruction set runs: decided once, when the first kernel is called.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace idgan {
namespace {

const Kernels& chosen() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
  const char* wish = std::getenv("IDGAN_FAST_CPU");
  const std::string name = wish ? wish : "";
#if defined(__x86_64__)
  if (avx512 && (name.empty() || name == "avx512")) return avx512_kernels;
  if (avx2 && (name.empty() || name == "avx2")) return avx2_kernels;
#endif
  if (name.empty() || name == "plain") return plain_kernels;
  throw std::runtime_error("IDGAN_FAST_CPU: must be plain, avx2 or avx512 and in this processor, got " + name);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& once = chosen();
  return once;
}

}  // namespace idgan

extern "C" __attribute__((visibility("default"))) const char* idgan_fast_cpu_instructions() {
  return idgan::kernels().name;
}
