// styled_epilogue_fwd and styled_epilogue_bwd for torch; the kernels are in styled_epilogue.cuh, upfirdn2d.cuh,
// styled_epilogue_fir.cuh and, of any other filter, fir_any.cuh.
#include <tuple>

#include "images.h"

namespace idgan {
namespace {

using Small = std::optional<Tensor>;

const Tensor& whole(const std::vector<Tensor>& y) {
  STD_TORCH_CHECK(y.size() == 1, "styled_epilogue: the CUDA kernels take y whole, got ", y.size(), " phases");
  return y[0];
}

// The small tensors, kept alive without holes, and what the kernels see of them.
struct Small5 {
  Small scale, noise, strength, b, next;
  int64_t noise_images;
  EpilogueCall call;

  Small5(const Image& y, int64_t pixels, const Small& scale, const Small& noise, const Small& strength, const Small& b,
         const Small& next, double slope, double gain, std::optional<double> clamp)
      : scale(dense_acc(scale, y.x, y.n * y.c)),
        noise(dense_acc(noise, y.x, (noise && noise->size(0) == 1 ? 1 : y.n) * pixels)),
        strength(dense_acc(strength, y.x, 1)),
        b(dense_acc(b, y.x, y.c)),
        next(dense_acc(next, y.x, y.n * y.c)),
        noise_images(noise ? noise->size(0) : 1) {
    call = {data_or_null(this->scale), data_or_null(this->noise), data_or_null(this->strength), data_or_null(this->b),
            data_or_null(this->next), noise_images == 1, slope, gain, or_none(clamp)};
  }
};

PixelsCall pixels_of(const Image& image, int num_sms) {
  return {dtype_of(image.x), image.last, image.n, image.h * image.w, int(image.c), num_sms};
}

// Through a filter of any length, to a result of dtype `to`: a long filter, and a wide result that no kernel gives of
// narrow images, are computed in the type of the arithmetic.
Tensor through_filter(const Image& y, const FilterTaps& taps, const std::vector<int64_t>& padding, double gain,
                      int64_t h, int64_t w, const EpilogueCall& e, const OnDevice& on, ScalarType to,
                      const char* kind) {
  const auto call = [&](const Image& from, const Tensor& result) {
    FirCall a = fir_of(from, taps, h, w, padding[0], padding[2], false, gain);
    a.out = result.data_ptr(), a.num_sms = on.num_sms;
    a.wide_out = result.scalar_type() != from.x.scalar_type();
    return a;
  };
  Tensor out = scratch_image(y, h, w, to, kind);
  if (!axis_by_axis(taps)) {
    const FirCall a = call(y, out);
    if (!a.wide_out || wide_out_runs(a)) {
      filtered_epilogue(a, e, on.stream);
      return out;
    }
  }
  const Image from(to_acc(y.x), y.last);
  const ScalarType wide = from.x.scalar_type();
  const Tensor result = to == wide ? out : scratch_image(from, h, w, wide);
  if (axis_by_axis(taps)) {
    const Image u(scratch_image(from, h, w, wide), y.last);
    filtered(call(from, u.x), from, taps, on);
    epilogue_fwd(pixels_of(u, on.num_sms), u.x.data_ptr(), result.data_ptr(), e, on.stream);
  } else {
    filtered_epilogue(call(from, result), e, on.stream);
  }
  return to == wide ? out : torch::stable::copy_(out, result);
}

Tensor epilogue_forward(std::vector<Tensor> parts, Small f, Small scale, Small noise, Small strength, Small b,
                        Small next, std::vector<int64_t> padding, double fir_gain, double slope, double gain,
                        std::optional<double> clamp) {
  const Image y(whole(parts));
  const FilterTaps taps(f, y.x);
  if (!f) padding = {0, 0, 0, 0};
  const int64_t h = y.h + padding[2] + padding[3] - taps.height + 1, w = y.w + padding[0] + padding[1] - taps.width + 1;
  if (y.n * y.c == 0) return empty_as(y.x, {y.n, y.c, h, w}, y.last);
  const Small5 small(y, h * w, scale, noise, strength, b, next, slope, gain, clamp);
  const OnDevice on(y.x);
  if (f) return through_filter(y, taps, padding, fir_gain, h, w, small.call, on, y.x.scalar_type(), "out");
  Tensor out = empty_as(y.x, {y.n, y.c, h, w}, y.last);
  epilogue_fwd(pixels_of(y, on.num_sms), y.x.data_ptr(), out.data_ptr(), small.call, on.stream);
  return out;
}

using Gradients = std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The backward pass of one call.
struct Backward {
  const Image y, dout;
  const FilterTaps taps;
  const Small5 small;
  const OnDevice on;
  std::vector<int64_t> padding;
  double fir_gain;
  Tensor out, dy, dscale, dnoise, dstrength, db, dnext;
  std::vector<int64_t> want;  // which of the gradients by scale, noise, strength, b and next

  SumsCall sums(bool by_scale, bool by_others) const {
    const auto at = [](bool wanted, const Tensor& t) { return wanted ? t.data_ptr() : nullptr; };
    return {at(by_scale && want[0], dscale), at(by_others && want[2], dstrength), at(by_others && want[3], db),
            at(by_others && want[4], dnext), nullptr};
  }
  static bool any(const SumsCall& s) { return s.scale || s.strength || s.bias || s.next; }

  // epilogue_bwd with its table.
  void pixelwise(const PixelsCall& a, BackwardCall b, const EpilogueCall& e) const {
    Small table;
    if (any(b.sums)) table = scratch(y.x, epilogue_bwd_table(a));
    b.sums.table = data_or_null(table);
    epilogue_bwd(a, b, e, on.stream);
  }

  void by_noise(const PixelsCall& a, const BackwardCall& b) const {
    if (want[1]) noise_bwd(a, b, dnoise.data_ptr(), small.noise_images, small.call, on.stream);
  }

  void run() const {
    if (!taps.f) {
      const PixelsCall a = pixels_of(y, on.num_sms);
      const BackwardCall b{dout.x.data_ptr(), y.x.data_ptr(), false, false, dy.data_ptr(), sums(true, true)};
      pixelwise(a, b, small.call);
      return by_noise(a, b);
    }
    const Tensor z = computed_z();
    const bool wide = z.scalar_type() == accumulation_type(y.x);
    FirCall back = adjoint(dout);
    const int own_x = own(padding[0], padding[1], taps.width), own_y = own(padding[2], padding[3], taps.height);
    const void* const y_of_scale = want[0] ? y.x.data_ptr() : nullptr;
    if (own_x < 0 || own_y < 0 || !fir_bwd_runs(back, z.data_ptr(), y_of_scale)) return anyhow(z);
    const PixelsCall a = pixels_of(dout, on.num_sms);
    BackwardCall b{dout.x.data_ptr(), z.data_ptr(), true, wide, dy.data_ptr(), sums(true, y.last)};
    Small table;
    if (any(b.sums)) table = scratch(y.x, fir_bwd_table(back));
    b.sums.table = data_or_null(table);
    fir_bwd(back, b, y_of_scale, own_x, own_y, small.call, on.stream);
    if (!y.last && any(sums(false, true)))
      pixelwise(a, {dout.x.data_ptr(), z.data_ptr(), true, wide, nullptr, sums(false, true)}, small.call);
    by_noise(a, b);
  }

  // out, or where something follows it z in the type of the arithmetic, computed again.
  Tensor computed_z() const {
    if (!small.next) return out;
    EpilogueCall e = small.call;
    e.next = nullptr;
    return through_filter(y, taps, padding, fir_gain, dout.h, dout.w, e, on, accumulation_type(y.x), "scratch");
  }

  FirCall adjoint(const Image& from) const {
    FirCall a = fir_of(from, taps, y.h, y.w, taps.width - 1 - padding[0], taps.height - 1 - padding[2], true, fir_gain);
    a.out = dy.data_ptr(), a.num_sms = on.num_sms;
    return a;
  }

  // A pixel of dy meets a window of dout. Which place in it is its own, so that over all of dy each pixel of dout has
  // been someone's own once; -1 if there is no such place.
  static int own(int64_t before, int64_t after, int64_t taps) {
    const int64_t first = std::max<int64_t>(0, after), last = std::min(taps - 1, taps - 1 - before);
    return first <= last ? int(first) : -1;
  }

  // By any filter: h as an image, filtered, then multiplied; all in the type of the arithmetic.
  void anyhow(const Tensor& some_z) const {
    const Image g(to_acc(dout.x), y.last), from(to_acc(y.x), y.last);
    const Tensor z = to_acc(some_z), h = scratch_image(g, g.h, g.w, g.x.scalar_type());
    const PixelsCall a = pixels_of(g, on.num_sms);
    EpilogueCall without_scale = small.call;
    without_scale.scale = nullptr;
    const BackwardCall to_h{g.x.data_ptr(), z.data_ptr(), true, true, h.data_ptr(), sums(false, true)};
    pixelwise(a, to_h, without_scale);
    by_noise(a, to_h);
    const ScalarType wide = from.x.scalar_type();
    const Tensor to_u = scratch_image(from, y.h, y.w, wide), wide_dy = scratch_image(from, y.h, y.w, wide);
    const Image of_h(h, y.last);
    FirCall back = adjoint(of_h);
    back.out = to_u.data_ptr();
    filtered(back, of_h, taps, on);
    const EpilogueCall scaled{small.call.scale, nullptr, nullptr, nullptr, nullptr, true, 1, 1, or_none(std::nullopt)};
    pixelwise(pixels_of(from, on.num_sms),
              {to_u.data_ptr(), from.x.data_ptr(), false, false, wide_dy.data_ptr(), sums(true, false)}, scaled);
    Tensor to = dy;
    torch::stable::copy_(to, wide_dy);
  }
};

Gradients epilogue_backward(Tensor dout, std::vector<Tensor> parts, Tensor out, Small f, Small scale, Small noise,
                            Small strength, Small b, Small next, std::vector<int64_t> padding, double fir_gain,
                            double slope, double gain, std::optional<double> clamp, std::vector<int64_t> want) {
  const Image y(whole(parts));
  const bool last = y.last;
  const auto sums_of = [&](bool wanted, std::vector<int64_t> size) {
    return empty_acc(y.x, wanted ? size : std::vector<int64_t>{0});
  };
  const int64_t images = noise ? noise->size(0) : 1, h = out.size(2), w = out.size(3);
  Tensor dy = empty_as(y.x, y.x.sizes(), last), dscale = sums_of(want[0], {y.n, y.c});
  Tensor dnoise = sums_of(want[1], {images, 1, h, w}), dstrength = sums_of(want[2], {});
  Tensor db = sums_of(want[3], {y.c}), dnext = sums_of(want[4], {y.n, y.c});
  if (dy.numel() == 0) {
    for (Tensor t : {dscale, dnoise, dstrength, db, dnext}) torch::stable::zero_(t);
  } else {
    dout = dense_like(dout, out, last), out = dense(out, last);
    const Small5 small(y, h * w, scale, noise, strength, b, next, slope, gain, clamp);
    if (!f) padding = {0, 0, 0, 0};
    const Backward pass{y, Image(dout, last), FilterTaps(f, y.x), small, OnDevice(y.x), padding, fir_gain,
                        out, dy, dscale, dnoise, dstrength, db, dnext, want};
    pass.run();
  }
  return {{dy}, dscale, dnoise, dstrength, db, dnext};
}

}  // namespace

REGISTER_OPERATORS(m) {
  m.impl("styled_epilogue_fwd", TORCH_BOX(&epilogue_forward));
  m.impl("styled_epilogue_bwd", TORCH_BOX(&epilogue_backward));
}

}  // namespace idgan
