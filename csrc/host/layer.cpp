// On a CPU, by torch's convolution between the kernels. Winograd's convolutions and GPUs are left to Python.
#include "layer.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bit>

#include "backends.h"
#include "bias_act.h"
#include "gate.h"
#include "python.h"
#include "registered.h"

namespace idgan::host {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kEps = 1e-8;

struct SquareSum {
  static constexpr const char* name = "weight_square_sum";
  using Signature = Tensor(const Tensor&);
};

// [O, I, kh, kw] -> [O, I].
struct WeightSquareSum : torch::autograd::Function<WeightSquareSum> {
  static Tensor forward(AutogradContext* ctx, const Tensor& weight) {
    ctx->save_for_backward({weight});
    OfKernels below;
    return call<SquareSum>(Backend::kNative, weight);
  }

  static variable_list backward(AutogradContext* ctx, variable_list g) {
    const Tensor weight = ctx->get_saved_variables()[0];
    return {weight * (2 * g[0]).unsqueeze(-1).unsqueeze(-1)};
  }
};

// d = rsqrt(s^2 W^T + eps) of styles s [N, I], W [O, I] the sums of squares of a weight [O, I, kh, kw], and eps [1 or N,
// 1 or O] or a number. With g its gradient and c = -g d^3: by s: s (c W), by the weight: weight (c^T s^2)[o, i].
Tensor coefficients(const Tensor& weight, const Tensor& styles, const OptionalTensor& eps);

// The same from W, without gradients.
Tensor coefficients_of(const Tensor& sums, const Tensor& styles, const OptionalTensor& eps) {
  Tensor d = at::mm(styles.square(), sums.t());
  return (eps ? d.add_(*eps) : d.add_(kEps)).rsqrt_();
}

struct Demodulation : torch::autograd::Function<Demodulation> {
  static Tensor forward(AutogradContext* ctx, const Tensor& weight, const Tensor& styles, const OptionalTensor& eps) {
    OfKernels below;
    const Tensor sums = call<SquareSum>(Backend::kNative, weight);
    const Tensor d = coefficients_of(sums, styles, eps);
    ctx->save_for_backward({weight, styles, eps.value_or(Tensor()), sums, d.detach()});
    return d;
  }

  static variable_list backward(AutogradContext* ctx, variable_list g) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &weight = saved[0], &styles = saved[1], &eps = saved[2];
    Tensor sums = saved[3], d = saved[4];
    if (at::GradMode::is_enabled()) {  // as functions of the weight and the styles
      sums = WeightSquareSum::apply(weight);
      d = coefficients(weight, styles, optional(eps));
    }
    const Tensor c = -g[0] * d * d * d;
    Tensor by_weight, by_styles;
    if (ctx->needs_input_grad(0))
      by_weight = weight * at::mm(c.t(), styles.square()).unsqueeze(-1).unsqueeze(-1);
    if (ctx->needs_input_grad(1)) by_styles = styles * at::mm(c, sums);
    return {by_weight, by_styles, Tensor()};
  }
};

Tensor coefficients(const Tensor& weight, const Tensor& styles, const OptionalTensor& eps) {
  if (at::GradMode::is_enabled() && (weight.requires_grad() || styles.requires_grad()))
    return Demodulation::apply(weight, styles, eps);
  OfKernels below;
  return coefficients_of(call<SquareSum>(Backend::kNative, weight), styles, eps);
}

struct Layer {
  Tensor x, weight, styles;
  bool demodulate = true, carries_styles = false;
  Tensor f;                         // after an upsampling convolution; undefined without one
  int64_t up = 1;
  std::array<int64_t, 2> padding{};  // of the convolution along y and x, with up = 1
  Epilogue epilogue;
};

// Scales each row to about 1 by a power of two, in float16; the factors, or undefined where nothing was scaled.
Tensor normalize_rows(Tensor& t, at::ScalarType type) {
  if (type != at::kHalf || t.numel() == 0) return Tensor();
  t = t.to(at::kFloat);
  std::vector<int64_t> others(t.dim() - 1);
  for (size_t i = 0; i < others.size(); i++) others[i] = int64_t(i) + 1;
  const Tensor largest = t.detach().abs().amax(others, true);
  const Tensor factors = at::ldexp(at::ones_like(largest), -std::get<1>(at::frexp(largest)));
  t = t * factors;
  return factors;
}

// The weight to convolve with, and the demodulation coefficients [N, O] or undefined.
std::pair<Tensor, Tensor> weight_and_demodulation(Layer& layer) {
  const auto type = layer.x.scalar_type();
  if (!layer.demodulate) return {layer.weight.to(type), Tensor()};
  // In a chain x carries the styles as they are.
  const Tensor style_factors = layer.carries_styles ? Tensor() : normalize_rows(layer.styles, type);
  const auto acc_type = accumulation(type);
  Tensor weight = layer.weight.to(acc_type);
  const Tensor styles = layer.styles.to(acc_type);
  Tensor eps;
  if (type == at::kHalf) {
    const Tensor factors = normalize_rows(weight, type);
    const uint64_t fan_in = uint64_t(weight[0].numel());
    const double root = double(uint64_t(1) << (std::bit_width(fan_in) / 2));
    weight = weight / root;
    if (factors.defined()) eps = kEps * (factors.reshape({1, -1}) / root).square();
    if (style_factors.defined()) eps = (eps.defined() ? eps : at::scalar_tensor(kEps, weight.options())) * style_factors.square();
  }
  return {weight.to(type), coefficients(weight, styles, optional(eps))};
}

// The transposed convolution of stride 2 by the flipped weight, as its four phases.
std::vector<Tensor> transposed_by_phases(const Tensor& x, const Tensor& weight) {
  const int64_t kh = weight.size(2), kw = weight.size(3);
  const auto format = channels_last(weight) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  std::vector<Tensor> parts;
  for (int64_t row : {0, 1}) {
    for (int64_t column : {0, 1}) {
      const Tensor part = weight.slice(2, (kh - 1 - row) % 2, c10::nullopt, 2)
                              .slice(3, (kw - 1 - column) % 2, c10::nullopt, 2)
                              .contiguous(format);
      parts.push_back(at::conv2d(x, part, {}, 1, {part.size(2) - 1, part.size(3) - 1}));
    }
  }
  return parts;
}

// Whether weights for each sample are less than the images: to-RGB layers without gradients.
bool few_products(const Layer& layer) {
  const Tensor& w = layer.weight;
  if (at::GradMode::is_enabled() || layer.up != 1 || layer.carries_styles || w.size(2) != 1 || w.size(3) != 1) return false;
  const bool alone = layer.padding == std::array<int64_t, 2>{};
  return alone && channels_last(layer.x) && layer.x.size(0) > 0 &&
         8 * w.size(0) <= std::min(w.size(1), layer.x.size(2) * layer.x.size(3));
}

Tensor products(const Tensor& x, const Tensor& weight, const Tensor& styles) {
  const auto type = accumulation(x.scalar_type());
  const Tensor weights = (weight.flatten(1).t().to(type) * styles.to(type).unsqueeze(-1)).to(x.scalar_type());
  const int64_t n = x.size(0), height = x.size(2), width = x.size(3);
  const Tensor y = at::bmm(x.permute({0, 2, 3, 1}).reshape({n, height * width, -1}), weights);
  return y.reshape({n, height, width, -1}).permute({0, 3, 1, 2});
}

Tensor run(Layer layer) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto [weight, scale] = weight_and_demodulation(layer);
  Epilogue& e = layer.epilogue;
  if (scale.defined()) e.scale = scale;
  std::vector<Tensor> y;
  if (few_products(layer)) {
    y = {products(layer.x, weight, layer.styles)};
  } else {
    const Tensor x = layer.carries_styles ? layer.x : modulate(layer.x, layer.styles, e.backend);
    if (layer.up == 1) {
      y = {at::conv2d(x, gated(weight), {}, 1, layer.padding)};
    } else {
      e.f = layer.f;
      y = transposed_by_phases(x, gated(weight));
    }
  }
  return e.changes_nothing() ? y[0] : apply_epilogue(y, e);
}

bool shaped(const Operand& t, std::initializer_list<int64_t> shape) { return t->sizes() == at::IntArrayRef(shape); }

// x in the dtype that autocast gives a convolution; double stays double.
Tensor cast_for_autocast(const Tensor& x) {
  if (!at::autocast::is_autocast_enabled(x.device().type()) || x.scalar_type() == at::kDouble) return x;
  return x.to(at::autocast::get_autocast_dtype(x.device().type()));
}

// x, weight and styles of a call, if they are plain and this library has the call's form.
std::optional<Layer> operands(const Operand& x, const Operand& weight, const Operand& styles) {
  if (!x.defined() || !weight.defined() || !styles.defined() || !ordinary(*x)) return std::nullopt;
  if (!beside(weight, *x) || !beside(styles, *x) || x->dim() != 4 || weight->dim() != 4) return std::nullopt;
  if (weight->size(1) != x->size(1) || weight->numel() == 0 || !x->device().is_cpu()) return std::nullopt;
  if (!shaped(styles, {x->size(0), x->size(1)}) || x->size(2) == 0 || x->size(3) == 0) return std::nullopt;
  if (!nothing_around()) return std::nullopt;
  Layer layer;
  layer.x = cast_for_autocast(*x), layer.weight = *weight, layer.styles = *styles;
  return layer;
}

// As _dispatch's `winograd_conv2d.is_faster`: such convolutions are long, and are left to Python.
bool winograd_is_faster(const Layer& layer) {
  const Tensor &x = layer.x, &w = layer.weight;
  const bool type = x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble;
  if (!type || w.size(2) != 3 || w.size(3) != 3 || std::min(w.size(0), w.size(1)) < 32 || !channels_last(x)) return false;
  const int64_t tiles = x.size(0) * ((x.size(2) + 1) / 2) * ((x.size(3) + 1) / 2);
  if (tiles < 128 || std::min(x.size(2), x.size(3)) < 8 || tiles * x.size(1) * w.size(0) < (1 << 21)) return false;
  return layer.padding == std::array<int64_t, 2>{1, 1};
}

// Fills in the convolution of a layer: its padding (x0, x1, y0, y1) and the size of the result; false if it takes
// another form than those here.
bool convolution(Layer& layer, int64_t up, const std::array<int64_t, 4>& pad, const Tensor& f, int64_t (&size)[2]) {
  const Tensor &x = layer.x, &w = layer.weight;
  const int64_t kh = w.size(2), kw = w.size(3);
  layer.up = up;
  if (up == 1) {
    if (pad[0] != pad[1] || pad[2] != pad[3] || pad[0] < 0 || pad[2] < 0) return false;
    layer.padding = {pad[2], pad[0]};
    size[0] = x.size(2) + 2 * pad[2] - kh + 1, size[1] = x.size(3) + 2 * pad[0] - kw + 1;
    return size[0] > 0 && size[1] > 0 && !winograd_is_faster(layer);
  }
  if (up != 2 || !f.defined() || std::min(kh, kw) == 1 || x.numel() == 0) return false;
  layer.f = f;
  layer.epilogue.padding = {pad[0] - kw + 1, pad[1] - kw + up, pad[2] - kh + 1, pad[3] - kh + up};
  layer.epilogue.fir_gain = double(up * up);
  const auto& around = layer.epilogue.padding;
  size[0] = (x.size(2) - 1) * up + kh + around[2] + around[3] - f.size(0) + 1;
  size[1] = (x.size(3) - 1) * up + kw + around[0] + around[1] - f.size(-1) + 1;
  // What upsampling, the filter and the convolution leave, each on its own.
  const int64_t height = x.size(2) * up + pad[2] + pad[3] - kh + 1 - (f.size(0) - 1);
  const int64_t width = x.size(3) * up + pad[0] + pad[1] - kw + 1 - (f.size(-1) - 1);
  return size[0] > 0 && size[1] > 0 && height > 0 && width > 0;
}

bool noise_fits(const Operand& noise, int64_t n, const int64_t (&size)[2]) {
  if (!noise.defined()) return true;
  return shaped(noise, {n, 1, size[0], size[1]}) || shaped(noise, {1, 1, size[0], size[1]}) ||
         shaped(noise, {size[0], size[1]});
}

// The backend that all parts of a layer run on.
std::optional<Backend> backend_of(const Layer& layer, const Text& impl, const Text& requested) {
  const auto chosen = choose(kStyledEpilogue, layer.x, impl, requested);
  if (chosen != Backend::kNative || choose(kWeightSquareSum, layer.x, impl, requested) != chosen) return std::nullopt;
  return chosen;
}

}  // namespace

std::optional<Tensor> modulated_conv2d(const Operand& x, const Operand& weight, const Operand& styles,
                                       const Operand& noise, const Ints& up, const Ints& down, const Ints& padding,
                                       const Operand& f, bool demodulate, bool flip_weight, const Text& impl,
                                       const Text& requested) {
  std::optional<Layer> layer = operands(x, weight, styles);
  if (!layer || !beside(noise, *x) || !up.single || !down.single || down.values[0] != 1 || !flip_weight) return std::nullopt;
  const std::optional<Tensor> filter = taps(f, *x);
  const std::optional<Resampling> r = filter ? resampling(*filter, up, down, padding, up.values[0] != 1) : std::nullopt;
  int64_t size[2];
  if (!r || !convolution(*layer, up.values[0], r->padding, *filter, size)) return std::nullopt;
  if (!noise_fits(noise, x->size(0), size)) return std::nullopt;
  const auto backend = backend_of(*layer, impl, requested);
  if (!backend) return std::nullopt;
  layer->demodulate = demodulate;
  layer->epilogue.backend = *backend, layer->epilogue.noise = optional(*noise);
  WithoutGil no_gil;
  return run(std::move(*layer));
}

std::optional<Tensor> styled_conv2d(const Operand& x, const Operand& weight, const Operand& styles,
                                    const Operand& noise, const Operand& strength, const Operand& bias,
                                    const Operand& next_styles, const Ints& up, const Operand& f, bool demodulate,
                                    const Text& act, const Number& gain, const Number& clamp, bool carries_styles,
                                    const Text& impl, const Text& requested) {
  std::optional<Layer> layer = operands(x, weight, styles);
  if (!layer || !beside(noise, *x) || !beside(strength, *x) || !beside(bias, *x) || !beside(next_styles, *x))
    return std::nullopt;
  const int64_t n = x->size(0), c_out = weight->size(0), kh = weight->size(2), kw = weight->size(3);
  if (kh % 2 == 0 || kw % 2 == 0 || !up.single || up.values[0] < 1 || !act.plain) return std::nullopt;
  if (bias.defined() && !shaped(bias, {c_out})) return std::nullopt;
  if (next_styles.defined() && !shaped(next_styles, {n, c_out})) return std::nullopt;
  if (strength.defined() && (!noise.defined() || strength->numel() != 1)) return std::nullopt;
  std::optional<Tensor> filter = Tensor();
  std::array<int64_t, 4> pad{kw / 2, kw / 2, kh / 2, kh / 2};
  if (up.values[0] != 1) {
    filter = taps(f, *x);
    if (!filter) return std::nullopt;
    Resampling r;
    r.up = {up.values[0], up.values[0]}, r.padding = pad;
    center(r, *filter);
    pad = r.padding;
  }
  int64_t size[2];
  if (!convolution(*layer, up.values[0], pad, *filter, size) || !noise_fits(noise, n, size)) return std::nullopt;
  std::optional<Activation> a = activation(act.value, {std::nullopt, true}, gain, clamp, layer->x.scalar_type());
  const auto backend = backend_of(*layer, impl, requested);
  if (!a || !backend) return std::nullopt;
  const std::optional<double> slope = negative_slope(*a);
  if (!slope && choose(kBiasAct, layer->x, impl, requested) != backend) return std::nullopt;
  layer->demodulate = demodulate, layer->carries_styles = carries_styles;
  Epilogue& e = layer->epilogue;
  e.backend = a->backend = *backend;
  e.noise = optional(*noise), e.strength = optional(*strength), e.b = optional(*bias);
  WithoutGil no_gil;
  if (slope) {
    e.next_styles = optional(*next_styles);
    e.slope = *slope, e.gain = a->gain, e.clamp = a->clamp;
    return run(std::move(*layer));
  }
  const Tensor y = apply_bias_act(run(std::move(*layer)), Tensor(), *a);
  return next_styles.defined() ? modulate(y, *next_styles, *backend) : y;
}

}  // namespace idgan::host
