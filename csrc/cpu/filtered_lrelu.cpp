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
    const auto kernel = kernels().filtered_lrelu;
    torch::stable::parallel_for(0, a.units(), grain(a.block() * a.down.down_y * columns),
                                [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
  }
  return channels_last(x) ? torch::stable::contiguous(y, MemoryFormat::ChannelsLast) : y;
}

std::tuple<Tensor, Tensor> filtered_lrelu_fwd(Tensor x, Small b, Small fu, Small fd, Ints up, Ints down, Ints padding,
                                              double gain, double slope, std::optional<double> clamp, bool flip,
                                              bool want_codes) {
  const Ints none{0, 0, 0, 0};
  const Tensor image = dense(x, false);
  FilteredLrelu a = described(image, up, down, padding, none);
  a.slope = slope, a.gain = gain, a.clamp = or_none(clamp);
  Small bias;
  if (b) bias = dense(*b, false);
  a.bias = bias ? bias->data_ptr() : nullptr;
  const auto run = [&](const auto& up_taps, const auto& down_taps) {
    const int64_t columns = x.size(3) * up[0] + padding[0] + padding[1] - up_taps.width + 1;
    const int64_t rows = x.size(2) * up[1] + padding[2] + padding[3] - up_taps.height + 1;
    const Ints size = want_codes ? Ints{x.size(0), x.size(1), rows, (columns + 3) / 4} : Ints{0};
    Tensor codes = torch::stable::empty(size, ScalarType::Byte, std::nullopt, x.device());
    a.codes = want_codes && codes.numel() > 0 ? static_cast<uint8_t*>(codes.data_ptr()) : nullptr;
    Tensor y = filtered(a, x, up_taps, down_taps, rows, columns, none);
    return std::make_tuple(y, codes);
  };
  const double factor = double(up[0] * up[1]);
  if (a.up.dtype == kDouble) return run(Taps<double>(fu, flip, factor), Taps<double>(fd, flip, 1));
  return run(Taps<float>(fu, flip, factor), Taps<float>(fd, flip, 1));
}

Tensor filtered_lrelu_linear(Tensor x, Tensor codes, Ints middle, Small fu, Small fd, Ints up, Ints down, Ints padding,
                             Ints padding_down, double gain, double slope, bool flip) {
  const Tensor image = dense(x, false), given = dense(codes, false);
  FilteredLrelu a = described(image, up, down, padding, padding_down);
  a.slope = slope, a.gain = gain;
  a.given = static_cast<const uint8_t*>(given.data_ptr());
  if (a.up.dtype == kDouble)
    return filtered(a, x, Taps<double>(fu, flip, 1), Taps<double>(fd, flip, 1), middle[0], middle[1], padding_down);
  return filtered(a, x, Taps<float>(fu, flip, 1), Taps<float>(fd, flip, 1), middle[0], middle[1], padding_down);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(idgan_fast, CPU, m) {
  m.impl("filtered_lrelu_fwd", TORCH_BOX(&filtered_lrelu_fwd));
  m.impl("filtered_lrelu_linear", TORCH_BOX(&filtered_lrelu_linear));
}

}  // namespace idgan
