// Autograd of bias_act. Kernels and their meaning: csrc/bias_act_operators.h.
#include "bias_act.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "python.h"
#include "registered.h"

namespace idgan::host {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct LreluFwd {
  static constexpr const char* name = "bias_lrelu_fwd";
  using Signature = Tensor(const Tensor&, const OptionalTensor&, int64_t, double, double, std::optional<double>);
};
struct LreluBwd {
  static constexpr const char* name = "bias_lrelu_bwd";
  using Signature = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t, double, double,
                                               std::optional<double>, bool);
};
struct ActFwd {
  static constexpr const char* name = "bias_act_fwd";
  using Signature = Tensor(const Tensor&, const OptionalTensor&, int64_t, c10::string_view, double, double,
                           std::optional<double>);
};
struct ActBwd {
  static constexpr const char* name = "bias_act_bwd";
  using Signature = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&, int64_t,
                                               c10::string_view, double, double, std::optional<double>, bool);
};
struct ActBwd2 {
  static constexpr const char* name = "bias_act_bwd2";
  using Signature = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const OptionalTensor&, const Tensor&,
                                                       const Tensor&, const OptionalTensor&, int64_t, c10::string_view,
                                                       double, double, std::optional<double>, bool);
};

struct Named {
  const char* act;
  double alpha, gain;
  bool smooth;  // with a second derivative
};

// As ops/activations.py has them; tests/ops/test_host.py compares the two.
const Named kNamed[] = {{"linear", 0, 1, false},  {"relu", 0, M_SQRT2, false}, {"lrelu", 0.2, M_SQRT2, false},
                        {"tanh", 0, 1, true},     {"sigmoid", 0, 1, true},     {"elu", 0, 1, true},
                        {"selu", 0, 1, true},     {"softplus", 0, 1, true},    {"swish", 0, M_SQRT2, true}};

const Named* named(const std::string& act) {
  for (const Named& one : kNamed)
    if (act == one.act) return &one;
  return nullptr;
}

void save(AutogradContext* ctx, const Activation& a, bool flag) {
  const double act = double(named(a.act) - kNamed);
  ctx->saved_data[kNumbers] = std::vector<double>{double(a.dim),           act, a.alpha, a.gain, a.clamp.value_or(NAN),
                                                  double(int64_t(a.backend)), double(flag)};
}

struct Saved {
  Activation a;
  bool flag;
};

Saved saved(AutogradContext* ctx) {
  const auto n = ctx->saved_data[kNumbers].toDoubleVector();
  Activation a{int64_t(n[0]), kNamed[size_t(n[1])].act, n[2], n[3], std::nullopt, Backend(int64_t(n[5]))};
  if (!std::isnan(n[4])) a.clamp = n[4];
  return {a, n[6] != 0};
}

bool needs_gradient(const Tensor& x, const Tensor& b) {
  return at::GradMode::is_enabled() && (x.requires_grad() || (b.defined() && b.requires_grad()));
}

// ddb [C] along dimension dim, to be broadcast.
Tensor per_channel(const Tensor& b, int64_t ndim, int64_t dim) {
  std::vector<int64_t> shape(ndim, 1);
  shape[dim] = -1;
  return b.reshape(shape);
}

std::tuple<Tensor, Tensor> lrelu_backward(const Tensor& dy, const Tensor& y, const Activation& a, bool want_db);

// (dy, y) -> (dx, db): linear in dy, constant in y almost everywhere.
struct LreluGrad : Function<LreluGrad> {
  static variable_list forward(AutogradContext* ctx, const Tensor& dy, const Tensor& y, const Activation& a,
                               bool want_db) {
    save(ctx, a, want_db);
    ctx->save_for_backward({y});
    OfKernels below;
    auto [dx, db] = call<LreluBwd>(a.backend, dy, y, a.dim, a.alpha, a.gain, a.clamp, want_db);
    return {dx, db};
  }

  static variable_list backward(AutogradContext* ctx, variable_list cotangents) {
    const auto [a, want_db] = saved(ctx);
    const variable_list tensors = ctx->get_saved_variables();
    Tensor ddx = cotangents[0];
    if (want_db)
      ddx = (ddx + per_channel(cotangents[1], ddx.dim(), a.dim)).to(ddx.scalar_type());
    return {std::get<0>(lrelu_backward(ddx, tensors[0], a, false)), Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> lrelu_backward(const Tensor& dy, const Tensor& y, const Activation& a, bool want_db) {
  if (needs_gradient(dy, y)) {
    variable_list results = LreluGrad::apply(dy, y, a, want_db);
    return {results[0], results[1]};
  }
  OfKernels below;
  return call<LreluBwd>(a.backend, dy, y, a.dim, a.alpha, a.gain, a.clamp, want_db);
}

struct Lrelu : Function<Lrelu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& b, const Activation& a,
                        Tensor* result) {
    save(ctx, a, b.has_value());
    OfKernels below;
    *result = call<LreluFwd>(a.backend, x, b, a.dim, a.alpha, a.gain, a.clamp);
    ctx->save_for_backward({*result});
    return *result;
  }

  static Tensor applied(const Tensor& x, const OptionalTensor& b, const Activation& a) {
    Tensor result;
    try {
      return apply(x, b, a, &result);
    } catch (...) {
      // A hook on saved tensors has thrown, as checkpointing's does. torch leaves in the context what was to be saved: the
      // result, which holds the node, which holds the context.
      if (result.defined() && result.grad_fn())
        if (auto* node = dynamic_cast<torch::autograd::CppNode<Lrelu>*>(result.grad_fn().get()))
          node->ctx_.save_for_backward({});
      throw;
    }
  }

  static variable_list backward(AutogradContext* ctx, variable_list dy) {
    const auto [a, biased] = saved(ctx);
    const bool want_db = biased && ctx->needs_input_grad(1);
    auto [dx, db] = lrelu_backward(dy[0], ctx->get_saved_variables()[0], a, want_db);
    return {dx, want_db ? db : Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> act_backward(const Tensor& dy, const Tensor& x, const Tensor& b, const Activation& a,
                                        bool want_db);

// (dy, x, b) -> (dx, db): linear in dy; depends on x and b through the slope.
struct ActGrad : Function<ActGrad> {
  static variable_list forward(AutogradContext* ctx, const Tensor& dy, const Tensor& x, const OptionalTensor& b,
                               const Activation& a, bool want_db) {
    save(ctx, a, want_db);
    ctx->save_for_backward({dy, x, b.value_or(Tensor())});
    OfKernels below;
    auto [dx, db] = call<ActBwd>(a.backend, dy, x, b, a.dim, a.act, a.alpha, a.gain, a.clamp, want_db);
    return {dx, db};
  }

  static variable_list backward(AutogradContext* ctx, variable_list cotangents) {
    const auto [a, want_db] = saved(ctx);
    const variable_list tensors = ctx->get_saved_variables();
    const Tensor &dy = tensors[0], &x = tensors[1], &b = tensors[2], &ddx = cotangents[0];
    if (!named(a.act)->smooth) {
      const Tensor cotangent =
          want_db ? (ddx + per_channel(cotangents[1], ddx.dim(), a.dim)).to(ddx.scalar_type()) : ddx;
      return {std::get<0>(act_backward(cotangent, x, b, a, false)), Tensor(), Tensor(), Tensor(), Tensor()};
    }
    const bool want_b = b.defined() && ctx->needs_input_grad(2);
    const Tensor ddb = want_db ? cotangents[1] : Tensor();
    Tensor to_dy, to_x, to_b;
    if (at::GradMode::is_enabled()) {  // third and higher orders
      std::tie(to_dy, to_x, to_b) = python_bias_act_second(ddx, ddb, dy, x, b, want_b, a);
    } else {
      OfKernels below;
      std::tie(to_dy, to_x, to_b) = call<ActBwd2>(a.backend, ddx, optional(ddb), dy, x, optional(b), a.dim, a.act,
                                                  a.alpha, a.gain, a.clamp, want_b);
    }
    return {to_dy, to_x, want_b ? to_b : Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> act_backward(const Tensor& dy, const Tensor& x, const Tensor& b, const Activation& a,
                                        bool want_db) {
  if (at::GradMode::is_enabled()) {
    variable_list results = ActGrad::apply(dy, x, optional(b), a, want_db);
    return {results[0], results[1]};
  }
  OfKernels below;
  return call<ActBwd>(a.backend, dy, x, optional(b), a.dim, a.act, a.alpha, a.gain, a.clamp, want_db);
}

struct Act : Function<Act> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& b, const Activation& a) {
    save(ctx, a, false);
    ctx->save_for_backward({x, b.value_or(Tensor())});
    OfKernels below;
    return call<ActFwd>(a.backend, x, b, a.dim, a.act, a.alpha, a.gain, a.clamp);
  }

  static variable_list backward(AutogradContext* ctx, variable_list dy) {
    const variable_list tensors = ctx->get_saved_variables();
    const bool want_db = tensors[1].defined() && ctx->needs_input_grad(1);
    auto [dx, db] = act_backward(dy[0], tensors[0], tensors[1], saved(ctx).a, want_db);
    return {dx, want_db ? db : Tensor(), Tensor()};
  }
};

}  // namespace

std::optional<double> negative_slope(const Activation& a) {
  if (a.act == "linear") return 1.0;
  if (a.act == "relu") return 0.0;
  if (a.act == "lrelu") return a.alpha;
  return std::nullopt;
}

bool reads_its_result(const Activation& a) {
  const std::optional<double> slope = negative_slope(a);
  return slope && *slope >= 0 && a.gain != 0;
}

std::optional<Activation> activation(const std::string& act, const Number& alpha, const Number& gain,
                                     const Number& clamp, at::ScalarType type) {
  const Named* defaults = named(act);
  if (defaults == nullptr || !alpha.plain || !gain.plain || !clamp.plain) return std::nullopt;
  if (clamp.value && *clamp.value < 0) return std::nullopt;
  Activation a{1, act, alpha.value.value_or(defaults->alpha), gain.value.value_or(defaults->gain), std::nullopt};
  if (clamp.value) a.clamp = rounded_to(*clamp.value, type);
  return a;
}

Tensor apply_bias_act(const Tensor& x, Tensor b, const Activation& a) {
  if (b.defined()) b = b.to(accumulation(x.scalar_type()));
  if (reads_its_result(a)) {
    if (!b.defined() && a.act == "linear" && a.gain == 1 && !a.clamp) return x;
    Activation linear = a;
    linear.alpha = *negative_slope(a);
    if (needs_gradient(x, b)) return Lrelu::applied(x, optional(b), linear);
    OfKernels below;
    return call<LreluFwd>(a.backend, x, optional(b), a.dim, linear.alpha, a.gain, a.clamp);
  }
  if (needs_gradient(x, b)) return Act::apply(x, optional(b), a);
  OfKernels below;
  return call<ActFwd>(a.backend, x, optional(b), a.dim, a.act, a.alpha, a.gain, a.clamp);
}

}  // namespace idgan::host
