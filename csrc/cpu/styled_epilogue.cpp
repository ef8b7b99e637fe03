// styled_epilogue_fwd and styled_epilogue_bwd for torch; the kernels are in styled_epilogue.h.
#include <tuple>

#include "taps.h"

namespace idgan {
namespace {

using Small = std::optional<Tensor>;

const void* data_of(const Small& t) { return t ? t->data_ptr() : nullptr; }

struct Given {
  Small scale, noise, strength, b, next;
};

// y [N, C, H, W], whole or as its four phases, dense.
struct Image {
  std::vector<Tensor> parts;
  bool last, phased;
  int64_t n, c, h, w;

  explicit Image(const std::vector<Tensor>& y) : last(channels_last(y[0])), phased(y.size() > 1) {
    STD_TORCH_CHECK(y.size() == 1 || y.size() == 4, "styled_epilogue: y must be one tensor or four, got ", y.size());
    for (const Tensor& part : y) parts.push_back(dense(part, last));
    n = y[0].size(0), c = y[0].size(1), h = y[0].size(2), w = y[0].size(3);
    if (phased) h += y[2].size(2), w += y[1].size(3);
  }
  void into(void* (&data)[4]) const {
    for (size_t i = 0; i < parts.size(); i++) data[i] = parts[i].data_ptr();
  }
};

// The kernel's arguments but for the output and the taps; `given` keeps its tensors alive, dense.
StyledEpilogue described(const Image& y, Given& given, double slope, double gain, std::optional<double> clamp) {
  for (Small* t : {&given.scale, &given.noise, &given.strength, &given.b, &given.next})
    if (*t) *t = dense(**t, false);
  StyledEpilogue a{};
  of_images(a.fir, y.parts[0], y.last, y.n, y.c, y.h, y.w);
  if (y.last) {  // whole vectors
    const int64_t lanes = kernels().bytes / (a.fir.dtype == kDouble ? 8 : 4);
    a.fir.pixel = (y.c + lanes - 1) / lanes * lanes;
  }
  a.fir.up_x = a.fir.up_y = a.fir.down_x = a.fir.down_y = 1;
  y.into(a.fir.in);
  a.fir.phased = y.phased;
  a.scale = data_of(given.scale), a.noise = data_of(given.noise), a.strength = data_of(given.strength);
  a.bias = data_of(given.b), a.next = data_of(given.next);
  a.channels = y.c, a.noise_images = given.noise ? given.noise->size(0) : 0, a.channels_last = y.last;
  a.slope = slope, a.gain = gain, a.clamp = or_none(clamp);
  return a;
}

// Without a filter a small image is one row, so that vectors do not stop at the end of every short row.
void join_rows(StyledEpilogue& a) {
  const int64_t pixels = a.fir.rows * a.fir.columns;
  if (a.channels_last || a.fir.phased || pixels > 8192) return;
  a.fir.rows = a.fir.out_rows = 1, a.fir.columns = a.fir.out_columns = pixels;
}

Tensor styled_epilogue_fwd(std::vector<Tensor> parts, Small f, Small scale, Small noise, Small strength, Small b,
                           Small next, std::vector<int64_t> padding, double fir_gain, double slope, double gain,
                           std::optional<double> clamp) {
  const Image y(parts);
  Given given{scale, noise, strength, b, next};
  StyledEpilogue a = described(y, given, slope, gain, clamp);
  a.filtered = f.has_value();
  if (!f) padding = {0, 0, 0, 0};
  return with_accumulation_type(a.fir.dtype, [&](auto zero) {
    const Taps<decltype(zero)> taps(f, false, f ? fir_gain : 1);
    filter_of(a.fir, taps);
    a.fir.pad_x = padding[0], a.fir.pad_y = padding[2];
    a.fir.out_columns = y.w + padding[0] + padding[1] - taps.width + 1;
    a.fir.out_rows = y.h + padding[2] + padding[3] - taps.height + 1;
    const std::vector<int64_t> size{y.n, y.c, a.fir.out_rows, a.fir.out_columns};
    Tensor out = empty_as(y.parts[0], size, y.last);
    if (out.numel() == 0) return out;
    if (!f) join_rows(a);
    a.fir.out[0] = out.data_ptr();
    run_units(a, kernels().styled_epilogue_fwd, a.fir.units(), a.fir.block() * a.fir.out_columns * a.fir.pixel);
    return out;
  });
}

// The sums of the units, in their order, added up for (sample, channel), channel or all; null where not wanted.
template <class A>
void reduce(const StyledEpilogue& a, const std::vector<A>& sums, int64_t samples, A* scale, A* strength, A* b,
            A* next) {
  const int64_t pixel = a.back.pixel, depth = a.back.depth;
  std::vector<double> of_scale(samples * a.channels), of_b(a.channels), of_next(samples * a.channels);
  double of_strength = 0;
  for (int64_t unit = 0; unit < a.back.units(); unit++) {
    const int64_t first = unit / a.back.blocks() * depth;
    const A* s = sums.data() + unit * 4 * pixel;
    for (int64_t e = 0; e < depth; e++) {
      const int64_t at = first + e;
      of_scale[at] += s[e], of_b[at % a.channels] += s[2 * pixel + e], of_next[at] += s[3 * pixel + e];
      of_strength += s[pixel + e];
    }
  }
  for (size_t i = 0; scale && i < of_scale.size(); i++) scale[i] = A(of_scale[i]);
  for (size_t i = 0; b && i < of_b.size(); i++) b[i] = A(of_b[i]);
  for (size_t i = 0; next && i < of_next.size(); i++) next[i] = A(of_next[i]);
  if (strength) *strength = A(of_strength);
}

// noise[image, p] = strength * the sum of h over channels, and over samples if they share the noise.
template <class A>
void sum_channels(const StyledEpilogue& a, const A* h, int64_t samples, A* noise) {
  const int64_t pixels = a.fir.out_rows * a.fir.out_columns, c = a.channels, shared = a.noise_images == 1;
  const A strength = a.strength ? *static_cast<const A*>(a.strength) : A(1);
  torch::stable::parallel_for(0, a.noise_images * pixels, grain(c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t p = i % pixels, first = shared ? 0 : i / pixels, last = shared ? samples : first + 1;
      double total = 0;
      for (int64_t n = first; n < last; n++)
        for (int64_t e = 0; e < c; e++)
          total += a.channels_last ? h[(n * pixels + p) * c + e] : h[(n * c + e) * pixels + p];
      noise[i] = A(total) * strength;
    }
  });
}

using Gradients = std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients styled_epilogue_bwd(Tensor dout, std::vector<Tensor> parts, Tensor out, Small f, Small scale, Small noise,
                              Small strength, Small b, Small next, std::vector<int64_t> padding, double fir_gain,
                              double slope, double gain, std::optional<double> clamp, std::vector<int64_t> want) {
  const Image y(parts);
  out = dense(out, y.last), dout = dense(dout, y.last);
  Given given{scale, noise, strength, b, next};
  StyledEpilogue a = described(y, given, slope, gain, clamp);
  a.filtered = f.has_value();
  if (!f) padding = {0, 0, 0, 0};
  const auto gradient = [&](bool wanted, std::vector<int64_t> size) {
    return sums_of(out, wanted, size, accumulation_type(out));
  };
  std::vector<Tensor> dy;
  for (const Tensor& part : y.parts) dy.push_back(empty_as(part, part.sizes(), y.last));
  Tensor dscale = gradient(want[0], {y.n, y.c}), dstrength = gradient(want[2], {});
  Tensor dnoise = gradient(want[1], {a.noise_images, 1, out.size(2), out.size(3)});
  Tensor db = gradient(want[3], {y.c}), dnext = gradient(want[4], {y.n, y.c});
  a.fir.pad_x = padding[0], a.fir.pad_y = padding[2];
  a.fir.out_columns = out.size(3), a.fir.out_rows = out.size(2);
  if (!f) join_rows(a);
  a.out_in = out.data_ptr(), a.dout = dout.data_ptr(), a.want_scale = want[0];
  if (y.n * y.c * y.h * y.w == 0 || out.numel() == 0) return {dy, dscale, dnoise, dstrength, db, dnext};
  with_accumulation_type(a.fir.dtype, [&](auto zero) {
    using A = decltype(zero);
    const Taps<A> taps(f, false, f ? fir_gain : 1), flipped(f, true, f ? fir_gain : 1);
    filter_of(a.fir, taps);
    a.back = a.fir;
    filter_of(a.back, flipped);
    a.back.rows = a.fir.out_rows, a.back.columns = a.fir.out_columns;
    a.back.out_rows = a.fir.rows, a.back.out_columns = a.fir.columns;
    a.back.pad_x = taps.width - 1 - padding[0], a.back.pad_y = taps.height - 1 - padding[2];
    a.back.phased = false, a.back.phased_out = y.phased;
    for (size_t i = 0; i < dy.size(); i++) a.back.out[i] = dy[i].data_ptr();
    std::vector<A> sums(a.back.units() * 4 * a.back.pixel), h(want[1] ? out.numel() : 0);
    a.sums = sums.data(), a.h = want[1] ? h.data() : nullptr;
    run_units(a, kernels().styled_epilogue_bwd, a.back.units(), a.back.block() * a.back.out_columns * a.back.pixel);
    const auto at = [&](int i, const Tensor& t) { return want[i] ? static_cast<A*>(t.data_ptr()) : nullptr; };
    reduce<A>(a, sums, y.n, at(0, dscale), at(2, dstrength), at(3, db), at(4, dnext));
    if (want[1]) sum_channels<A>(a, h.data(), y.n, static_cast<A*>(dnoise.data_ptr()));
  });
  return {dy, dscale, dnoise, dstrength, db, dnext};
}

}  // namespace

REGISTER_OPERATORS(m) {
  m.impl("styled_epilogue_fwd", TORCH_BOX(&styled_epilogue_fwd));
  m.impl("styled_epilogue_bwd", TORCH_BOX(&styled_epilogue_bwd));
}

}  // namespace idgan
