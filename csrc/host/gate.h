// A weight whose gradients are dropped while a flag is set; as idgan_fast/ops/conv2d_gradfix.py has it.
#pragma once

#include "operands.h"

namespace idgan::host {

// The flag is the process's, as it is in Python.
void drop_weight_gradients(bool dropped);

Tensor gated(const Tensor& weight);

}  // namespace idgan::host
