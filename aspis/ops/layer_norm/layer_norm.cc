#include "aspis/ops/layer_norm/layer_norm.h"

#include "aspis/ops/common/storage.h"
#include "aspis/ops/row_norm/row_norm.h"

namespace aspis {
namespace {

void check_affine(const char* op, mx::ShapeElem length, const std::optional<mx::array>& weight,
                  const std::optional<mx::array>& bias, float eps) {
  if (weight) ops::require_shape(op, "weight", *weight, {length}, "{N}");
  if (bias) ops::require_shape(op, "bias", *bias, {length}, "{N}");
  require(eps >= 0, [&] {
    return Error::Parts{
        .where = op, .required = "eps must be 0 or more", .got = std::to_string(eps), .hint = "1e-5"};
  });
}

void check(const char* op, const mx::array& x, const std::optional<mx::array>& weight,
           const std::optional<mx::array>& bias, float eps) {
  require(x.ndim() > 0 && x.shape(-1) > 0, [&] {
    return Error::Parts{.where = op,
                        .required = "x must have at least one axis, and its last axis at least one element",
                        .got = ops::to_string(x.shape()),
                        .hint = ""};
  });
  check_affine(op, x.shape(-1), weight, bias, eps);
}

}  // namespace

mx::array layer_norm(const mx::array& x, const std::optional<mx::array>& weight,
                     const std::optional<mx::array>& bias, float eps, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = ops::storage_dtype(
      "layer_norm", x, {{"x", &x}, {"weight", weight ? &*weight : nullptr}, {"bias", bias ? &*bias : nullptr}});
  check("layer_norm", x, weight, bias, eps);
  if (ops::choose_back_end("layer_norm", stream) == ops::BackEnd::kComposed) {
    return layer_norm_composed(x, weight, bias, eps, stream);
  }
  return ops::row_norm(x, {.eps = eps, .weight = weight, .bias = bias}, storage, stream)[0];
}

std::pair<mx::array, mx::array> add_layer_norm(const mx::array& x, const mx::array& residual,
                                               const std::optional<mx::array>& weight,
                                               const std::optional<mx::array>& bias, float eps,
                                               mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = ops::storage_dtype("add_layer_norm", x,
                                               {{"x", &x},
                                                {"residual", &residual},
                                                {"weight", weight ? &*weight : nullptr},
                                                {"bias", bias ? &*bias : nullptr}});
  check("add_layer_norm", x, weight, bias, eps);
  ops::require_shape("add_layer_norm", "residual", residual, x.shape(), "of x");
  if (ops::choose_back_end("add_layer_norm", stream) == ops::BackEnd::kComposed) {
    const auto sum = mx::astype(mx::add(x, residual, stream), x.dtype(), stream);
    return {layer_norm_composed(sum, weight, bias, eps, stream), sum};
  }
  const auto outputs =
      ops::row_norm(x, {.eps = eps, .residual = residual, .weight = weight, .bias = bias}, storage, stream);
  return {outputs[0], outputs[1]};
}

mx::array layer_norm_channels_first(const mx::array& x, const std::optional<mx::array>& weight,
                                    const std::optional<mx::array>& bias, float eps, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  constexpr const char* kName = "layer_norm_channels_first";
  const mx::Dtype storage = ops::storage_dtype(
      kName, x, {{"x", &x}, {"weight", weight ? &*weight : nullptr}, {"bias", bias ? &*bias : nullptr}});
  require(x.ndim() >= 2 && x.shape(1) > 0, [&] {
    return Error::Parts{.where = kName,
                        .required = "x must be {B, N, ...} with at least one channel",
                        .got = ops::to_string(x.shape()),
                        .hint = ""};
  });
  check_affine(kName, x.shape(1), weight, bias, eps);
  if (ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    return layer_norm_channels_first_composed(x, weight, bias, eps, stream);
  }
  return ops::column_norm(x, {.eps = eps, .weight = weight, .bias = bias}, storage, stream);
}

}  // namespace aspis
