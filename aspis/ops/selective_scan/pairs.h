#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <utility>

#include "aspis/ops/selective_scan/selective_scan.h"

/// The scan with complex A, B and C runs on real arrays in which the real and the
/// imaginary part of a number stand side by side: {.., N} complex64 is {.., 2 N}.
/// float64 exists in this form only, which is what the checks use.
namespace aspis {

/// complex64 {.., N} -> float32 {.., 2 N}. The gradient of x + i y is dL/dx + i dL/dy.
mx::array pairs_of(const mx::array& numbers, mx::StreamOrDevice s = {});
/// float32 {.., 2 N} -> complex64 {.., N}, the way back.
mx::array numbers_of(const mx::array& pairs, mx::StreamOrDevice s = {});

/// selective_scan_with_state with A {D, 2 N}, B and C {.., 2 N} and states {S, D, 2 N} as pairs.
std::pair<mx::array, mx::array> selective_scan_pairs(const mx::array& u, const mx::array& delta, const mx::array& A,
                                                     const mx::array& B, const mx::array& C,
                                                     const ScanOptions& options, mx::StreamOrDevice s = {});

/// The same out of MLX operations.
std::pair<mx::array, mx::array> selective_scan_pairs_composed(const mx::array& u, const mx::array& delta,
                                                              const mx::array& A, const mx::array& B,
                                                              const mx::array& C, const ScanOptions& options,
                                                              mx::StreamOrDevice s = {});

}  // namespace aspis
