#pragma once

#include <utility>

#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {

/// The scan out of MLX operations, one token after the other: oracle, export
/// form and fallback. {out, last_state}. B and C are {B, L, G, N} or {D, N}, and
/// all arrays have one dtype. For short sequences: the graph grows with L.
std::pair<mx::array, mx::array> selective_scan_composed(const mx::array& u, const mx::array& delta, const mx::array& A,
                                                        const mx::array& B, const mx::array& C,
                                                        const ScanOptions& options, mx::StreamOrDevice s = {});

}  // namespace aspis
