// bias_act of calls.h: the types and operations for which its kernels are compiled.
#include "bias_act_launch.cuh"

namespace idgan {

int64_t bias_act_table(const BiasActCall& a) {
  int64_t rows = 0;
  with_type(a.dtype, [&](auto t) { rows = divided(a, kVector<decltype(t)>).rows; });
  return rows * a.channels;
}

void bias_act(const BiasActCall& a, CUstream_st* stream) {
  with_type(a.dtype, [&](auto t) {
    using T = decltype(t);
    const auto backward = [&](auto op) {
      return a.table ? with_sums<T, decltype(op)>(a, stream) : without_sums<T, decltype(op)>(a, stream);
    };
    switch (a.pass) {
      case kForward:
        return smooth(a.act) ? without_sums<T, Forward<true>>(a, stream) : without_sums<T, Forward<false>>(a, stream);
      case kBackwardOfY: return backward(BackwardOfY());
      case kBackward: return smooth(a.act) ? backward(Backward<true>()) : backward(Backward<false>());
      default: return smooth(a.act) ? backward(Second<true>()) : backward(Second<false>());
    }
  });
}

}  // namespace idgan
