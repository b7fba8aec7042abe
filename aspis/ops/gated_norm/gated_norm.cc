#include "aspis/ops/gated_norm/gated_norm.h"

#include <array>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/gated_norm/kernel/cpu.h"

namespace aspis {
namespace {

enum Input { kX, kZ, kWeight, kBias, kInputs };

struct Config {
  int64_t group = 0;
  double eps = 0;
  bool center = false, norm_first = false;
  std::array<bool, kInputs> has{true, false, false, false};
  bool operator==(const Config&) const = default;
};

template <typename T>
kernel::GatedNormParams<T> params_of(mx::cpu::CommandEncoder& encoder, const Config& c, const Arrays& in,
                                     const char* name) {
  kernel::GatedNormParams<T> p;
  p.width = in[kX].shape(-1);
  p.rows = static_cast<int64_t>(in[kX].size()) / p.width;
  p.group = c.group, p.eps = c.eps, p.center = c.center, p.norm_first = c.norm_first;
  const auto get = [&](int i) { return c.has[i] ? ops::packed<T>(encoder, in[i], name) : nullptr; };
  p.x = get(kX), p.z = get(kZ), p.weight = get(kWeight), p.bias = get(kBias);
  return p;
}

// Inputs of the norm and dy -> gradients of the inputs; those of absent ones are stubs.
class GatedNormVjp : public ops::CpuPrimitive {
 public:
  GatedNormVjp(mx::Stream stream, const Config& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::GatedNormVjpParams<T> q;
      q.in = params_of<T>(encoder, config_, in, name());
      q.dy = ops::packed<T>(encoder, in[kInputs], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      const auto get = [&](int i) { return config_.has[i] ? out[i].data<T>() : nullptr; };
      q.dx = get(kX), q.dz = get(kZ), q.dweight = get(kWeight), q.dbias = get(kBias);
      const int64_t values = kernel::gated_norm_vjp_workspace(q.in.rows, q.in.width);
      q.workspace =
          static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), name()));
      encoder.dispatch([q] { kernel::gated_norm_vjp(q); });
    });
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return config_ == static_cast<const GatedNormVjp&>(other).config_;
  }
  const char* name() const override { return "gated_norm_vjp"; }

 private:
  const Config config_;
};

class GatedNorm : public ops::CpuPrimitive {
 public:
  GatedNorm(mx::Stream stream, const Config& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params_of<T>(encoder, config_, in, name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::gated_norm(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays inputs = primals;
    inputs.push_back(cotangents[0]);
    std::vector<mx::Shape> shapes;
    for (const auto& a : primals) shapes.push_back(a.shape());
    const Arrays all = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), primals[0].dtype()),
                                              std::make_shared<GatedNormVjp>(stream(), config_), inputs);
    Arrays wanted;
    for (const int i : argnums) wanted.push_back(config_.has[i] ? all[i] : mx::zeros_like(primals[i], stream()));
    return wanted;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return config_ == static_cast<const GatedNorm&>(other).config_;
  }
  const char* name() const override { return "gated_norm"; }

 private:
  const Config config_;
};

mx::array run(const char* op, const mx::array& x, GatedNormOptions o, bool center, mx::StreamOrDevice device) {
  const auto stream = mx::to_stream(device);
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  const mx::Dtype dtype = ops::compute_dtype(
      op, {{"x", &x}, {"z", pointer(o.z)}, {"weight", pointer(o.weight)}, {"bias", pointer(o.bias)}});
  const auto refuse = [&](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage, {.where = op, .required = std::move(required), .got = std::move(got)});
  };
  if (x.ndim() < 1 || x.shape(-1) < 1) refuse("x must have shape {..., N} with N >= 1", ops::to_string(x.shape()));
  const int width = x.shape(-1), group = o.group_size == 0 ? width : o.group_size;
  if (group < 1 || width % group != 0)
    refuse("group_size must divide N = " + std::to_string(width), std::to_string(group));
  if (!(o.eps >= 0)) refuse("eps must not be negative", std::to_string(o.eps));
  if (o.z) ops::require_shape(op, "z", *o.z, x.shape(), "that of x");
  if (o.weight) ops::require_shape(op, "weight", *o.weight, {width}, "{N}");
  if (o.bias) ops::require_shape(op, "bias", *o.bias, {width}, "{N}");
  for (auto* a : {&o.z, &o.weight, &o.bias}) {
    if (*a) *a = mx::astype(**a, dtype, stream);
  }
  const auto wide = mx::astype(x, dtype, stream);
  if (x.size() == 0 || ops::choose_back_end(op, stream) == ops::BackEnd::kComposed)
    return mx::astype(gated_norm_composed(wide, o, center, stream), x.dtype(), stream);
  Config config;
  config.group = group, config.eps = o.eps, config.center = center, config.norm_first = o.norm_before_gate;
  Arrays inputs{wide};
  for (const auto* a : {&o.z, &o.weight, &o.bias}) {
    config.has[inputs.size()] = a->has_value();
    inputs.push_back(a->value_or(ops::absent()));
  }
  return mx::astype(mx::array(x.shape(), dtype, std::make_shared<GatedNorm>(stream, config), inputs), x.dtype(),
                    stream);
}

}  // namespace

mx::array rmsnorm_gated(const mx::array& x, const GatedNormOptions& options, mx::StreamOrDevice s) {
  if (options.bias) {
    throw Error(ErrorKind::kUsage, {.where = "rmsnorm_gated",
                                    .required = "an RMS norm has no bias",
                                    .got = "one of shape " + ops::to_string(options.bias->shape()),
                                    .hint = "layer_norm_gated has one"});
  }
  return run("rmsnorm_gated", x, options, false, s);
}

mx::array layer_norm_gated(const mx::array& x, const GatedNormOptions& options, mx::StreamOrDevice s) {
  return run("layer_norm_gated", x, options, true, s);
}

}  // namespace aspis
