// Autograd of styled_epilogue. The gradients of its gradients are compositions of ATen, so that every order exists.
#include "epilogue.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "registered.h"
#include "upfirdn2d.h"

namespace idgan::host {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct Fwd {
  static constexpr const char* name = "styled_epilogue_fwd";
  using Signature = Tensor(at::TensorList, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                           const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, c10::SymIntArrayRef,
                           double, double, double, std::optional<double>);
};
struct Bwd {
  static constexpr const char* name = "styled_epilogue_bwd";
  using Signature = std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor>(
      const Tensor&, at::TensorList, const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, c10::SymIntArrayRef, double, double, double,
      std::optional<double>, at::IntArrayRef);
};

using Want = std::array<int64_t, 5>;  // scale, noise, strength, b, next_styles

std::array<const OptionalTensor*, 5> vectors(const Epilogue& e) {
  return {&e.scale, &e.noise, &e.strength, &e.b, &e.next_styles};
}

Tensor forward(const std::vector<Tensor>& y, const Epilogue& e) {
  OfKernels below;
  return call<Fwd>(e.backend, y, e.f, e.scale, e.noise, e.strength, e.b, e.next_styles,
                   c10::fromIntArrayRefUnchecked(e.padding), e.fir_gain, e.slope, e.gain, e.clamp);
}

// The gradients by the parts of y, then by the vectors.
variable_list backward(const Tensor& dout, const std::vector<Tensor>& y, const Tensor& out, const Epilogue& e,
                       const Want& want) {
  OfKernels below;
  auto [dy, dscale, dnoise, dstrength, db, dnext] =
      call<Bwd>(e.backend, dout, y, out, e.f, e.scale, e.noise, e.strength, e.b, e.next_styles,
                c10::fromIntArrayRefUnchecked(e.padding), e.fir_gain, e.slope, e.gain, e.clamp, want);
  dy.insert(dy.end(), {dscale, dnoise, dstrength, db, dnext});
  return dy;
}

// Numbers and tensors of an epilogue in a context. Order of the tensors: parts of y, the vectors that are there.
struct Saved {
  Epilogue e;
  std::vector<Tensor> y, others;
  Want want{};
};

void save(AutogradContext* ctx, const std::vector<Tensor>& y, const Epilogue& e, const variable_list& others,
          const Want& want) {
  variable_list tensors = others;
  tensors.insert(tensors.end(), y.begin(), y.end());
  tensors.push_back(e.f.value_or(Tensor()));
  for (const OptionalTensor* t : vectors(e)) tensors.push_back(t->value_or(Tensor()));
  ctx->save_for_backward(std::move(tensors));
  std::vector<double> numbers{double(others.size()), double(y.size()), double(int64_t(e.backend)), e.fir_gain, e.slope,
                              e.gain,                e.clamp.value_or(NAN)};
  numbers.insert(numbers.end(), e.padding.begin(), e.padding.end());
  numbers.insert(numbers.end(), want.begin(), want.end());
  ctx->saved_data[kNumbers] = std::move(numbers);
}

Saved saved(AutogradContext* ctx) {
  const auto numbers = ctx->saved_data[kNumbers].toDoubleVector();
  const variable_list tensors = ctx->get_saved_variables();
  Saved s;
  auto at = tensors.begin();
  const auto others = int64_t(numbers[0]), parts = int64_t(numbers[1]);
  s.others.assign(at, at + others), at += others;
  s.y.assign(at, at + parts), at += parts;
  for (OptionalTensor* t : {&s.e.f, &s.e.scale, &s.e.noise, &s.e.strength, &s.e.b, &s.e.next_styles}) {
    if (at->defined()) *t = *at;
    ++at;
  }
  s.e.backend = Backend(int64_t(numbers[2]));
  s.e.fir_gain = numbers[3], s.e.slope = numbers[4], s.e.gain = numbers[5];
  if (!std::isnan(numbers[6])) s.e.clamp = numbers[6];
  std::copy_n(numbers.begin() + 7, s.e.padding.size(), s.e.padding.begin());
  std::copy_n(numbers.begin() + 11, s.want.size(), s.want.begin());
  return s;
}

OptionalTensor part(const std::vector<Tensor>& y, size_t i) { return i < y.size() ? OptionalTensor(y[i]) : std::nullopt; }

Tensor over_pixels(const Tensor& t) { return t.unsqueeze(-1).unsqueeze(-1); }

Tensor interleaved(const Tensor& even, const Tensor& odd, int64_t dim) {
  const int64_t missing = even.size(dim) - odd.size(dim);
  std::vector<int64_t> pad(2 * (4 - dim), 0);
  pad.back() = missing;
  const Tensor filled = missing ? at::constant_pad_nd(odd, pad) : odd;
  return at::stack({even, filled}, dim + 1).flatten(dim, dim + 1).narrow(dim, 0, even.size(dim) + odd.size(dim));
}

Tensor whole(const std::vector<Tensor>& y) {
  if (y.size() == 1) return y[0];
  return interleaved(interleaved(y[0], y[1], 3), interleaved(y[2], y[3], 3), 2);
}

// Their cotangents of `whole`.
std::vector<Tensor> phases(const Tensor& y, size_t count) {
  if (count == 1) return {y};
  std::vector<Tensor> parts;
  for (int64_t row : {0, 1})
    for (int64_t column : {0, 1}) parts.push_back(y.slice(2, row, c10::nullopt, 2).slice(3, column, c10::nullopt, 2));
  return parts;
}

// dy times the derivative of z = clamp(gain lrelu(v)), whose sign z shows.
Tensor masked(const Tensor& dy, const Tensor& z, const Epilogue& e) {
  Tensor d = e.gain == 1 ? dy : dy * e.gain;
  if (e.slope != 1) d = at::leaky_relu_backward(d, e.gain > 0 ? z : -z, e.slope, true);
  return e.clamp ? at::hardtanh_backward(d, z, -*e.clamp, *e.clamp) : d;
}

Tensor sum_to(const Tensor& t, const Tensor& like) { return t.sum_to_size(like.sizes()).to(like.scalar_type()); }

void add(Tensor& sum, const Tensor& term) { sum = sum.defined() ? sum + term : term; }

// The gradients of <dy, ddy> + <dscale, ddscale> + .. by dout, the parts of y and the vectors. Undefined where zero.
// With M = dz/dv, h = M dout next_styles and q = M dout ddnext:
//   dv = FIR(ddy) scale + u ddscale + ddnoise strength + noise ddstrength + ddb
//   by dout: M dv next_styles + z ddnext     by y: FIR^T(h ddscale + q scale)      by scale: sum h FIR(ddy) + q u
//   by noise: h ddstrength + q strength      by strength: sum h ddnoise + q noise  by b: sum q
//   by next_styles: sum dout M dv
// needs: which of those by the vectors are asked for; need_y: those by y.
variable_list second(const Saved& s, const std::vector<Tensor>& ddy, const variable_list& dd, const Want& want,
                     const Want& needs, bool need_y) {
  const Epilogue& e = s.e;
  const Tensor &dout = s.others[0], &out = s.others[1];
  const auto type = accumulation(dout.scalar_type());
  const auto [want_scale, want_noise, want_strength, want_b, want_next] = want;
  Resampling fir;
  if (e.f) fir.padding = e.padding, fir.gain = e.fir_gain, fir.backend = e.backend;
  const auto filtered = [&](const std::vector<Tensor>& parts) {
    const Tensor t = whole(parts).to(type);
    return e.f ? apply_upfirdn2d(t, *e.f, fir) : t;
  };
  const bool next = e.next_styles.has_value();
  const Tensor du = filtered(ddy);
  const Tensor u = want_scale || next ? filtered(s.y) : Tensor();
  Tensor z = out.to(type);
  if (next) {
    Tensor v = e.scale ? u * over_pixels(*e.scale) : u;
    if (e.noise) v = v + (e.strength ? *e.noise * *e.strength : *e.noise);
    if (e.b) v = v + over_pixels(*e.b);
    z = e.slope == 1 ? v : e.slope == 0 ? v.relu() : at::leaky_relu(v, e.slope);
    if (e.gain != 1) z = z * e.gain;
    if (e.clamp) z = at::hardtanh(z, -*e.clamp, *e.clamp);
  }
  const Tensor sign = z.detach(), g = dout.to(type);
  Tensor dv = e.scale ? du * over_pixels(*e.scale) : du;
  if (want_scale) dv = dv + u * over_pixels(dd[0]);
  if (want_noise) dv = dv + (e.strength ? dd[1] * *e.strength : dd[1]);
  if (want_strength) dv = dv + *e.noise * dd[2];
  if (want_b) dv = dv + over_pixels(dd[3]);
  const Tensor mdv = masked(dv, sign, e);
  Tensor to_dout = next ? mdv * over_pixels(*e.next_styles) : mdv;
  if (want_next) to_dout = to_dout + z * over_pixels(dd[4]);
  const auto [need_scale, need_noise, need_strength, need_b, need_next] = needs;
  Tensor h, q, to_u, to_scale, to_noise, to_strength, to_b, to_next;
  if (need_y || need_scale || need_noise || need_strength)
    h = masked(next ? g * over_pixels(*e.next_styles) : g, sign, e);
  if (want_next) q = masked(g * over_pixels(dd[4]), sign, e);
  if (need_y && want_scale) add(to_u, h * over_pixels(dd[0]));
  if (need_y && want_next) add(to_u, e.scale ? q * over_pixels(*e.scale) : q);
  if (need_scale) add(to_scale, (h * du).sum({2, 3}));
  if (need_scale && want_next) add(to_scale, (q * u).sum({2, 3}));
  if (need_noise && want_strength) add(to_noise, sum_to(h * dd[2], *e.noise));
  if (need_noise && want_next) add(to_noise, sum_to(e.strength ? q * *e.strength : q, *e.noise));
  if (need_strength && want_noise) add(to_strength, (h * dd[1]).sum());
  if (need_strength && want_next) add(to_strength, (q * *e.noise).sum());
  if (need_b && want_next) to_b = q.sum({0, 2, 3});
  if (need_next) to_next = (g * mdv).sum({2, 3});
  // A gradient that is zero is one too: torch.autograd.grad refuses tensors that none comes to. By y it would be carried
  // through the convolution, which torch does where a kink makes it so, and not of linear layers.
  const auto fill = [](bool need, Tensor& t, const OptionalTensor& like) {
    if (need && !t.defined()) t = at::zeros_like(*like);
  };
  fill(need_y && (e.slope != 1 || e.clamp), to_u, dv);
  fill(need_scale, to_scale, e.scale);
  fill(need_noise, to_noise, e.noise);
  fill(need_strength, to_strength, e.strength);
  fill(need_b, to_b, e.b);
  fill(need_next, to_next, e.next_styles);
  variable_list results{to_dout.to(dout.scalar_type())};
  if (to_u.defined()) {
    if (e.f) {  // the adjoint of the filter
      int64_t height = s.y[0].size(2), width = s.y[0].size(3);
      if (s.y.size() == 4) height += s.y[2].size(2), width += s.y[1].size(3);
      to_u = apply_upfirdn2d(to_u, *e.f, adjoint(fir, *e.f, {height, width}, {to_u.size(2), to_u.size(3)}));
    }
    for (const Tensor& one : phases(to_u.to(s.y[0].scalar_type()), s.y.size())) results.push_back(one);
  } else {
    results.resize(1 + s.y.size());
  }
  results.insert(results.end(), {to_scale, to_noise, to_strength, to_b, to_next});
  return results;
}

// Puts gradients, in the order of `save`, where a Function's inputs were: parts of y, f, vectors, then what is no tensor.
variable_list placed(const std::vector<Tensor>& dy, const variable_list& dvectors) {
  variable_list inputs = dy;
  inputs.resize(5);  // four parts and f
  inputs.insert(inputs.end(), dvectors.begin(), dvectors.end());
  return inputs;
}

// Which of the vectors a gradient is asked for, of a Function with so many tensors before y. A tensor that is not there
// has no edge.
Want needed(AutogradContext* ctx, const Saved& s, size_t before) {
  size_t edge = before + s.y.size() + (s.e.f ? 1 : 0);
  Want needs{};
  const auto of = vectors(s.e);
  for (size_t i = 0; i < of.size(); i++)
    if (*of[i]) needs[i] = ctx->needs_input_grad(edge++);
  return needs;
}

struct Grad : Function<Grad> {
  static variable_list forward(AutogradContext* ctx, const Tensor& dout, const Tensor& out, const OptionalTensor& y0,
                               const OptionalTensor& y1, const OptionalTensor& y2, const OptionalTensor& y3,
                               const OptionalTensor& f, const OptionalTensor& scale, const OptionalTensor& noise,
                               const OptionalTensor& strength, const OptionalTensor& b, const OptionalTensor& next,
                               const Epilogue& e, const Want& want) {
    std::vector<Tensor> y{*y0};
    if (y1) y.insert(y.end(), {*y1, *y2, *y3});
    save(ctx, y, e, {dout, out}, want);
    return host::backward(dout, y, out, e, want);
  }

  static variable_list backward(AutogradContext* ctx, variable_list cotangents) {
    const Saved s = saved(ctx);
    const auto middle = cotangents.begin() + s.y.size();
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    bool need_y = false;
    for (size_t i = 0; i < s.y.size(); i++) need_y |= ctx->needs_input_grad(2 + i);
    const Want needs = needed(ctx, s, 2);
    const variable_list results =
        second(s, {cotangents.begin(), middle}, {middle, cotangents.end()}, s.want, needs, need_y);
    const auto vectors = results.begin() + 1 + s.y.size();
    variable_list inputs{results[0], Tensor()};
    for (Tensor& one : placed({results.begin() + 1, vectors}, {vectors, results.end()})) inputs.push_back(one);
    inputs.resize(inputs.size() + 2);
    return inputs;
  }
};

struct Apply : Function<Apply> {
  static Tensor forward(AutogradContext* ctx, const OptionalTensor& y0, const OptionalTensor& y1,
                        const OptionalTensor& y2, const OptionalTensor& y3, const OptionalTensor& f,
                        const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& strength,
                        const OptionalTensor& b, const OptionalTensor& next, const Epilogue& e) {
    std::vector<Tensor> y{*y0};
    if (y1) y.insert(y.end(), {*y1, *y2, *y3});
    Tensor out = host::forward(y, e);
    save(ctx, y, e, {out.detach()}, {});  // an alias: the Function below has the tensors that it depends on
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list dout) {
    const Saved s = saved(ctx);
    const Tensor &out = s.others[0], &g = dout[0];
    const Want want = needed(ctx, s, 0);
    const Epilogue& e = s.e;
    const variable_list all =
        at::GradMode::is_enabled()
            ? Grad::apply(g, out, part(s.y, 0), part(s.y, 1), part(s.y, 2), part(s.y, 3), e.f, e.scale, e.noise,
                          e.strength, e.b, e.next_styles, e, want)
            : host::backward(g, s.y, out, e, want);
    const auto middle = all.begin() + s.y.size();
    variable_list dvectors(middle, all.end());
    for (size_t i = 0; i < want.size(); i++)
      if (!want[i]) dvectors[i] = Tensor();
    variable_list inputs = placed({all.begin(), middle}, dvectors);
    inputs.resize(inputs.size() + 1);
    return inputs;
  }
};

bool needs_gradient(const std::vector<Tensor>& y, const Epilogue& e) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor& part : y)
    if (part.requires_grad()) return true;
  for (const OptionalTensor* t : vectors(e))
    if (*t && (*t)->requires_grad()) return true;
  return false;
}

}  // namespace

Tensor apply_epilogue(const std::vector<Tensor>& y, Epilogue e) {
  const auto type = accumulation(y[0].scalar_type());
  for (OptionalTensor* t : {&e.scale, &e.noise, &e.strength, &e.b, &e.next_styles})
    if (*t) *t = (*t)->to(type);
  if (e.noise && e.noise->dim() == 2) e.noise = e.noise->unsqueeze(0).unsqueeze(0);
  if (e.strength && e.strength->dim() > 0) e.strength = e.strength->reshape({});
  if (!needs_gradient(y, e)) return forward(y, e);
  return Apply::apply(part(y, 0), part(y, 1), part(y, 2), part(y, 3), e.f, e.scale, e.noise, e.strength, e.b,
                      e.next_styles, e);
}

Tensor modulate(const Tensor& x, const Tensor& styles, Backend backend) {
  Epilogue e;
  e.scale = styles, e.backend = backend;
  return apply_epilogue({x}, e);
}

}  // namespace idgan::host
