// upfirdn2d for torch; the kernels are in upfirdn2d.cuh and fir_any.cuh.
#include "images.h"

namespace idgan {
namespace {

Tensor resampled(Tensor x, std::optional<Tensor> f, std::vector<int64_t> up, std::vector<int64_t> down,
                 std::vector<int64_t> padding, bool flip_filter, double gain) {
  const FilterTaps taps(f, x);
  const bool last = channels_last(x);
  const Image image(axis_by_axis(taps) ? to_acc(x) : x, last);
  const int64_t w = (image.w * up[0] + padding[0] + padding[1] - taps.width) / down[0] + 1;
  const int64_t h = (image.h * up[1] + padding[2] + padding[3] - taps.height) / down[1] + 1;
  Tensor y = empty_as(image.x, {image.n, image.c, h, w}, image.last);
  if (y.numel() == 0) return y;
  FirCall a = fir_of(image, taps, h, w, padding[0], padding[2], flip_filter, gain);
  a.up_x = int(up[0]), a.up_y = int(up[1]), a.down_x = int(down[0]), a.down_y = int(down[1]);
  a.out = y.data_ptr();
  const OnDevice on(image.x);
  a.num_sms = on.num_sms;
  filtered(a, image, taps, on);
  return y.scalar_type() == x.scalar_type() ? y : torch::stable::to(y, x.scalar_type());
}

}  // namespace

REGISTER_OPERATORS(m) { m.impl("upfirdn2d", TORCH_BOX(&resampled)); }

}  // namespace idgan
