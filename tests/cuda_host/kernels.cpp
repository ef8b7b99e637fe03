// What a test sets of the device that runs the kernels of csrc/cuda, after which host.py compiles this.
#include "cuda_on_host.h"

#include "divide.cuh"

extern const char* const host_library = HOST_LIBRARY;  // under which device_on_host.h registers

#ifdef COUNTED
extern "C" void count_new(const char* kind, const void* begin, size_t bytes);
#endif

// Of a new tensor.
void host_made(const char* kind, const void* begin, size_t bytes) {
#ifdef COUNTED
  count_new(kind, begin, bytes);
#else
  (void)kind, (void)begin, (void)bytes;
#endif
}

extern "C" {

void set_device(int order, unsigned seed, int num_sms) {
  on_host::order = on_host::Order(order);
  on_host::shuffler.seed(seed);
  on_host::num_sms = num_sms;
}

// What check_cuda says of a launch in a file that CUDA refused.
const char* refusal(const char* file) {
  static std::string text;
  try {
    idgan::check_cuda(cudaErrorInvalidValue, file);
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  return text.c_str();
}

unsigned quotient(unsigned n, unsigned d) { return idgan::Divisor(d).quotient(n); }
}
