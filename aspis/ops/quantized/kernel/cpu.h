#pragma once

#include "aspis/ops/quantized/kernel/params.h"

namespace aspis::kernel {

/// All run on the team; bit-equal for any number of threads. Up to
/// kQuantizedRows rows the integers are read once from memory and meet the rows
/// in registers; beyond, panels of w are made in float and multiplied as in
/// `linear`. The two add in another order, so bits depend on which one it is.
constexpr int64_t kQuantizedRows = 8;

void quantize(const QuantizeParams& p);
/// w {out, in} back in float, dense.
void dequantize(const QuantizedLinearParams& p, float* weight);
void quantized_linear(const QuantizedLinearParams& p);

int64_t quantized_linear_workspace(const QuantizedShape& s, int64_t rows);

}  // namespace aspis::kernel
