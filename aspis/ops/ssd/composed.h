#pragma once

#include <utility>

#include "aspis/ops/ssd/ssd.h"

namespace aspis {

/// The chunked form out of MLX operations: oracle, export form and fallback.
/// {out, final_state}. B and C are {B, L, G, N}, and all arrays have one dtype.
std::pair<mx::array, mx::array> ssd_composed(const mx::array& x, const mx::array& dt, const mx::array& A,
                                             const mx::array& B, const mx::array& C, const SsdOptions& options,
                                             mx::StreamOrDevice s = {});

}  // namespace aspis
