// A modulated convolution and what follows it, composed; formulas, shapes and names as in idgan_fast/ops/layer/
// composition.py, modulated_conv2d.py and styled_conv2d.py.
#pragma once

#include "epilogue.h"
#include "operands.h"
#include "upfirdn2d.h"

namespace idgan::host {

// For Python: nullopt where the call is not plain or takes another form than those here.
std::optional<Tensor> modulated_conv2d(const Operand& x, const Operand& weight, const Operand& styles,
                                       const Operand& noise, const Ints& up, const Ints& down, const Ints& padding,
                                       const Operand& f, bool demodulate, bool flip_weight, const Text& impl,
                                       const Text& requested);

// carries_styles: whether x has been multiplied by the styles, as chained_styled_conv2d takes it.
std::optional<Tensor> styled_conv2d(const Operand& x, const Operand& weight, const Operand& styles,
                                    const Operand& noise, const Operand& strength, const Operand& bias,
                                    const Operand& next_styles, const Ints& up, const Operand& f, bool demodulate,
                                    const Text& act, const Number& gain, const Number& clamp, bool carries_styles,
                                    const Text& impl, const Text& requested);

}  // namespace idgan::host
