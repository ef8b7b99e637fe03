// What the CUDA kernels offer to the torch-facing files: plain structures, pointers and sizes, without a header of
// torch or CUDA.
//
// Every function launches on the stream that it is given and does not wait; an error is a std::runtime_error.
#pragma once

#include <cstdint>

#include "../types.h"

struct CUstream_st;  // of which a cudaStream_t is a pointer

namespace idgan {

// How many multiprocessors a device has.
int count_sms(int device);

// Dense arrays [outer, channels, inner], not empty.
struct BiasActCall {
  Dtype dtype;
  Activation act;
  Pass pass;
  const void* in[3];
  void* out[2];
  const void *b, *ddb;   // [channels] in the type of the arithmetic, or null
  void *table, *sums;    // bias_act_table() numbers of that type and [channels] of them, or null for no sums
  int64_t outer, channels, inner;
  double alpha, gain, clamp;  // clamp: NaN for none
  int num_sms;             // of the device
};

// How many numbers the table of partial sums has.
int64_t bias_act_table(const BiasActCall& a);
void bias_act(const BiasActCall& a, CUstream_st* stream);

// A weight [outputs, inputs, taps], or [outputs, taps, inputs] if channels_last, not empty.
struct WeightSquareSumCall {
  Dtype dtype;
  const void* weight;
  void* square_sum;  // [outputs, inputs] in the type of the arithmetic
  int64_t outputs, inputs, taps;
  bool channels_last;
  int num_sms;  // of the device
};

void weight_square_sum(const WeightSquareSumCall& a, CUstream_st* stream);

}  // namespace idgan
