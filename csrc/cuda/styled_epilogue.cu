// styled_epilogue of fir_calls.h: the types for which its kernels are compiled.
#include "styled_epilogue_launch.cuh"

namespace idgan {

void filtered_epilogue(const FirCall& a, const EpilogueCall& e, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    const auto epilogue = epilogue_of<acc_t<T>>(e, int64_t(a.out_height) * a.out_width);
    Change change;
    if constexpr (sizeof(T) == 2) {
      if (a.wide_out) return walked<T, Change::kNone, Epilogue<float>, float>(a, epilogue, stream);
    }
    if constexpr (sizeof(T) < 8) {
      if (walks<T>(a, &change)) return walked<T, Change::kNone>(a, epilogue, stream);
    }
    a.channels_last ? any<T, true>(a, epilogue, stream) : any<T, false>(a, epilogue, stream);
  });
}

bool wide_out_runs(const FirCall& a) {
  return a.channels_last && (a.dtype == kFloat16 || a.dtype == kBfloat16) &&
         fir_bwd_runs(a, nullptr, nullptr);
}

void epilogue_fwd(const PixelsCall& a, const void* y, void* out, const EpilogueCall& e, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int V = kVector<T>;
    const bool wide = in_vectors<T>(a, e, {y, out});
    const Strides s = divided(a, wide ? V : 1);
    const auto kernel = a.channels_last ? (wide ? epilogue_fwd_kernel<T, true, V> : epilogue_fwd_kernel<T, true, 1>)
                                        : (wide ? epilogue_fwd_kernel<T, false, V> : epilogue_fwd_kernel<T, false, 1>);
    LAUNCH(kernel, grid_of(blocks_of(a, s)), dim3(kEpilogueThreads), stream, static_cast<const T*>(y),
           static_cast<T*>(out), s, epilogue_of<acc_t<T>>(e, a.pixels));
  });
}

int64_t epilogue_bwd_table(const PixelsCall& a) {
  int64_t most = 0;
  with_type(a.dtype, [&](auto t) {
    for (int vector : {1, kVector<decltype(t)>}) {
      if ((a.channels_last ? a.channels : a.pixels) % vector) continue;
      most = std::max(most, table_of(a.samples, divided(a, vector).pieces, a.channels));
    }
  });
  return most;
}

void epilogue_bwd(const PixelsCall& a, const BackwardCall& b, const EpilogueCall& e, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    if (!b.of_z) return epilogue_bwd_of<T, T, true>(a, b, e, stream);
    b.wide ? epilogue_bwd_of<T, A, false>(a, b, e, stream) : epilogue_bwd_of<T, T, false>(a, b, e, stream);
  });
}

void noise_bwd(const PixelsCall& a, const BackwardCall& b, void* dnoise, int64_t images, const EpilogueCall& e,
               CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const Strides s{a.samples, a.pixels, a.channels};
    const int64_t of_block = a.channels_last ? kEpilogueThreads / 32 : 32;  // pixels
    const auto run = [&](auto from, auto kernel) {
      using S = decltype(from);
      LAUNCH(kernel, grid_of(ceil_div(images * a.pixels, of_block)), dim3(kEpilogueThreads), stream,
             static_cast<const T*>(b.dout), static_cast<const S*>(b.s), static_cast<A*>(dnoise), s, images,
             epilogue_of<A>(e, a.pixels));
    };
    if (!b.of_z)
      return run(T(), a.channels_last ? noise_bwd_kernel<T, T, true, true> : noise_bwd_kernel<T, T, true, false>);
    if (b.wide)
      return run(A(), a.channels_last ? noise_bwd_kernel<T, A, false, true> : noise_bwd_kernel<T, A, false, false>);
    run(T(), a.channels_last ? noise_bwd_kernel<T, T, false, true> : noise_bwd_kernel<T, T, false, false>);
  });
}

// Whether the kernels that walk down rows take a call of up = down = 1; z, y: other images of theirs, or null.
bool fir_bwd_runs(const FirCall& a, const void* z, const void* y) {
  bool runs = false;
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    Change change;
    if constexpr (sizeof(T) < 8)
      runs = walks<T>(a, &change) && (!a.channels_last || (at_16_bytes(z) && at_16_bytes(y)));
  });
  return runs;
}

int64_t fir_bwd_table(const FirCall& a) {
  int64_t size = 0;
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (sizeof(T) < 8) {
      const Division2d d = a.channels_last ? divided_channels_last<T, Change::kNone>(a)
                                           : divided_planes<T, Change::kNone, acc_t<T>>(a);
      size = table_of(a.samples, int64_t(d.fir.blocks_x) * d.fir.blocks_y, a.channels);
    }
  });
  return size;
}

void fir_bwd(const FirCall& a, const BackwardCall& b, const void* y, int own_x, int own_y, const EpilogueCall& e,
             CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = acc_t<T>;
    const Through4 through{b.s, y, own_x, own_y};
    if constexpr (sizeof(T) < 8)
      b.wide ? fir_bwd_of<T, A>(a, b, through, e, stream) : fir_bwd_of<T, T>(a, b, through, e, stream);
  });
}

}  // namespace idgan
