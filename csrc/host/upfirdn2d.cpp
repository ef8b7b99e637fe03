// Autograd of upfirdn2d: its gradient is itself with up and down exchanged and the filter flipped.
#include "upfirdn2d.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "registered.h"

namespace idgan::host {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Upfirdn2d {
  static constexpr const char* name = "upfirdn2d";
  using Signature = Tensor(const Tensor&, const OptionalTensor&, c10::SymIntArrayRef, c10::SymIntArrayRef,
                           c10::SymIntArrayRef, bool, double);
};

Tensor run(const Tensor& x, const Tensor& f, const Resampling& r) {
  const auto ints = [](const auto& values) { return c10::fromIntArrayRefUnchecked(values); };
  OfKernels below;
  return call<Upfirdn2d>(r.backend, x, optional(f), ints(r.up), ints(r.down), ints(r.padding), r.flip_filter, r.gain);
}

int64_t height(const Tensor& f) { return f.defined() ? f.size(0) : 1; }
int64_t width(const Tensor& f) { return f.defined() ? f.size(-1) : 1; }

struct Apply : torch::autograd::Function<Apply> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& f, const Resampling& r) {
    const Tensor taps = f.value_or(Tensor());
    Tensor y = run(x, taps, r);
    ctx->save_for_backward({taps});
    std::vector<double> numbers{double(r.flip_filter), double(int64_t(r.backend)), r.gain};
    for (int64_t n : {r.up[0], r.up[1], r.down[0], r.down[1], r.padding[0], r.padding[2], x.size(2), x.size(3)})
      numbers.push_back(double(n));
    ctx->saved_data[kNumbers] = std::move(numbers);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list dy) {
    const std::vector<double> numbers = ctx->saved_data[kNumbers].toDoubleVector();
    const Tensor f = ctx->get_saved_variables()[0];
    std::array<int64_t, 8> n;
    std::copy_n(numbers.begin() + 3, n.size(), n.begin());
    Resampling r{{n[0], n[1]}, {n[2], n[3]}, {n[4], 0, n[5], 0}};
    r.flip_filter = numbers[0] != 0, r.backend = Backend(int64_t(numbers[1])), r.gain = numbers[2];
    return {apply_upfirdn2d(dy[0], f, adjoint(r, f, {n[6], n[7]}, {dy[0].size(2), dy[0].size(3)})), Tensor(), Tensor()};
  }
};

std::optional<std::array<int64_t, 2>> factors(const Ints& value) {
  if (value.count == 0 || (value.count == 1) != value.single || value.count > 2) return std::nullopt;
  const int64_t x = value.values[0], y = value.values[value.count - 1];
  if (x < 1 || y < 1) return std::nullopt;
  return std::array<int64_t, 2>{x, y};
}

std::optional<std::array<int64_t, 4>> paddings(const Ints& value) {
  const auto& v = value.values;
  if (value.single) return std::array<int64_t, 4>{v[0], v[0], v[0], v[0]};
  if (value.count == 2) return std::array<int64_t, 4>{v[0], v[0], v[1], v[1]};
  if (value.count == 4) return v;
  return std::nullopt;
}

int64_t floor_half(int64_t value) { return value >= 0 ? value / 2 : -((1 - value) / 2); }

}  // namespace

std::optional<Tensor> taps(const Operand& f, const Tensor& x) {
  if (!f.plain) return std::nullopt;
  if (!f.defined()) return Tensor();
  const bool shaped = (f->dim() == 1 || f->dim() == 2) && f->numel() > 0;
  if (!ordinary(*f) || f->scalar_type() == at::kDouble || !shaped || f->requires_grad()) return std::nullopt;
  return f->to(x.device(), at::kFloat);
}

void center(Resampling& r, const Tensor& f) {
  const int64_t sizes[] = {width(f), height(f)};
  const bool up = r.up[0] > 1 || r.up[1] > 1, down = r.down[0] > 1 || r.down[1] > 1;
  for (int axis = 0; axis < 2; axis++) {
    int64_t *before = &r.padding[2 * axis], *after = before + 1;
    if (up || !down) {
      *before += floor_half(sizes[axis] + r.up[axis] - 1);
      *after += floor_half(sizes[axis] - r.up[axis]);
    }
    if (down) {
      *before += floor_half(sizes[axis] - r.down[axis] + 1);
      *after += floor_half(sizes[axis] - r.down[axis]);
    }
  }
}

Resampling adjoint(const Resampling& r, const Tensor& f, std::array<int64_t, 2> size, std::array<int64_t, 2> out_size) {
  const auto [up_x, up_y] = r.up;
  const int64_t x0 = r.padding[0], y0 = r.padding[2];
  Resampling back = r;
  back.up = r.down, back.down = r.up, back.flip_filter = !r.flip_filter;
  back.padding = {width(f) - x0 - 1, size[1] * up_x - out_size[1] * r.down[0] + x0 - up_x + 1,
                  height(f) - y0 - 1, size[0] * up_y - out_size[0] * r.down[1] + y0 - up_y + 1};
  return back;
}

std::array<int64_t, 2> output_size(const Tensor& x, const Tensor& f, const Resampling& r) {
  const auto along = [](int64_t size, int64_t up, int64_t padding, int64_t taps, int64_t down) {
    const int64_t room = size * up + padding - taps;
    return room < 0 ? 0 : room / down + 1;
  };
  return {along(x.size(2), r.up[1], r.padding[2] + r.padding[3], height(f), r.down[1]),
          along(x.size(3), r.up[0], r.padding[0] + r.padding[1], width(f), r.down[0])};
}

Tensor apply_upfirdn2d(const Tensor& x, const Tensor& f, const Resampling& r) {
  if (!at::GradMode::is_enabled() || !x.requires_grad()) return run(x, f, r);
  return Apply::apply(x, optional(f), r);
}

std::optional<Resampling> resampling(const Tensor& f, const Ints& up, const Ints& down, const Ints& padding,
                                     bool centered) {
  const auto up_xy = factors(up), down_xy = factors(down);
  const auto pad = paddings(padding);
  if (!up_xy || !down_xy || !pad) return std::nullopt;
  Resampling r{*up_xy, *down_xy, *pad};
  if (centered) center(r, f), r.gain = r.up[0] * r.up[1];
  return r;
}

}  // namespace idgan::host
