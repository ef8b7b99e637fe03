// The kernels of csrc/cuda as plain C functions over pointers, for ctypes. An error comes back as text, null for none.
#include "cuda_on_host.h"

#include <exception>
#include <string>

#include "bias_act_launch.cuh"

namespace {

std::string message;

template <class F>
const char* caught(F&& f) {
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

extern "C" {

void set_order(int order, unsigned seed) {
  on_host::order = on_host::Order(order);
  on_host::shuffler.seed(seed);
}

long long bias_act_table(const idgan::BiasActCall* a) { return idgan::bias_act_table(*a); }
const char* bias_act(const idgan::BiasActCall* a) {
  return caught([&] { idgan::bias_act(*a, nullptr); });
}
unsigned quotient(unsigned n, unsigned d) { return idgan::Divisor(d).quotient(n); }
}
