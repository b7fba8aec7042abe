#include "aspis/ops/rms_norm/rms_norm.h"

#include "aspis/ops/common/storage.h"
#include "aspis/ops/row_norm/row_norm.h"

namespace aspis {
namespace {

void check(const char* op, const mx::array& x, const std::optional<mx::array>& weight, float eps) {
  require(x.ndim() > 0 && x.shape(-1) > 0, [&] {
    return Error::Parts{.where = op,
                        .required = "x must have at least one axis, and its last axis at least one element",
                        .got = ops::to_string(x.shape()),
                        .hint = ""};
  });
  if (weight) ops::require_shape(op, "weight", *weight, {x.shape(-1)}, "{N}");
  require(eps >= 0, [&] {
    return Error::Parts{
        .where = op, .required = "eps must be 0 or more", .got = std::to_string(eps), .hint = "1e-5"};
  });
}

}  // namespace

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage =
      ops::storage_dtype("rms_norm", x, {{"x", &x}, {"weight", weight ? &*weight : nullptr}});
  check("rms_norm", x, weight, eps);
  if (ops::choose_back_end("rms_norm", stream) == ops::BackEnd::kComposed) {
    return rms_norm_composed(x, weight, eps, stream);
  }
  return ops::row_norm(x, {.center = false, .eps = eps, .weight = weight}, storage, stream)[0];
}

std::pair<mx::array, mx::array> add_rms_norm(const mx::array& x, const mx::array& residual,
                                             const std::optional<mx::array>& weight, float eps,
                                             mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = ops::storage_dtype(
      "add_rms_norm", x, {{"x", &x}, {"residual", &residual}, {"weight", weight ? &*weight : nullptr}});
  check("add_rms_norm", x, weight, eps);
  ops::require_shape("add_rms_norm", "residual", residual, x.shape(), "of x");
  if (ops::choose_back_end("add_rms_norm", stream) == ops::BackEnd::kComposed) {
    const auto sum = mx::astype(mx::add(x, residual, stream), x.dtype(), stream);
    return {rms_norm_composed(sum, weight, eps, stream), sum};
  }
  const auto outputs =
      ops::row_norm(x, {.center = false, .eps = eps, .residual = residual, .weight = weight}, storage, stream);
  return {outputs[0], outputs[1]};
}

}  // namespace aspis
