// Which backend runs an operator: asked of _dispatch.py once for each operator, device type and wish.
#pragma once

#include <functional>

#include "operands.h"

namespace idgan::host {

// Operators as ops/_registry.py names them.
inline constexpr char kBiasAct[] = "bias_act", kBiasLrelu[] = "bias_lrelu", kUpfirdn2d[] = "upfirdn2d",
                      kStyledEpilogue[] = "styled_epilogue", kWeightSquareSum[] = "weight_square_sum";

// impl: the call's argument; requested: what stands around it (`ops.backend`, IDGAN_FAST_BACKEND). nullopt where the
// choice is plain torch or an error, which both are left to Python. With the GIL held.
std::optional<Backend> choose(const char* op, const Tensor& x, const Text& impl, const Text& requested);

// Lets _dispatch.py say how to choose: (operator, device type, impl, requested) -> the backend's name.
using Chooser = std::function<std::string(const std::string&, const std::string&, const std::string&, const std::string&)>;
void choose_by(Chooser chooser);

}  // namespace idgan::host
