#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <string>
#include <string_view>
#include <vector>

/// The scan of mlx-vision-mamba under its names, for code that comes from there.
///
/// Its functions and the scan_mode words of its blocks chose between implementations
/// of one operator: loops of Python or Metal kernels, some without a gradient, some for
/// at most 16 states or 32 tokens. Here every name runs the same kernel, with gradients for all
/// six arrays, any number of states and any length.
namespace aspis {

namespace mx = mlx::core;

/// x_t = exp(delta_t A) x_{t-1} + delta_t B_t u_t, y_t = sum_n C_{t,n} x_{t,n} + D u_t.
///
/// @param u, delta {B, L, D}; delta is the step itself, after its softplus
/// @param A        {D, N}
/// @param B, C     {B, L, N}
/// @param D        {D}
/// @return {B, L, D}
///
/// Errors are those of `selective_scan` with options, which does more.
mx::array selective_scan(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                         const mx::array& C, const mx::array& D, mx::StreamOrDevice s = {});

using ScanFunction = mx::array (*)(const mx::array& u, const mx::array& delta, const mx::array& A,
                                   const mx::array& B, const mx::array& C, const mx::array& D,
                                   mx::StreamOrDevice s);

mx::array selective_scan_chunked(const mx::array& u, const mx::array& delta, const mx::array& A,
                                 const mx::array& B, const mx::array& C, const mx::array& D,
                                 mx::StreamOrDevice s = {});
mx::array selective_scan_parallel(const mx::array& u, const mx::array& delta, const mx::array& A,
                                  const mx::array& B, const mx::array& C, const mx::array& D,
                                  mx::StreamOrDevice s = {});
mx::array selective_scan_batched(const mx::array& u, const mx::array& delta, const mx::array& A,
                                 const mx::array& B, const mx::array& C, const mx::array& D,
                                 mx::StreamOrDevice s = {});
mx::array selective_scan_metal(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                               const mx::array& C, const mx::array& D, mx::StreamOrDevice s = {});
mx::array selective_scan_metal_trainable(const mx::array& u, const mx::array& delta, const mx::array& A,
                                         const mx::array& B, const mx::array& C, const mx::array& D,
                                         mx::StreamOrDevice s = {});
mx::array selective_scan_metal_fused(const mx::array& u, const mx::array& delta, const mx::array& A,
                                     const mx::array& B, const mx::array& C, const mx::array& D,
                                     mx::StreamOrDevice s = {});
mx::array selective_scan_metal_chunked(const mx::array& u, const mx::array& delta, const mx::array& A,
                                       const mx::array& B, const mx::array& C, const mx::array& D,
                                       mx::StreamOrDevice s = {});

/// The scan_mode names: sequential, chunked, parallel, batched, metal, metal_train, metal_fused,
/// metal_chunked.
const std::vector<std::string>& scan_mode_names();
/// Throws Error(kUsage) with the nearest name if `mode` is none of them. There, a
/// misspelt mode ran the slow loop without a word.
void check_scan_mode(std::string_view mode, const std::string& where = "scan_mode");
/// The function that a mode stands for; throws like check_scan_mode.
ScanFunction scan_function(std::string_view mode);

}  // namespace aspis
