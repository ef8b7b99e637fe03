// filtered_lrelu_fwd and filtered_lrelu_linear for torch; the kernel is in filtered_lrelu.h.
#include <tuple>

#include "taps.h"

namespace idgan {
namespace {

using Small = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

// The geometry of x -> u -> y but for the filters; channels_last images are worked through as NCHW.
FilteredLrelu described(const Tensor& x, const Ints& up, const Ints& down, const Ints& padding,
                        const Ints& padding_down) {
  FilteredLrelu a{};
  of_images(a.up, x, false, x.size(0), x.size(1), x.size(2), x.size(3));
  a.down = a.up;
  a.channels = x.size(1);
  a.up.in[0] = x.data_ptr();
  a.up.up_x = up[0], a.up.up_y = up[1], a.up.down_x = a.up.down_y = 1;
  a.down.up_x = a.down.up_y = 1, a.down.down_x = down[0], a.down.down_y = down[1];
  a.up.pad_x = padding[0], a.up.pad_y = padding[2];
  a.down.pad_x = padding_down[0], a.down.pad_y = padding_down[2];
  return a;
}

// Runs the kernel with taps that are in place; the result has the layout of `x`, which the user gave.
template <class A>
Tensor filtered(FilteredLrelu& a, const Tensor& x, const Taps<A>& fu, const Taps<A>& fd, int64_t rows, int64_t columns,
                const Ints& padding_down) {
  filter_of(a.up, fu), filter_of(a.down, fd);
  a.up.out_rows = a.down.rows = rows, a.up.out_columns = a.down.columns = columns;
  a.down.out_columns = (columns + padding_down[0] + padding_down[1] - fd.width) / a.down.down_x + 1;
  a.down.out_rows = (rows + padding_down[2] + padding_down[3] - fd.height) / a.down.down_y + 1;
  const Ints size{x.size(0), x.size(1), a.down.out_rows, a.down.out_columns};
  Tensor y = empty_as(x, size, false);
  if (y.numel() > 0) {
    a.down.out[0] = y.data_ptr();
    run_units(a, kernels().filtered_lrelu, a.units(), a.block() * a.down.down_y * columns);
  }
  return channels_last(x) ? torch::stable::contiguous(y, MemoryFormat::ChannelsLast) : y;
}

std::tuple<Tensor, Tensor> filtered_lrelu_fwd(Tensor x, Small b, Small fu, Small fd, Ints up, Ints down, Ints padding,
                                              double gain, double slope, std::optional<double> clamp, bool flip,
                                              bool want_sign_mask) {
  const Ints none{0, 0, 0, 0};
  const Tensor image = dense(x, false);
  FilteredLrelu a = described(image, up, down, padding, none);
  a.slope = slope, a.gain = gain, a.clamp = or_none(clamp);
  Small bias;
  if (b) bias = dense(*b, false);
  a.bias = bias ? bias->data_ptr() : nullptr;
  return with_accumulation_type(a.up.dtype, [&](auto zero) {
    using A = decltype(zero);
    const Taps<A> up_taps(fu, flip, double(up[0] * up[1])), down_taps(fd, flip, 1);
    const int64_t columns = x.size(3) * up[0] + padding[0] + padding[1] - up_taps.width + 1;
    const int64_t rows = x.size(2) * up[1] + padding[2] + padding[3] - up_taps.height + 1;
    const Ints size = want_sign_mask ? Ints{x.size(0), x.size(1), rows, (columns + 3) / 4} : Ints{0};
    Tensor sign_mask = torch::stable::empty(size, ScalarType::Byte, std::nullopt, x.device());
    a.sign_mask = want_sign_mask && sign_mask.numel() > 0 ? static_cast<uint8_t*>(sign_mask.data_ptr()) : nullptr;
    Tensor y = filtered(a, x, up_taps, down_taps, rows, columns, none);
    return std::make_tuple(y, sign_mask);
  });
}

Tensor filtered_lrelu_linear(Tensor x, Tensor sign_mask, Ints middle, Small fu, Small fd, Ints up, Ints down,
                             Ints padding, Ints padding_down, double gain, double slope, bool flip) {
  const Tensor image = dense(x, false), mask = dense(sign_mask, false);
  FilteredLrelu a = described(image, up, down, padding, padding_down);
  a.slope = slope, a.gain = gain;
  a.fixed_mask = static_cast<const uint8_t*>(mask.data_ptr());
  return with_accumulation_type(a.up.dtype, [&](auto zero) {
    using A = decltype(zero);
    return filtered(a, x, Taps<A>(fu, flip, 1), Taps<A>(fd, flip, 1), middle[0], middle[1], padding_down);
  });
}

}  // namespace

REGISTER_OPERATORS(m) {
  m.impl("filtered_lrelu_fwd", TORCH_BOX(&filtered_lrelu_fwd));
  m.impl("filtered_lrelu_linear", TORCH_BOX(&filtered_lrelu_linear));
}

}  // namespace idgan
