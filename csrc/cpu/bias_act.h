// y = clamp(gain * act(x + b), -clamp, clamp) and its derivatives, on [outer, channels, inner], of any activation.
//
// First: dx = dy * act'(x + b) * gain, 0 where |gain * act(x + b)| >= clamp; db = the sum of dx over outer and inner.
// Second, of <dx, ddx> + <db, ddb> and with c = ddx + ddb: to_dy = c * act'(x + b) * gain and
// to_x = c * dy * act''(x + b) * gain, 0 where dx is; to_b = the sum of to_x over outer and inner.
// Mapping: units of about 8192 elements, see kernels.h, in blocks of whole vectors; what is left of a row is copied
// into one vector. Sums of a block and of a unit in float, of the units in double, in an order that does not depend on
// the number of threads. Bytes: forward one read, one write; first derivative two reads, one write; second three reads,
// two writes. About 40 flops an element (the second derivative 60) and one division (two), for about as long as its
// bytes. Computed in float (double for double); values and first derivatives within 3.5 units in the last place, second
// ones within 5.
#pragma once

#include "activations.h"
#include "spans.h"

namespace {

// --- n elements, a number of whole vectors ---

// in: x; dy and x; dy, x and ddx. out: y; dx; to_x and to_dy. The biases are `bias` [n] if step is 1, and `bias` [LANES]
// for each vector if it is 0; ddb is like them. sums: of out[0], as many as there are biases; null if not wanted.
template <class T>
struct BiasedBlock {
  const T* in[3];
  T* out[2];
  const Wide<T>*bias, *ddb;
  Wide<T>* sums;
  int64_t step, n;
};

// 0 where y reaches the clamp, if there is one.
template <class A>
inline Vec<A> clamp_backward(Vec<A> d, Vec<A> y, A clamp) {
  return y >= clamp ? Vec<A>{} : y <= -clamp ? Vec<A>{} : d;
}

template <class T, class Act, class A>
[[gnu::noinline]] void forward_block(const Act& act, A gain, A clamp, const BiasedBlock<T>& block) {
  const T* x = block.in[0];
  T* y = block.out[0];
  const A* bias = block.bias;
  const int64_t step = block.step, n = block.n;
  for (int64_t i = 0; i < n; i += LANES<A>)
    store_narrow(y + i, clamped(act.value(load_wide(x + i) + load<A>(bias + i * step)) * gain, clamp));
}

template <class T, class Act, class A>
[[gnu::noinline]] void backward_block(const Act& act, A gain, A clamp, const BiasedBlock<T>& block) {
  using V = Vec<A>;
  const T *dy = block.in[0], *x = block.in[1];
  T* dx = block.out[0];
  const A* bias = block.bias;
  A* sums = block.sums;
  const int64_t step = block.step, n = block.n;
  V total{};
  for (int64_t i = 0; i < n; i += LANES<A>) {
    const V v = load_wide(x + i) + load<A>(bias + i * step);
    V d = load_wide(dy + i) * act.slope(v) * gain;
    if (clamp == clamp) d = clamp_backward<A>(d, gain * act.value(v), clamp);
    store_narrow(dx + i, d);
    if (step == 0) {
      total += d;
    } else if (sums != nullptr) {
      store<A>(sums + i, load<A>(sums + i) + d);
    }
  }
  if (step == 0 && sums != nullptr) store<A>(sums, load<A>(sums) + total);
}

template <class T, class Act, class A>
[[gnu::noinline]] void second_block(const Act& act, A gain, A clamp, const BiasedBlock<T>& block) {
  using V = Vec<A>;
  const T *dy = block.in[0], *x = block.in[1], *ddx = block.in[2];
  T *to_x = block.out[0], *to_dy = block.out[1];
  const A *bias = block.bias, *ddb = block.ddb;
  A* sums = block.sums;
  const int64_t step = block.step, n = block.n;
  V total{};
  for (int64_t i = 0; i < n; i += LANES<A>) {
    const V v = load_wide(x + i) + load<A>(bias + i * step);
    const V c = (load_wide(ddx + i) + load<A>(ddb + i * step)) * gain;
    V first = c * act.slope(v), second = c * load_wide(dy + i) * act.curve(v);
    if (clamp == clamp) {
      const V y = gain * act.value(v);
      first = clamp_backward<A>(first, y, clamp), second = clamp_backward<A>(second, y, clamp);
    }
    store_narrow(to_dy + i, first);
    store_narrow(to_x + i, second);
    if (step == 0) {
      total += second;
    } else if (sums != nullptr) {
      store<A>(sums + i, load<A>(sums + i) + second);
    }
  }
  if (step == 0 && sums != nullptr) store<A>(sums, load<A>(sums) + total);
}

// --- units ---

// Calls f(unit, first element, its index among the biases, elements) for the blocks of the units; the index is of a
// channel if the unit has one bias. A block is so short that rounding errors of its sum stay as small as torch's.
template <class A, class F>
inline void each_block(const idgan::BiasAct& a, int64_t begin, int64_t end, const F& f) {
  const bool rows = a.inner > 1;
  for (int64_t unit = begin; unit < end; unit++) {
    const auto [row, start, stop, step] = span_of(a, unit);
    for (int64_t from = start; from < stop; from += step) {
      const int64_t n = stop - from < step ? stop - from : step;
      for (int64_t i = 0; i < n; i += 64 * LANES<A>)
        f(unit, from + i, rows ? row % a.channels : i, n - i < 64 * LANES<A> ? n - i : 64 * LANES<A>);
    }
  }
}

template <class E>
inline void copy(const E* from, E* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

// Calls work(block) for the units, with `ins` inputs and `outs` outputs.
template <class T, class F>
inline void run_blocks(const idgan::BiasAct& a, int ins, int outs, int64_t begin, int64_t end, const F& work) {
  using A = Wide<T>;
  constexpr int L = LANES<A>;
  const void* const in[] = {a.in, a.saved, a.ddx};
  void* const out[] = {a.out, a.to_dy};
  const A *biases = static_cast<const A*>(a.bias), *ddbs = a.ddb == nullptr ? biases : static_cast<const A*>(a.ddb);
  const int64_t step = a.inner > 1 ? 0 : 1, pattern = a.pattern();
  A* sums = static_cast<A*>(a.sums);
  if (sums != nullptr)
    for (int64_t i = begin * pattern; i < end * pattern; i++) sums[i] = 0;
  each_block<A>(a, begin, end, [&](int64_t unit, int64_t from, int64_t index, int64_t n) {
    const int64_t whole = n / L * L, rest = n - whole;
    A bias[L] = {}, ddb[L] = {}, lanes[L] = {};
    BiasedBlock<T> block{};
    for (int i = 0; i < ins; i++) block.in[i] = static_cast<const T*>(in[i]) + from;
    for (int i = 0; i < outs; i++) block.out[i] = static_cast<T*>(out[i]) + from;
    block.bias = biases + index, block.ddb = ddbs + index, block.step = step, block.n = whole;
    A* sum = sums == nullptr ? nullptr : sums + unit * pattern + index * step;
    if (step == 0) {
      store<A>(bias, splat<A>(*block.bias)), store<A>(ddb, splat<A>(*block.ddb));
      block.bias = bias, block.ddb = ddb;
    }
    block.sums = sum != nullptr && step == 0 ? lanes : sum;
    work(block);
    if (sum != nullptr && step == 0) *sum += sum_of<A>(load<A>(lanes));
    if (rest == 0) return;
    T some_in[3][L] = {}, some_out[2][L];
    BiasedBlock<T> last{{some_in[0], some_in[1], some_in[2]}, {some_out[0], some_out[1]}, bias, ddb, lanes, step, L};
    for (int i = 0; i < ins; i++) copy(block.in[i] + whole, some_in[i], rest);
    if (step == 1) copy(block.bias + whole, bias, rest), copy(block.ddb + whole, ddb, rest);
    store<A>(lanes, Vec<A>{});
    work(last);
    for (int i = 0; i < outs; i++) copy(some_out[i], block.out[i] + whole, rest);
    for (int64_t i = 0; sum != nullptr && i < rest; i++) sum[step * (whole + i)] += lanes[i];
  });
}

// Calls f(element, activation, gain, clamp) of the types that `a` asks for.
template <class F>
inline void with_types(const idgan::BiasAct& a, const F& f) {
  with_type(a.dtype, [&](auto element) {
    using A = Wide<decltype(element)>;
    with_activation<A>(a, [&](const auto& act) { f(element, act, A(a.gain), A(a.clamp)); });
  });
}

void bias_act_fwd(const idgan::BiasAct& a, int64_t begin, int64_t end) {
  with_types(a, [&](auto element, const auto& act, auto gain, auto clamp) {
    using T = decltype(element);
    run_blocks<T>(a, 1, 1, begin, end, [&](const BiasedBlock<T>& block) { forward_block(act, gain, clamp, block); });
  });
}

void bias_act_bwd(const idgan::BiasAct& a, int64_t begin, int64_t end) {
  with_types(a, [&](auto element, const auto& act, auto gain, auto clamp) {
    using T = decltype(element);
    run_blocks<T>(a, 2, 1, begin, end, [&](const BiasedBlock<T>& block) { backward_block(act, gain, clamp, block); });
  });
}

void bias_act_bwd2(const idgan::BiasAct& a, int64_t begin, int64_t end) {
  with_types(a, [&](auto element, const auto& act, auto gain, auto clamp) {
    using T = decltype(element);
    run_blocks<T>(a, 3, 2, begin, end, [&](const BiasedBlock<T>& block) { second_block(act, gain, clamp, block); });
  });
}

}  // namespace
