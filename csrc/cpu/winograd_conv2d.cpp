// winograd_conv2d for torch; the kernel is in winograd_conv2d.h.
#include "tensors.h"

namespace idgan {
namespace {

Tensor winograd_conv2d(Tensor x, Tensor weight) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4 && weight.size(1) == x.size(1) && weight.size(2) == 3 &&
                      weight.size(3) == 3 && weight.scalar_type() == x.scalar_type(),
                  "winograd_conv2d: weight must be [O, I, 3, 3] for x [N, I, H, W], of its dtype");
  x = dense(x, true);
  WinogradConv2d a{};
  a.dtype = dtype_of(x);
  STD_TORCH_CHECK(a.dtype == kFloat || a.dtype == kDouble, "winograd_conv2d: it takes float32 and float64");
  a.images = x.size(0), a.rows = x.size(2), a.columns = x.size(3);
  a.in_channels = x.size(1), a.out_channels = weight.size(0);
  Tensor y = empty_as(x, {a.images, a.out_channels, a.rows, a.columns}, true);
  if (y.numel() == 0) return y;
  const Kernels& kernel = kernels();
  const int64_t panel = 2 * kernel.bytes / x.element_size();
  Tensor points = torch::stable::new_empty(x, {16 * a.panels(panel) * a.in_channels * panel});
  for (int i = 0; i < 4; i++) a.weight_strides[i] = weight.stride(i);
  a.x = x.data_ptr(), a.weight = weight.data_ptr(), a.points = points.data_ptr(), a.y = y.data_ptr();
  run_units(a, kernel.winograd_weight, a.panels(panel) * a.weight_blocks(), a.kBlock * panel * 32);
  a.block = a.block_of(kernel.bytes, kernel.tile_rows, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, (a.tiles() + a.block - 1) / a.block, 1,
                              [&](int64_t begin, int64_t end) { kernel.winograd_conv2d(a, begin, end); });
  return y;
}

}  // namespace

REGISTER_OPERATORS(m) { m.impl("winograd_conv2d", TORCH_BOX(&winograd_conv2d)); }

}  // namespace idgan
