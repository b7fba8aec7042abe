#pragma once

#include <cstdint>

namespace aspis {

/// What follows a product, a convolution or a norm in the same pass,
/// elementwise: nothing, max(z, 0), z sigmoid(z), z Phi(z), or the tanh form of
/// the latter (see `gelu`).
enum class Activation : uint8_t { kNone, kRelu, kSilu, kGelu, kGeluTanh };

}  // namespace aspis
