#include "aspis/ops/resample/interpolate.h"

#include <memory>
#include <utility>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/resample/resample.h"

namespace aspis {
namespace {

std::shared_ptr<const ops::ResampleTables> tables_of(const mx::array& x, const std::vector<int>& size,
                                                     const InterpolateOptions& o) {
  ops::ResampleTables tables;
  for (auto& t : tables.axes) t = kernel::identity_table(1);
  const size_t axes = x.ndim() - 2;
  for (size_t i = 0; i < axes; i++) {
    const auto in = x.shape(static_cast<int>(i) + 1);
    tables.axes[3 - axes + i] = kernel::interpolation_table(in, size[i], o.mode, o.align_corners, o.antialias,
                                                            o.scale.empty() ? 0 : o.scale[i]);
  }
  return std::make_shared<const ops::ResampleTables>(std::move(tables));
}

mx::Dtype check(const mx::array& x, const std::vector<int>& size, const InterpolateOptions& o) {
  constexpr const char* kName = "interpolate";
  const mx::Dtype storage = ops::storage_dtype(kName, x, {{"x", &x}});
  const auto refuse = [](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage, {.where = kName, .required = std::move(required), .got = std::move(got)});
  };
  if (x.ndim() < 3 || x.ndim() > 5) refuse("x must be {B, 1 to 3 axes, C}", ops::to_string(x.shape()));
  const size_t axes = x.ndim() - 2;
  if (size.size() != axes) refuse(std::to_string(axes) + " sizes are needed", std::to_string(size.size()));
  if (!o.scale.empty() && o.scale.size() != axes) {
    refuse(std::to_string(axes) + " scales are needed, or none", std::to_string(o.scale.size()));
  }
  for (size_t i = 0; i < axes; i++) {
    if (size[i] < 1) refuse("every size must be 1 or more", std::to_string(size[i]));
    if (!o.scale.empty() && !(o.scale[i] > 0)) refuse("every scale must be positive", std::to_string(o.scale[i]));
    if (x.shape(static_cast<int>(i) + 1) < 1) refuse("x must have no empty axis", ops::to_string(x.shape()));
  }
  const bool nearest = o.mode == Interpolation::kNearest || o.mode == Interpolation::kNearestExact;
  if (nearest && (o.align_corners || o.antialias)) {
    refuse("align_corners and antialias belong to linear and cubic", "nearest");
  }
  return storage;
}

}  // namespace

mx::array interpolate(const mx::array& x, const std::vector<int>& size, const InterpolateOptions& options,
                      mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = check(x, size, options);
  auto tables = tables_of(x, size, options);
  if (ops::choose_back_end("interpolate", stream) == ops::BackEnd::kComposed) {
    return ops::resample_composed(x, *tables, stream);
  }
  return ops::resample(x, std::move(tables), {"interpolate", "interpolate_vjp"}, storage, stream);
}

mx::array interpolate_composed(const mx::array& x, const std::vector<int>& size, const InterpolateOptions& options,
                               mx::StreamOrDevice s) {
  return ops::resample_composed(x, *tables_of(x, size, options), mx::to_stream(s));
}

}  // namespace aspis
