// What follows a convolution or a filter in a StyleGAN2 layer: v = u scale + noise strength + b,
// z = clamp(gain lrelu(v)), the result z next. Each of them may be missing; all numbers are of the type of the
// arithmetic.
#pragma once

#include "activations.cuh"
#include "vector.cuh"

namespace idgan {

template <class A>
struct Epilogue {
  const A *scale, *noise, *strength, *bias, *next;  // [N, C], [N or 1, H', W'], [1], [C], [N, C], or null
  int64_t noise_step;                               // from a sample's noise to the next one's, 0 if they share it
  A slope, gain, clamp;                             // slope below 0, 0 or more; clamp: NaN for none
};

template <int L, class A>
__device__ __forceinline__ Vec<A, L> loaded_or(const A* from, int64_t at, A otherwise) {
  Vec<A, L> v;
#pragma unroll
  for (int l = 0; l < L; l++) v.at[l] = from ? from[at + l] : otherwise;
  return v;
}

// Stands for no epilogue.
struct Identity {};

// What follows u in L channels of a sample.
template <class E, class A, int L>
struct Follow {
  __device__ __forceinline__ Follow(const E&, int64_t, int, int) {}
  __device__ __forceinline__ A noise_at(int64_t) const { return 0; }
  template <int N>
  __device__ __forceinline__ Vec<A, N> noises_at(int64_t) const {
    return {};
  }
  __device__ __forceinline__ A run(A u, int, A) const { return u; }
};

template <class A, int L>
struct Follow<Epilogue<A>, A, L> {
  const Epilogue<A>& e;
  Vec<A, L> scale, bias, next;
  A strength;
  const A* noise;  // of the sample, or null

  __device__ __forceinline__ Follow(const Epilogue<A>& of, int64_t sample, int channel, int channels)
      : e(of),
        scale(loaded_or<L>(e.scale, sample * channels + channel, A(1))),
        bias(loaded_or<L>(e.bias, channel, A(0))),
        next(loaded_or<L>(e.next, sample * channels + channel, A(1))),
        strength(e.strength ? *e.strength : A(1)),
        noise(e.noise ? e.noise + sample * e.noise_step : nullptr) {}

  __device__ __forceinline__ A noise_at(int64_t pixel) const { return noise ? noise[pixel] : A(0); }
  // Of N pixels side by side, the first at a multiple of 16 bytes.
  template <int N>
  __device__ __forceinline__ Vec<A, N> noises_at(int64_t pixel) const {
    return noise ? load_pieces<N>(noise + pixel) : Vec<A, N>{};
  }

  // z of u in channel l; n: noise_at there.
  __device__ __forceinline__ A activated(A u, int l, A n) const {
    return clamped(leaky(u * scale.at[l] + (n * strength + bias.at[l]), e.slope) * e.gain, e.clamp);
  }
  __device__ __forceinline__ A run(A u, int l, A n) const { return activated(u, l, n) * next.at[l]; }
};

// g dz/dv, read from z.
template <class A>
__device__ __forceinline__ A through_activation(A g, A z, const Epilogue<A>& e) {
  g *= e.gain;
  if (!((e.gain > 0 ? z : -z) > 0)) g *= e.slope;  // of NaN too, as torch does
  return clamp_backward(g, z, e.clamp);
}

}  // namespace idgan
