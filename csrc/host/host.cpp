// The module idgan_fast._host: public operators as one call of C++, first and second order of gradients included.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/forward_grad.h>
#include <torch/version.h>

#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <ATen/PythonTorchFunctionTLS.h>

#include "backends.h"
#include "bias_act.h"
#include "casters.h"
#include "gate.h"
#include "layer.h"
#include "python.h"
#include "upfirdn2d.h"

namespace idgan::host {

bool nothing_around() {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet usual({DispatchKey::BackendSelect, DispatchKey::ADInplaceOrView,
                                       DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA});
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return (included.raw_repr() & ~usual.raw_repr()) == 0 && !at::impl::torch_function_mode_enabled() &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set() && !torch::autograd::ForwardADLevel::try_get_by_idx(0);
}

WithoutGil::WithoutGil() : state_(PyEval_SaveThread()) {}
WithoutGil::~WithoutGil() { PyEval_RestoreThread(static_cast<PyThreadState*>(state_)); }

namespace {

namespace py = pybind11;

std::optional<Tensor> bias_act(const Operand& x, const Operand& b, const Ints& along, const Text& act,
                               const Number& alpha, const Number& gain, const Number& clamp, const Text& impl,
                               const Text& requested) {
  if (!x.defined() || !ordinary(*x) || !beside(b, *x) || !act.plain || !along.single) return std::nullopt;
  if (!nothing_around()) return std::nullopt;
  std::optional<Activation> a = activation(act.value, alpha, gain, clamp, x->scalar_type());
  if (!a) return std::nullopt;
  a->dim = along.values[0];
  if (b.defined()) {
    const int64_t ndim = x->dim();
    if (a->dim < -ndim || a->dim >= ndim) return std::nullopt;
    a->dim += a->dim < 0 ? ndim : 0;
    if (b->dim() != 1 || b->size(0) != x->size(a->dim)) return std::nullopt;
  }
  const auto backend = choose(reads_its_result(*a) ? kBiasLrelu : kBiasAct, *x, impl, requested);
  if (!backend) return std::nullopt;
  a->backend = *backend;
  WithoutGil no_gil;
  return apply_bias_act(*x, b.tensor, *a);
}

std::optional<Tensor> upfirdn2d(const Operand& x, const Operand& f, const Ints& up, const Ints& down,
                                const Ints& padding, bool flip_filter, const Number& gain, bool centered,
                                const Text& impl, const Text& requested) {
  if (!x.defined() || !ordinary(*x) || x->dim() != 4 || !gain.value || !gain.plain) return std::nullopt;
  if (!nothing_around()) return std::nullopt;
  const std::optional<Tensor> filter = taps(f, *x);
  std::optional<Resampling> r = filter ? resampling(*filter, up, down, padding, centered) : std::nullopt;
  if (!r) return std::nullopt;
  r->flip_filter = flip_filter, r->gain *= *gain.value;
  const auto size = output_size(*x, *filter, *r);
  if (size[0] < 1 || size[1] < 1) return std::nullopt;
  const auto backend = choose(kUpfirdn2d, *x, impl, requested);
  if (!backend) return std::nullopt;
  r->backend = *backend;
  WithoutGil no_gil;
  return apply_upfirdn2d(*x, *filter, *r);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> python_bias_act_second(const Tensor& ddx, const Tensor& ddb, const Tensor& dy,
                                                          const Tensor& x, const Tensor& b, bool want_b,
                                                          const Activation& a) {
  py::gil_scoped_acquire gil;
  const auto or_none = [](const Tensor& t) -> py::object { return t.defined() ? py::cast(t) : py::none(); };
  const py::object clamp = a.clamp ? py::object(py::float_(*a.clamp)) : py::none();
  const py::tuple parameters = py::make_tuple(a.dim, a.act, a.alpha, a.gain, clamp);
  const py::object second = py::module_::import("idgan_fast.ops.bias_act").attr("_bias_act_grad2");
  const char* backend = a.backend == Backend::kNative ? "native" : "triton";
  return second(ddx, or_none(ddb), dy, x, or_none(b), want_b, parameters, backend)
      .cast<std::tuple<Tensor, Tensor, Tensor>>();
}

}  // namespace idgan::host

// Read by idgan_fast/ops/_libraries.py before the library is loaded.
extern "C" __attribute__((used, visibility("default"))) const char idgan_fast_host_mark[] =
    "\0idgan_fast._host for torch " TORCH_VERSION;

PYBIND11_MODULE(_host, m) {
  using namespace idgan::host;
  namespace py = pybind11;
  m.def("choose_by", [](py::function chooser) {
    choose_by([chooser](auto&... wish) { return chooser(wish...).template cast<std::string>(); });
  });
  m.def("bias_act", torch::wrap_pybind_function(bias_act));
  m.def("drop_weight_gradients", drop_weight_gradients);
  m.def("modulated_conv2d", torch::wrap_pybind_function(modulated_conv2d));
  m.def("styled_conv2d", torch::wrap_pybind_function(styled_conv2d));
  m.def("upfirdn2d", torch::wrap_pybind_function(upfirdn2d));
}
