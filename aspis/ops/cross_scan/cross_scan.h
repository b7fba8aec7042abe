#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include "aspis/ops/cross_scan/kernel/orders.h"

namespace aspis {

namespace mx = mlx::core;

/// Copies of a sequence in several visiting orders (VMamba's cross-scan):
/// y_{b, k, l} = x_{b, order_k(l)}.
///
/// @param x {B, L, D}
/// @return {B, K, L, D} of x's dtype
///
/// Its gradient is `cross_merge`. Throws `aspis::Error(kUsage)` when x is not of
/// the length of the orders. `selective_scan` and `causal_conv1d` take an order
/// themselves and need no copies.
mx::array cross_scan(const mx::array& x, const ScanOrders& orders, mx::StreamOrDevice s = {});

enum class CrossMerge { kSum, kMean };

/// The way back: y_{b, t} = sum (or mean) over k of x_{b, k, l} with order_k(l) = t.
/// @param x {B, K, L, D}
/// @return {B, L, D}
mx::array cross_merge(const mx::array& x, const ScanOrders& orders, CrossMerge merge = CrossMerge::kSum,
                      mx::StreamOrDevice s = {});

/// Out of MLX operations.
mx::array cross_scan_composed(const mx::array& x, const ScanOrders& orders, mx::StreamOrDevice s = {});
mx::array cross_merge_composed(const mx::array& x, const ScanOrders& orders, CrossMerge merge = CrossMerge::kSum,
                               mx::StreamOrDevice s = {});

}  // namespace aspis
