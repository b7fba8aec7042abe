#include "aspis/ops/channel_norm/channel_norm.h"

#include "aspis/ops/channel_norm/kernel/cpu.h"
#include "aspis/ops/common/storage.h"

namespace aspis {
namespace {

// What a call is, and what it has beside x: fixes the order of a primitive's inputs.
struct Config {
  bool batch = false;  // one sample over all leading axes; else the first axis counts samples
  int groups = 1;
  float eps = 0, momentum = 0;
  Activation activation = Activation::kNone;
  bool residual = false, weight = false, bias = false;
  enum class Statistics { kOwn, kGiven, kRunning } statistics = Statistics::kOwn;
  bool operator==(const Config&) const = default;

  bool activates() const { return activation != Activation::kNone; }

  // Sizes into the parameters of either kernel.
  template <typename P>
  void fill(P& p, const mx::array& x) const {
    p.samples = batch ? 1 : x.shape(0);
    p.channels = x.shape(-1);
    p.rows = static_cast<int64_t>(x.size()) / std::max<int64_t>(1, p.samples * p.channels);
    p.groups = groups;
    p.activation = activation;
  }
  mx::Shape statistics_shape(const mx::array& x) const { return {batch ? 1 : x.shape(0), groups}; }
};

template <typename S, typename P>
void take_scratch(mx::cpu::CommandEncoder& encoder, P& p, const char* name) {
  using T = Arithmetic<S>;
  const auto values = kernel::channel_norm_scratch(p.samples, p.rows, p.channels);
  p.scratch = static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), name));
}

class ChannelNormVjp : public ops::CpuPrimitive {
 public:
  ChannelNormVjp(mx::Stream s, const Config& config) : CpuPrimitive(s), c_(config) {}

  // {x, dy, mean, rstd, weight?, bias?, residual?} -> {dx, dweight?, dbias?, dresidual?};
  // bias and residual come, and dresidual goes, with an activation only.
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      kernel::ChannelNormVjpParams<S> p;
      c_.fill(p, in[0]);
      p.given = c_.statistics == Config::Statistics::kGiven;
      p.x = ops::packed<S>(encoder, in[0], name());
      p.dy = ops::packed<S>(encoder, in[1], name());
      p.mean = ops::packed<T>(encoder, in[2], name());
      p.rstd = ops::packed<T>(encoder, in[3], name());
      size_t next = 4;
      if (c_.weight) p.weight = ops::packed<T>(encoder, in[next++], name());
      if (c_.bias && c_.activates()) p.bias = ops::packed<T>(encoder, in[next++], name());
      if (c_.residual && c_.activates()) p.residual = ops::packed<S>(encoder, in[next++], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.dx = out[0].data<S>();
      next = 1;
      if (c_.weight) p.dweight = out[next++].data<T>();
      if (c_.bias) p.dbias = out[next++].data<T>();
      if (p.residual) p.dresidual = out[next++].data<S>();
      take_scratch<S>(encoder, p, name());
      encoder.dispatch([p] { kernel::channel_norm_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes = {in[0].shape()};
    for (int i = 0; i < c_.weight + c_.bias; i++) shapes.push_back({in[0].shape(-1)});
    if (c_.residual && c_.activates()) shapes.push_back(in[0].shape());
    return shapes;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return c_ == static_cast<const ChannelNormVjp&>(other).c_;
  }
  const char* name() const override { return c_.batch ? "batch_norm_vjp" : "group_norm_vjp"; }

 private:
  Config c_;
};

class ChannelNorm : public ops::CpuPrimitive {
 public:
  ChannelNorm(mx::Stream s, const Config& config) : CpuPrimitive(s), c_(config) {}

  // {x, weight?, bias?, residual?, mean?, var?} -> {y, mean, rstd, running mean?, running var?}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      using T = Arithmetic<S>;
      kernel::ChannelNormParams<S> p;
      c_.fill(p, in[0]);
      p.eps = c_.eps;
      p.x = ops::packed<S>(encoder, in[0], name());
      size_t next = 1;
      if (c_.weight) p.weight = ops::packed<T>(encoder, in[next++], name());
      if (c_.bias) p.bias = ops::packed<T>(encoder, in[next++], name());
      if (c_.residual) p.residual = ops::packed<S>(encoder, in[next++], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.y = out[0].data<S>();
      p.mean = out[1].data<T>();
      p.rstd = out[2].data<T>();
      if (c_.statistics == Config::Statistics::kGiven) {
        p.given_mean = ops::packed<T>(encoder, in[next], name());
        p.given_var = ops::packed<T>(encoder, in[next + 1], name());
      } else if (c_.statistics == Config::Statistics::kRunning) {
        p.momentum = c_.momentum;
        p.running_mean = ops::packed<T>(encoder, in[next], name());
        p.running_var = ops::packed<T>(encoder, in[next + 1], name());
        p.new_mean = out[3].data<T>();
        p.new_var = out[4].data<T>();
      }
      take_scratch<S>(encoder, p, name());
      encoder.dispatch([p] { kernel::channel_norm(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    const mx::array& x = primals[0];
    Arrays inputs = {x, cotangents[0], outputs[1], outputs[2]};
    const size_t weight = 1, bias = weight + c_.weight, residual = bias + c_.bias;
    if (c_.weight) inputs.push_back(primals[weight]);
    if (c_.bias && c_.activates()) inputs.push_back(primals[bias]);
    if (c_.residual && c_.activates()) inputs.push_back(primals[residual]);
    std::vector<mx::Shape> shapes = {x.shape()};
    std::vector<mx::Dtype> dtypes = {x.dtype()};
    for (size_t i = weight; i < residual; i++) {
      shapes.push_back(primals[i].shape());
      dtypes.push_back(primals[i].dtype());
    }
    if (c_.residual && c_.activates()) {
      shapes.push_back(x.shape());
      dtypes.push_back(x.dtype());
    }
    const auto gradients =
        mx::array::make_arrays(shapes, dtypes, std::make_shared<ChannelNormVjp>(stream(), c_), inputs);
    Arrays result;
    for (const int a : argnums) {
      const size_t i = static_cast<size_t>(a);
      // Without an activation the residual's gradient is the cotangent itself.
      result.push_back(c_.residual && i == residual && !c_.activates() ? cotangents[0] : gradients[i]);
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const auto small = c_.statistics_shape(in[0]);
    std::vector<mx::Shape> shapes = {in[0].shape(), small, small};
    if (c_.statistics == Config::Statistics::kRunning) shapes.insert(shapes.end(), 2, {in[0].shape(-1)});
    return shapes;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return c_ == static_cast<const ChannelNorm&>(other).c_;
  }
  const char* name() const override { return c_.batch ? "batch_norm" : "group_norm"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    const double n = static_cast<double>(in[0].size());
    return {.macs = 2 * n, .exps = c_.activates() && c_.activation != Activation::kRelu ? n : 0};
  }

 private:
  Config c_;
};

const mx::array* pointer(const std::optional<mx::array>& a) { return a ? &*a : nullptr; }

mx::Dtype check(const char* op, const mx::array& x, const std::optional<mx::array>& weight,
                const std::optional<mx::array>& bias, const ChannelNormOptions& o, const mx::array* mean = nullptr,
                const mx::array* var = nullptr) {
  const mx::Dtype storage = ops::storage_dtype(op, x,
                                               {{"x", &x},
                                                {"weight", pointer(weight)},
                                                {"bias", pointer(bias)},
                                                {"residual", pointer(o.residual)},
                                                {"mean", mean},
                                                {"var", var}});
  require(x.ndim() > 0 && x.shape(-1) > 0, [&] {
    return Error::Parts{.where = op,
                        .required = "x must have at least one axis, and its last axis at least one channel",
                        .got = ops::to_string(x.shape()),
                        .hint = ""};
  });
  const mx::Shape channels = {x.shape(-1)};
  if (weight) ops::require_shape(op, "weight", *weight, channels, "{C}");
  if (bias) ops::require_shape(op, "bias", *bias, channels, "{C}");
  if (mean) ops::require_shape(op, "mean", *mean, channels, "{C}");
  if (var) ops::require_shape(op, "var", *var, channels, "{C}");
  if (o.residual) ops::require_shape(op, "residual", *o.residual, x.shape(), "of x");
  require(o.eps >= 0, [&] {
    return Error::Parts{
        .where = op, .required = "eps must be 0 or more", .got = std::to_string(o.eps), .hint = "1e-5"};
  });
  return storage;
}

Arrays run(const mx::array& x, Config c, const std::optional<mx::array>& weight,
           const std::optional<mx::array>& bias, const ChannelNormOptions& o, const mx::array* mean,
           const mx::array* var, mx::Dtype storage, mx::Stream stream) {
  const mx::Dtype arithmetic = ops::arithmetic_dtype(storage);
  c.eps = o.eps;
  c.activation = o.activation;
  c.weight = weight.has_value();
  c.bias = bias.has_value();
  c.residual = o.residual.has_value();
  Arrays inputs = {mx::astype(x, storage, stream)};
  if (weight) inputs.push_back(mx::astype(*weight, arithmetic, stream));
  if (bias) inputs.push_back(mx::astype(*bias, arithmetic, stream));
  if (o.residual) inputs.push_back(mx::astype(*o.residual, storage, stream));
  if (mean) {
    inputs.push_back(mx::stop_gradient(mx::astype(*mean, arithmetic, stream), stream));
    inputs.push_back(mx::stop_gradient(mx::astype(*var, arithmetic, stream), stream));
  }
  const auto small = c.statistics_shape(x);
  std::vector<mx::Shape> shapes = {x.shape(), small, small};
  std::vector<mx::Dtype> dtypes = {storage, arithmetic, arithmetic};
  if (c.statistics == Config::Statistics::kRunning) {
    shapes.insert(shapes.end(), 2, {x.shape(-1)});
    dtypes.insert(dtypes.end(), 2, arithmetic);
  }
  auto outputs = mx::array::make_arrays(shapes, dtypes, std::make_shared<ChannelNorm>(stream, c), inputs);
  outputs[0] = mx::astype(outputs[0], x.dtype(), stream);
  return outputs;
}

}  // namespace

BatchNormResult batch_norm_training(const mx::array& x, const std::optional<mx::array>& weight,
                                    const std::optional<mx::array>& bias, const mx::array& running_mean,
                                    const mx::array& running_var, float momentum,
                                    const ChannelNormOptions& options, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  constexpr const char* kName = "batch_norm";
  const mx::Dtype storage = check(kName, x, weight, bias, options, &running_mean, &running_var);
  require(momentum >= 0 && momentum <= 1, [&] {
    return Error::Parts{
        .where = kName, .required = "momentum must lie in [0, 1]", .got = std::to_string(momentum), .hint = "0.1"};
  });
  if (ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    return batch_norm_training_composed(x, weight, bias, running_mean, running_var, momentum, options, stream);
  }
  Config c{.batch = true, .groups = x.shape(-1), .momentum = momentum};
  c.statistics = Config::Statistics::kRunning;
  const auto out = run(x, c, weight, bias, options, &running_mean, &running_var, storage, stream);
  return {out[0], mx::stop_gradient(out[3], stream), mx::stop_gradient(out[4], stream)};
}

mx::array batch_norm(const mx::array& x, const std::optional<mx::array>& weight,
                     const std::optional<mx::array>& bias, const mx::array& mean, const mx::array& var,
                     const ChannelNormOptions& options, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype storage = check("batch_norm", x, weight, bias, options, &mean, &var);
  if (ops::choose_back_end("batch_norm", stream) == ops::BackEnd::kComposed) {
    return batch_norm_composed(x, weight, bias, mean, var, options, stream);
  }
  Config c{.batch = true, .groups = x.shape(-1)};
  c.statistics = Config::Statistics::kGiven;
  return run(x, c, weight, bias, options, &mean, &var, storage, stream)[0];
}

mx::array group_norm(const mx::array& x, int groups, const std::optional<mx::array>& weight,
                     const std::optional<mx::array>& bias, const ChannelNormOptions& options,
                     mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  constexpr const char* kName = "group_norm";
  const mx::Dtype storage = check(kName, x, weight, bias, options);
  require(x.ndim() >= 2, [&] {
    return Error::Parts{
        .where = kName, .required = "x must be {B, ..., C}", .got = ops::to_string(x.shape()), .hint = ""};
  });
  require(groups > 0 && x.shape(-1) % groups == 0, [&] {
    return Error::Parts{.where = kName,
                        .required = "groups must divide the " + std::to_string(x.shape(-1)) + " channels",
                        .got = std::to_string(groups),
                        .hint = ""};
  });
  if (ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    return group_norm_composed(x, groups, weight, bias, options, stream);
  }
  return run(x, {.groups = groups}, weight, bias, options, nullptr, nullptr, storage, stream)[0];
}

mx::array instance_norm(const mx::array& x, const std::optional<mx::array>& weight,
                        const std::optional<mx::array>& bias, const ChannelNormOptions& options,
                        mx::StreamOrDevice s) {
  require(x.ndim() >= 2 && x.shape(-1) > 0, [&] {
    return Error::Parts{.where = "instance_norm",
                        .required = "x must be {B, ..., C}",
                        .got = ops::to_string(x.shape()),
                        .hint = ""};
  });
  return group_norm(x, x.shape(-1), weight, bias, options, s);
}

}  // namespace aspis
