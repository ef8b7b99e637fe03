// The kernels of one instruction set: compiled once for each, with IDGAN_SET (its name), IDGAN_BYTES and its flags.
#include "bias_act.h"
#include "filtered_lrelu.h"
#include "weight_square_sum.h"
#include "styled_epilogue.h"
#include "upfirdn2d.h"
#include "winograd_conv2d.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

extern const idgan::Kernels idgan::JOIN(IDGAN_SET, _kernels) = {
    TEXT(IDGAN_SET),
    IDGAN_BYTES,
    bias_act,
    weight_square_sum,
    upfirdn2d,
    filtered_lrelu,
    styled_epilogue_fwd,
    styled_epilogue_bwd,
    TILE_ROWS,
    winograd_weight,
    winograd_conv2d,
};
