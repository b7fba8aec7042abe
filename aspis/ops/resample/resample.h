#pragma once

#include <mlx/array.h>

#include <array>
#include <memory>

#include "aspis/ops/resample/kernel/axis_table.h"

namespace aspis::ops {

namespace mx = mlx::core;

/// Tables of up to three axes, shared by a node and its gradient.
struct ResampleTables {
  std::array<kernel::AxisTable, 3> axes;
};

/// Names of a node and of its gradient.
struct ResampleNames {
  const char* forward;
  const char* gradient;
};

/// The linear map of `tables` over the 1 to 3 axes between the first and the last
/// of x {B, ..., C}, last axis contiguous inside, by the CPU kernel; checked
/// already. Tables stand for the last of the three axes first: a picture has an
/// identity of one in front. Computed in `storage` (see `storage_dtype`), result in
/// x's dtype.
mx::array resample(const mx::array& x, std::shared_ptr<const ResampleTables> tables, ResampleNames names,
                   mx::Dtype storage, mx::Stream s);
/// The same out of MLX operations, as products with dense matrices.
mx::array resample_composed(const mx::array& x, const ResampleTables& tables, mx::Stream s);

}  // namespace aspis::ops
