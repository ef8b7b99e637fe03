// What the kernels of every instruction set offer to the torch-facing files: plain pointers and sizes, no torch.
#pragma once

#include <cstdint>

#include "../types.h"

namespace idgan {

// A pass over dense arrays [outer, channels, inner] with a bias along channels, cut into units.
struct BiasAct {
  Dtype dtype;
  Activation act;
  Pass pass;
  const void* in[3];
  void* out[2];
  // In the accumulation type: one number a channel, or `pattern` numbers if inner = 1; -0 where there is no bias. ddb
  // has any numbers in a pass that does not use it.
  const void *bias, *ddb;
  void* sums;  // [units, pattern] in the accumulation type: the last output summed within a unit; null if not wanted
  int64_t outer, channels, inner;
  double alpha, gain, clamp;  // alpha: the slope of leaky ReLU below 0; clamp: NaN for none

  // inner > 1: a unit is a block of one row of `inner` elements, and has one bias.
  // inner = 1: a unit is a run of whole rows of `channels` elements; the bias repeats `pattern` elements.
  static constexpr int64_t kBlock = 8192;
  int64_t blocks() const { return (inner + kBlock - 1) / kBlock; }
  int64_t pattern() const { return inner > 1 ? 1 : channels * (channels < 64 ? (63 + channels) / channels : 1); }
  int64_t run() const { return pattern() * ((kBlock + pattern() - 1) / pattern()); }
  int64_t units() const { return inner > 1 ? outer * channels * blocks() : (outer * channels + run() - 1) / run(); }
  int64_t unit_elements() const { return inner > 1 ? (inner < kBlock ? inner : kBlock) : run(); }
};

// Zero insertion, padding or cropping, a FIR filter, decimation. An image is `rows` rows of `columns` pixels of `depth`
// elements: NCHW has N*C images of depth 1, channels_last N images of depth C.
struct Upfirdn2d {
  Dtype dtype;
  // Of [rows, columns] pixels each; phased: the pixels of even and odd rows and columns are four tensors, in the order
  // even even, even odd, odd even, odd odd.
  void *in[4], *out[4];
  bool phased, phased_out;
  int64_t images, rows, columns, depth, out_rows, out_columns;
  int64_t pixel;  // elements of a pixel in a line; see rows.h
  int64_t up_x, up_y, down_x, down_y, pad_x, pad_y;  // the padding before the first pixel, negative to crop
  // Taps to correlate with, widened, the gain included. Separable: taps_y [height] and taps_x [width].
  // Otherwise taps_y is null and taps_x [height, width].
  const void *taps_x, *taps_y;
  int64_t width, height;

  // A unit is a block of rows of the result of one image.
  int64_t block() const {
    const int64_t wanted = 1 + 32767 / (out_columns * depth), enough = wanted < 4 ? 4 : wanted;
    return enough < out_rows ? enough : out_rows;
  }
  int64_t blocks() const { return (out_rows + block() - 1) / block(); }
  int64_t units() const { return images * blocks(); }
};

// What follows the convolution of a StyleGAN2 layer; see styled_epilogue.h. All tensors but y, out, dout and dy are
// widened.
struct StyledEpilogue {
  Upfirdn2d fir;  // forward: y -> out
  bool filtered;  // false: there is no filter, and `fir` has one tap of 1
  void *out_in, *dout;                                 // backward: out and its gradient
  const void *scale, *noise, *strength, *bias, *next;  // [N, C], [noise_images, H', W'], [1], [C], [N, C], or null
  int64_t channels, noise_images;
  bool channels_last;
  double slope, gain, clamp;  // clamp: NaN for none

  // Backward: dy = scale * FIR^T(h), of which `back` describes the filter.
  Upfirdn2d back;  // h -> dy
  void* h;         // widened, laid out as out, or null if it is not wanted
  void* sums;      // widened, [units, 4, pixel]: scale, strength, bias, next; of one unit
  bool want_scale;
};

// Bias, upsampling, leaky ReLU with gain and clamp, downsampling, of NCHW images; see filtered_lrelu.h.
struct FilteredLrelu {
  Upfirdn2d up, down;         // x -> u and z -> y
  const void* bias;           // widened [channels], or null
  uint8_t* sign_mask;         // to write, [images, rows of u, ceil(columns of u / 4)], or null
  const uint8_t* fixed_mask;  // to follow instead of an activation, or null
  int64_t channels;
  double slope, gain, clamp;  // clamp: NaN for none

  // A unit is a block of rows of y of one image.
  int64_t block() const {
    const int64_t wanted = 1 + 32767 / (up.out_columns * down.down_y), enough = wanted < 8 ? 8 : wanted;
    return enough < down.out_rows ? enough : down.out_rows;
  }
  int64_t blocks() const { return (down.out_rows + block() - 1) / block(); }
  int64_t units() const { return up.images * blocks(); }
};

// Sums of squares over the taps of a weight [O, I, taps], or [O, taps, I] if channels_last; see weight_square_sum.h.
struct WeightSquareSum {
  Dtype dtype;
  const void* weight;
  void* out;  // widened, [O, I]
  int64_t count, channels, taps;  // O * I and I
  bool channels_last;

  static constexpr int64_t kBlock = 1024;  // kernels in a unit
  int64_t units() const { return (count + kBlock - 1) / kBlock; }
};

// The 3x3 correlation of channels_last images in float or double, stride 1, padding 1; see winograd_conv2d.h.
struct WinogradConv2d {
  Dtype dtype;
  const void *x, *weight;     // [N, H, W, I]; [O, I, 3, 3] of any strides
  void *points, *y;           // the weight at the 16 points, [16, panels, I, elements of a panel]; [N, H, W, O]
  int64_t weight_strides[4];  // in elements
  int64_t images, rows, columns, in_channels, out_channels;
  int64_t block;              // tiles in a unit

  static constexpr int64_t kBlock = 16;  // channels of the weight in a unit
  int64_t panels(int64_t elements) const { return (out_channels + elements - 1) / elements; }
  int64_t weight_blocks() const { return (in_channels + kBlock - 1) / kBlock; }

  struct Tile {
    int64_t image, row, column;  // of its first pixel
  };
  int64_t tile_rows() const { return (rows + 1) / 2; }
  int64_t tile_columns() const { return (columns + 1) / 2; }
  int64_t tiles() const { return images * tile_rows() * tile_columns(); }
  Tile tile(int64_t number) const {
    const int64_t line = number / tile_columns();
    return {line / tile_rows(), line % tile_rows() * 2, number % tile_columns() * 2};
  }

  // Tiles in a unit: a multiple of `step`, as many units for each thread, and 768 KiB of the L2 cache at the most for
  // inputs and products, but two steps at least.
  int64_t block_of(int64_t bytes_of_vector, int64_t step, int64_t threads) const {
    const int64_t bytes = 16 * (in_channels * (dtype == kDouble ? 8 : 4) + 2 * bytes_of_vector);
    const int64_t fitting = (int64_t(768) << 10) / (bytes * step), most = fitting < 2 ? 2 : fitting;
    const int64_t of_thread = (tiles() + threads * step - 1) / (threads * step), units = (of_thread + most - 1) / most;
    return step * ((of_thread + units - 1) / units);
  }
};

struct Kernels {
  const char* name;
  int bytes;  // of a vector
  void (*bias_act)(const BiasAct&, int64_t begin, int64_t end);
  void (*weight_square_sum)(const WeightSquareSum&, int64_t begin, int64_t end);
  void (*upfirdn2d)(const Upfirdn2d&, int64_t begin, int64_t end);
  void (*filtered_lrelu)(const FilteredLrelu&, int64_t begin, int64_t end);
  void (*styled_epilogue_fwd)(const StyledEpilogue&, int64_t begin, int64_t end);
  void (*styled_epilogue_bwd)(const StyledEpilogue&, int64_t begin, int64_t end);
  int tile_rows;  // of winograd_conv2d: its blocks are multiples of them
  void (*winograd_weight)(const WinogradConv2d&, int64_t begin, int64_t end);
  void (*winograd_conv2d)(const WinogradConv2d&, int64_t begin, int64_t end);
};

extern const Kernels plain_kernels, avx2_kernels, avx512_kernels;

// The widest set that this processor has, or the one that IDGAN_FAST_CPU names: plain, avx2, avx512.
const Kernels& kernels();

}  // namespace idgan
