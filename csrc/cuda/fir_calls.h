// What the kernels of upfirdn2d and styled_epilogue offer to the torch-facing files; as calls.h.
#pragma once

#include "calls.h"

namespace idgan {

// Dense images [samples, channels, height, width], not empty.
struct FirCall {
  Dtype dtype;
  bool channels_last;
  const void* in;
  void* out;
  const float* f;  // [f_height, f_width], or [f_width] for both axes, or null for one tap of 1
  int f_height, f_width;
  bool both_axes, flip;
  double gain;
  int64_t samples;
  int channels, height, width, out_height, out_width;
  int up_x, up_y, down_x, down_y, pad_x, pad_y;
  int num_sms;  // of the device
  bool wide_out;   // the result is in the type of the arithmetic: of filtered_epilogue, where wide_out_runs
};

// What follows in a layer; see epilogue.cuh.
struct EpilogueCall {
  const void *scale, *noise, *strength, *bias, *next;  // in the type of the arithmetic, or null
  bool shared_noise;                                   // among the samples
  double slope, gain, clamp;                           // clamp: NaN for none
};

void upfirdn2d(const FirCall& a, CUstream_st* stream);

// styled_epilogue through a filter; up = down = 1.
void filtered_epilogue(const FirCall& a, const EpilogueCall& e, CUstream_st* stream);
bool wide_out_runs(const FirCall& a);

// Dense images [samples, channels, pixels], not empty.
struct PixelsCall {
  Dtype dtype;
  bool channels_last;
  int64_t samples, pixels;
  int channels;
  int num_sms;
};

// styled_epilogue without a filter.
void epilogue_fwd(const PixelsCall& a, const void* y, void* out, const EpilogueCall& e, CUstream_st* stream);

// Sums over pixels in the type of the arithmetic: [N, C], [1], [C], [N, C], null where they are not wanted.
// table: as many numbers of that type as a function below says, or null where none are wanted.
struct SumsCall {
  void *scale, *strength, *bias, *next;
  void* table;
};

// dy may be null. s: y, or z if `of_z`, then in the type of the arithmetic if `wide`.
struct BackwardCall {
  const void *dout, *s;
  bool of_z, wide;
  void* dy;
  SumsCall sums;
};

int64_t epilogue_bwd_table(const PixelsCall& a);
void epilogue_bwd(const PixelsCall& a, const BackwardCall& b, const EpilogueCall& e, CUstream_st* stream);

// dnoise [images, pixels]: strength times the sums of h over channels, and over the samples that share an image's
// noise.
void noise_bwd(const PixelsCall& a, const BackwardCall& b, void* dnoise, int64_t images, const EpilogueCall& e,
               CUstream_st* stream);

// Through a filter of 4 x 4 taps: `a` is its adjoint, from dout to dy, and s is z. y: for the sums of scale, else null.
// own_x, own_y: which pixel of a result's window is its own, so that every pixel of dout has one result.
bool fir_bwd_runs(const FirCall& a, const void* z, const void* y);
// channels_last alone sums by strength, bias and next too.
int64_t fir_bwd_table(const FirCall& a);
void fir_bwd(const FirCall& a, const BackwardCall& b, const void* y, int own_x, int own_y, const EpilogueCall& e,
             CUstream_st* stream);

}  // namespace idgan
