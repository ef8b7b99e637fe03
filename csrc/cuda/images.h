// Images, filters and epilogues as the torch-facing files describe them to the kernels.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "fir_calls.h"
#include "tensors.h"

namespace idgan {

// An image [N, C, H, W] without holes.
struct Image {
  bool last;
  Tensor x;
  int64_t n, c, h, w;

  explicit Image(const Tensor& given) : Image(given, channels_last(given)) {}
  // In a layout that one pixel alone does not show.
  Image(const Tensor& given, bool last)
      : last(last), x(dense(given, last)), n(x.size(0)), c(x.size(1)), h(x.size(2)), w(x.size(3)) {
    STD_TORCH_CHECK(std::max({c, h, w}) < int64_t(1) << 31,
                    "idgan_fast: an image must have fewer than 2^31 pixels along an axis");
  }
};

// A filter's taps without holes, or none.
struct FilterTaps {
  std::optional<Tensor> f;
  int64_t height = 1, width = 1;

  FilterTaps(const std::optional<Tensor>& given, const Tensor& x) {
    if (!given) return;
    STD_TORCH_CHECK(given->device() == x.device() && given->scalar_type() == ScalarType::Float,
                    "idgan_fast: a filter must be float32 and on the images' device");
    f = dense(*given, false), height = f->size(0), width = f->size(f->dim() - 1);
  }
  bool both_axes() const { return f && f->dim() == 1; }
};

// A filter of up = down = 1 from an image of one size to another; padding before the first pixel.
inline FirCall fir_of(const Image& image, const FilterTaps& taps, int64_t out_h, int64_t out_w, int64_t pad_x,
                      int64_t pad_y, bool flip, double gain) {
  for (int64_t size : {out_h, out_w, std::abs(pad_x), std::abs(pad_y)})
    STD_TORCH_CHECK(size < int64_t(1) << 31, "idgan_fast: sizes and padding must be below 2^31, got ", size);
  FirCall a{};
  a.dtype = dtype_of(image.x), a.channels_last = image.last, a.in = image.x.data_ptr();
  a.f = static_cast<const float*>(data_or_null(taps.f));
  a.f_height = int(taps.height), a.f_width = int(taps.width), a.both_axes = taps.both_axes(), a.flip = flip,
  a.gain = gain;
  a.samples = image.n, a.channels = int(image.c), a.height = int(image.h), a.width = int(image.w);
  a.out_height = int(out_h), a.out_width = int(out_w);
  a.up_x = a.up_y = a.down_x = a.down_y = 1, a.pad_x = int(pad_x), a.pad_y = int(pad_y);
  return a;
}

// Of a filter along one axis: longer ones would not fit a block's shared memory for both axes at once.
constexpr int64_t kLongest = 48;

inline bool axis_by_axis(const FilterTaps& taps) { return taps.both_axes() && taps.width > kLongest; }

// A new image in the layout of `like`, between two kernels unless `kind` is another.
inline Tensor scratch_image(const Image& like, int64_t h, int64_t w, ScalarType type, const char* kind = "scratch") {
  const std::vector<int64_t> size{like.n, like.c, h, w};
  return fresh(torch::stable::empty(size, type, std::nullopt, like.x.device(), std::nullopt, format(like.last)), kind);
}

// upfirdn2d by a filter of any length; `a` is of `image`, which a long filter needs in the type of the arithmetic.
inline void filtered(const FirCall& a, const Image& image, const FilterTaps& taps, const OnDevice& on) {
  if (!axis_by_axis(taps)) return upfirdn2d(a, on.stream);
  const Tensor between = scratch_image(image, a.height, a.out_width, image.x.scalar_type());
  FirCall across = a, down = a;
  across.both_axes = down.both_axes = false;
  across.f_height = 1, across.up_y = across.down_y = 1, across.pad_y = 0;
  across.out_height = a.height, across.out = between.data_ptr();
  down.f_height = a.f_width, down.f_width = 1, down.up_x = down.down_x = 1, down.pad_x = 0, down.gain = 1;
  down.width = a.out_width, down.in = between.data_ptr();
  upfirdn2d(across, on.stream);
  upfirdn2d(down, on.stream);
}

}  // namespace idgan
