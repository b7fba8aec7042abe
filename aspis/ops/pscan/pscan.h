#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace aspis {

namespace mx = mlx::core;

/// The scan of mamba.py (Blelloch's algorithm there): H_t = A_t H_{t-1} + X_t
/// along axis 1, elementwise in all others.
///
/// @param A, X     {B, L, ..}, usually {B, L, D, N}; any L
/// @param initial  H_{-1} {B, ..}; zero if absent
/// @return H, of the shape of X and the widest dtype
///
/// Gradients flow to all three. float16 and bfloat16 are computed in float32.
/// Throws `aspis::Error(kUsage)` for shapes and dtypes that do not fit.
mx::array pscan(const mx::array& A, const mx::array& X, const std::optional<mx::array>& initial = {},
                mx::StreamOrDevice s = {});

/// The same out of MLX operations, one token after the other.
mx::array pscan_composed(const mx::array& A, const mx::array& X, const std::optional<mx::array>& initial = {},
                         mx::StreamOrDevice s = {});

}  // namespace aspis
