// upfirdn2d for torch; the kernel is in upfirdn2d.h.
#include "taps.h"

namespace idgan {
namespace {

Tensor upfirdn2d(Tensor x, std::optional<Tensor> f, std::vector<int64_t> up, std::vector<int64_t> down,
                 std::vector<int64_t> padding, bool flip_filter, double gain) {
  const bool last = channels_last(x);
  x = dense(x, last);
  const int64_t n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  Upfirdn2d a{};
  of_images(a, x, last, n, c, h, w);
  a.up_x = up[0], a.up_y = up[1], a.down_x = down[0], a.down_y = down[1];
  a.pad_x = padding[0], a.pad_y = padding[2];
  return with_accumulation_type(a.dtype, [&](auto zero) {
    const Taps<decltype(zero)> taps(f, flip_filter, gain);
    filter_of(a, taps);
    a.out_columns = (w * a.up_x + padding[0] + padding[1] - a.width) / a.down_x + 1;
    a.out_rows = (h * a.up_y + padding[2] + padding[3] - a.height) / a.down_y + 1;
    const std::vector<int64_t> size{n, c, a.out_rows, a.out_columns};
    Tensor y = empty_as(x, size, last);
    if (y.numel() == 0) return y;
    a.in[0] = x.data_ptr(), a.out[0] = y.data_ptr();
    run_units(a, kernels().upfirdn2d, a.units(), a.block() * a.out_columns * a.pixel);
    return y;
  });
}

}  // namespace

REGISTER_OPERATORS(m) { m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d)); }

}  // namespace idgan
