// upfirdn2d of fir_calls.h: the types and changes of size for which its kernels are compiled.
#include "upfirdn2d_launch.cuh"

namespace idgan {

void upfirdn2d(const FirCall& a, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    Change change;
    if constexpr (sizeof(T) < 8) {
      if (walks<T>(a, &change)) {
        switch (change) {
          case Change::kNone: return walked<T, Change::kNone>(a, Identity(), stream);
          case Change::kUp: return walked<T, Change::kUp>(a, Identity(), stream);
          default: return walked<T, Change::kDown>(a, Identity(), stream);
        }
      }
    }
    const auto epilogue = epilogue_of<acc_t<T>>({nullptr, nullptr, nullptr, nullptr, nullptr, true, 1, 1, NAN}, 0);
    a.channels_last ? any<T, true>(a, epilogue, stream) : any<T, false>(a, epilogue, stream);
  });
}

}  // namespace idgan
