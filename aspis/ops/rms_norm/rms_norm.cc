#include "aspis/ops/rms_norm/rms_norm.h"

#include "aspis/ops/common/rows.h"
#include "aspis/ops/rms_norm/kernel/cpu.h"

namespace aspis {
namespace {

// What a call has beside x; fixes the order of a primitive's inputs.
struct Parts {
  bool residual = false, weight = false;
  float eps = 0;
  bool operator==(const Parts&) const = default;
};

class RmsNormVjp : public ops::CpuPrimitive {
 public:
  RmsNormVjp(mx::Stream s, Parts parts) : CpuPrimitive(s), parts_(parts) {}

  // {h, dy, dsum?, weight?} -> {dx, dweight?}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::RmsNormVjpParams<T> p;
      p.rows = ops::row_count(out[0]);
      p.length = out[0].shape(-1);
      p.eps = parts_.eps;
      const auto h = ops::rows<T>(encoder, in[0], name()), dy = ops::rows<T>(encoder, in[1], name());
      p.h = h.data;
      p.h_stride = h.stride;
      p.dy = dy.data;
      p.dy_stride = dy.stride;
      if (parts_.residual) {
        const auto dsum = ops::rows<T>(encoder, in[2], name());
        p.dsum = dsum.data;
        p.dsum_stride = dsum.stride;
      }
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<T>();
      if (parts_.weight) {
        p.weight = ops::packed<T>(encoder, in.back(), name());
        ops::allocate(encoder, out[1], name());
        p.dweight = out[1].data<T>();
        const auto count = static_cast<size_t>(kernel::rms_norm_vjp_scratch(p.rows, p.length));
        p.scratch = static_cast<T*>(ops::allocate_scratch(encoder, count * sizeof(T), name()));
      }
      encoder.dispatch([p] { kernel::rms_norm_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes = {in[0].shape()};
    if (parts_.weight) shapes.push_back(in.back().shape());
    return shapes;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return parts_ == static_cast<const RmsNormVjp&>(other).parts_;
  }
  const char* name() const override { return "rms_norm_vjp"; }

 private:
  Parts parts_;
};

class RmsNorm : public ops::CpuPrimitive {
 public:
  RmsNorm(mx::Stream s, Parts parts) : CpuPrimitive(s), parts_(parts) {}

  // {x, residual?, weight?} -> {y, sum?}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::RmsNormParams<T> p;
      p.rows = ops::row_count(out[0]);
      p.length = out[0].shape(-1);
      p.eps = parts_.eps;
      const auto x = ops::rows<T>(encoder, in[0], name());
      p.x = x.data;
      p.x_stride = x.stride;
      if (parts_.residual) {
        const auto residual = ops::rows<T>(encoder, in[1], name());
        p.residual = residual.data;
        p.residual_stride = residual.stride;
        ops::allocate(encoder, out[1], name());
        p.sum = out[1].data<T>();
      }
      if (parts_.weight) p.weight = ops::packed<T>(encoder, in.back(), name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::rms_norm(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays inputs = {parts_.residual ? outputs[1] : primals[0], cotangents[0]};
    if (parts_.residual) inputs.push_back(cotangents[1]);
    const mx::Dtype dtype = primals[0].dtype();
    std::vector<mx::Shape> shapes = {primals[0].shape()};
    if (parts_.weight) {
      inputs.push_back(primals.back());
      shapes.push_back(primals.back().shape());
    }
    const auto gradients =
        mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), dtype),
                               std::make_shared<RmsNormVjp>(stream(), parts_), inputs);
    Arrays result;
    // x and residual share their gradient.
    for (const int a : argnums) result.push_back(gradients[a > (parts_.residual ? 1 : 0) ? 1 : 0]);
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return std::vector<mx::Shape>(parts_.residual ? 2 : 1, in[0].shape());
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return parts_ == static_cast<const RmsNorm&>(other).parts_;
  }
  const char* name() const override { return "rms_norm"; }

 private:
  Parts parts_;
};

void check(const char* op, const mx::array& x, const std::optional<mx::array>& weight, float eps) {
  require(x.ndim() > 0 && x.shape(-1) > 0, [&] {
    return Error::Parts{.where = op,
                        .required = "x must have at least one axis, and its last axis at least one element",
                        .got = ops::to_string(x.shape()),
                        .hint = ""};
  });
  if (weight) ops::require_shape(op, "weight", *weight, {x.shape(-1)}, "{N}");
  require(eps >= 0, [&] {
    return Error::Parts{.where = op, .required = "eps must be 0 or more", .got = std::to_string(eps), .hint = "1e-5"};
  });
}

Arrays run(const mx::array& x, const std::optional<mx::array>& residual, const std::optional<mx::array>& weight,
           float eps, mx::Dtype dtype, mx::Stream stream) {
  Arrays inputs = {mx::astype(x, dtype, stream)};
  if (residual) inputs.push_back(mx::astype(*residual, dtype, stream));
  if (weight) inputs.push_back(mx::astype(*weight, dtype, stream));
  const size_t count = residual ? 2 : 1;
  auto outputs = mx::array::make_arrays(
      std::vector<mx::Shape>(count, x.shape()), std::vector<mx::Dtype>(count, dtype),
      std::make_shared<RmsNorm>(stream, Parts{residual.has_value(), weight.has_value(), eps}), inputs);
  for (auto& o : outputs) o = mx::astype(o, x.dtype(), stream);
  return outputs;
}

}  // namespace

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype =
      ops::compute_dtype("rms_norm", {{"x", &x}, {"weight", weight ? &*weight : nullptr}});
  check("rms_norm", x, weight, eps);
  if (ops::choose_back_end("rms_norm", stream) == ops::BackEnd::kComposed) {
    return rms_norm_composed(x, weight, eps, stream);
  }
  return run(x, std::nullopt, weight, eps, dtype, stream)[0];
}

std::pair<mx::array, mx::array> add_rms_norm(const mx::array& x, const mx::array& residual,
                                             const std::optional<mx::array>& weight, float eps,
                                             mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = ops::compute_dtype(
      "add_rms_norm", {{"x", &x}, {"residual", &residual}, {"weight", weight ? &*weight : nullptr}});
  check("add_rms_norm", x, weight, eps);
  ops::require_shape("add_rms_norm", "residual", residual, x.shape(), "of x");
  if (ops::choose_back_end("add_rms_norm", stream) == ops::BackEnd::kComposed) {
    const auto sum = mx::astype(mx::add(x, residual, stream), x.dtype(), stream);
    return {rms_norm_composed(sum, weight, eps, stream), sum};
  }
  const auto outputs = run(x, residual, weight, eps, dtype, stream);
  return {outputs[0], outputs[1]};
}

}  // namespace aspis
