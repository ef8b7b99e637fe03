// Which elements a unit of a biased array has, for every instruction set; the units are defined in kernels.h.
#pragma once

#include "kernels.h"

namespace {

struct Span {
  int64_t row, start, stop, step;  // elements [start, stop) in steps that meet the biases once; of which row, if of one
};

inline Span span_of(const idgan::Biased& a, int64_t unit) {
  if (a.inner > 1) {
    const int64_t row = unit / a.blocks(), from = unit % a.blocks() * a.kBlock;
    const int64_t n = a.inner - from < a.kBlock ? a.inner - from : a.kBlock;
    return {row, row * a.inner + from, row * a.inner + from + n, n};
  }
  const int64_t start = unit * a.run(), all = a.outer * a.channels;
  return {0, start, all - start < a.run() ? all : start + a.run(), a.pattern()};
}

}  // namespace
