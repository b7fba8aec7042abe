#include "aspis/ops/causal_conv1d/causal_conv1d.h"

#include "aspis/ops/causal_conv1d/composed.h"
#include "aspis/ops/causal_conv1d/kernel/cpu.h"
#include "aspis/ops/common/packing.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {
namespace {

constexpr const char* kName = "causal_conv1d";

// Inputs of both primitives: x, weight, bias, initial state, order (absent ones
// as placeholders); the backward one has the cotangents behind them.
enum Input { kX, kWeight, kBias, kInitial, kOrder, kDout, kDfinal };

struct Config {
  bool silu = false, symmetric = false, reverse = false;
  bool bias = false, initial = false, order = false, final_state = false;
  std::shared_ptr<const std::vector<kernel::Sequence>> sequences = {};  // null: every row is one
  int states = 0;                                                       // initial and final ones
  bool operator==(const Config&) const = default;
};

template <typename T>
kernel::Conv1dParams<T> params_of(mx::cpu::CommandEncoder& encoder, const Config& config, const Arrays& in,
                                  const char* name) {
  kernel::Conv1dParams<T> p;
  p.batch = in[kX].shape(0), p.length = in[kX].shape(1), p.channels = in[kX].shape(2);
  p.width = in[kWeight].shape(1);
  p.reach = config.symmetric ? (p.width - 1) / 2 : p.width - 1;
  p.silu = config.silu, p.reverse = config.reverse;
  p.sequences = config.sequences.get(), p.states = config.states;
  const auto& strides = in[kX].strides();
  if (strides[2] > 1 && p.channels > 1 && strides[0] >= 0 && strides[1] >= 0) {
    // Channels-first data.
    encoder.set_input_array(in[kX]);
    p.x = in[kX].data<T>(), p.x_batch = strides[0], p.x_token = strides[1], p.x_channel = strides[2];
  } else {
    const auto x = ops::strided<T>(encoder, in[kX], name);
    p.x = x.data, p.x_batch = x[0], p.x_token = x[1];
  }
  p.weight = ops::packed<T>(encoder, in[kWeight], name);
  if (config.bias) p.bias = ops::packed<T>(encoder, in[kBias], name);
  if (config.initial) {
    const auto initial = ops::strided<T>(encoder, in[kInitial], name);
    p.initial = initial.data, p.initial_batch = initial[0], p.initial_token = initial[1];
  }
  if (config.order) p.order = ops::packed<int32_t>(encoder, in[kOrder], name);
  return p;
}

class CausalConv1dVjp : public ops::CpuPrimitive {
 public:
  CausalConv1dVjp(mx::Stream stream, const Config& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::Conv1dVjpParams<T> p;
      p.forward = params_of<T>(encoder, config_, in, name());
      const auto dout = ops::strided<T>(encoder, in[kDout], name());
      p.dout = dout.data, p.dout_batch = dout[0], p.dout_token = dout[1];
      if (config_.final_state) {
        const auto dfinal = ops::strided<T>(encoder, in[kDfinal], name());
        p.dfinal = dfinal.data, p.dfinal_batch = dfinal[0], p.dfinal_token = dfinal[1];
      }
      for (auto& o : out) ops::allocate(encoder, o, name());
      size_t i = 0;
      p.dx = out[i++].data<T>();
      p.dweight = out[i++].data<T>();
      if (config_.bias) p.dbias = out[i++].data<T>();
      if (config_.initial) p.dinitial = out[i++].data<T>();
      p.workspace = ops::allocate_scratch(encoder, kernel::conv1d_vjp_workspace(p), name());
      encoder.dispatch([p, sequences = config_.sequences] { kernel::conv1d_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes = {in[kX].shape(), in[kWeight].shape()};
    if (config_.bias) shapes.push_back(in[kBias].shape());
    if (config_.initial) shapes.push_back(in[kInitial].shape());
    return shapes;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return config_ == static_cast<const CausalConv1dVjp&>(other).config_;
  }
  const char* name() const override { return "causal_conv1d_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // The convolution once more for SiLU's slope, dx, and dweight.
    const double size = static_cast<double>(in[kX].size());
    return {.macs = 3 * size * in[kWeight].shape(1), .exps = size};
  }

 private:
  const Config config_;
};

class CausalConv1d : public ops::CpuPrimitive {
 public:
  CausalConv1d(mx::Stream stream, const Config& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params_of<T>(encoder, config_, in, name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.out = out[0].data<T>();
      if (config_.final_state) p.final_state = out[1].data<T>();
      p.workspace = ops::allocate_scratch(encoder, kernel::conv1d_workspace(p), name());
      encoder.dispatch([p, sequences = config_.sequences] { kernel::conv1d(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays inputs = primals;
    inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
    const auto primitive = std::make_shared<CausalConv1dVjp>(stream(), config_);
    const auto shapes = primitive->output_shapes(inputs);
    const std::vector<mx::Dtype> dtypes(shapes.size(), primals[kX].dtype());
    const Arrays gradients = mx::array::make_arrays(shapes, dtypes, primitive, inputs);
    Arrays result;
    for (const int i : argnums) {
      if (i == kX || i == kWeight) {
        result.push_back(gradients[i]);
      } else if (i == kBias && config_.bias) {
        result.push_back(gradients[2]);
      } else if (i == kInitial && config_.initial) {
        result.push_back(gradients.back());
      } else {
        result.push_back(mx::zeros_like(primals[i], stream()));
      }
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes = {in[kX].shape()};
    if (config_.final_state) shapes.push_back(state_shape(config_.states, in[kX], in[kWeight]));
    return shapes;
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return config_ == static_cast<const CausalConv1d&>(other).config_;
  }
  const char* name() const override { return kName; }
  ops::Work work(const Arrays& in, const Arrays& out) const override {
    const double size = static_cast<double>(out[0].size());
    return {.macs = size * in[kWeight].shape(1), .exps = size};
  }

  static mx::Shape state_shape(int states, const mx::array& x, const mx::array& weight) {
    return {states, weight.shape(1) - 1, x.shape(2)};
  }

 private:
  const Config config_;
};

void check_order(const mx::array& order, int length, mx::Stream stream) {
  ops::require_shape(kName, "order", order, {length}, "{L}");
  require(mx::issubdtype(order.dtype(), mx::integer), [&] {
    return Error::Parts{
        .where = kName, .required = "order must hold integers", .got = ops::to_string(order.dtype())};
  });
  // Values are looked at only where that costs no evaluation.
  const auto dense = mx::astype(order, mx::int32, stream);
  if (!dense.is_available() || !dense.flags().row_contiguous) return;
  require(kernel::is_permutation(dense.data<int32_t>(), length), [&] {
    return Error::Parts{.where = kName,
                        .required = "order must hold each of 0 .. L-1 = " + std::to_string(length - 1) + " once",
                        .got = "another list of numbers"};
  });
}

int state_count(const mx::array& x, const Conv1dOptions& options) {
  return options.cu_seqlens.empty() ? x.shape(0) : static_cast<int>(options.cu_seqlens.size()) - 1;
}

bool packed(const Conv1dOptions& options) { return options.seq_idx || !options.cu_seqlens.empty(); }

void check_packing(const mx::array& x, const Conv1dOptions& options) {
  if (!options.cu_seqlens.empty()) ops::require_cu_seqlens(kName, options.cu_seqlens, x.shape(0), x.shape(1));
  if (options.seq_idx) ops::require_seq_idx(kName, *options.seq_idx, x.shape(0), x.shape(1));
  require(options.cu_seqlens.empty() || !options.seq_idx, [] {
    return Error::Parts{
        .where = kName, .required = "only one of cu_seqlens and seq_idx may be given", .got = "both"};
  });
  require(!options.order || !packed(options), [] {
    return Error::Parts{.where = kName,
                        .required = "packed sequences are visited in the order of their tokens",
                        .got = "an order too",
                        .hint = "gather the tokens first"};
  });
}

void check_weight(const char* op, const mx::array& weight, int channels) {
  require(weight.ndim() == 2 && weight.shape(0) == channels && weight.shape(1) >= 1, [&] {
    return Error::Parts{.where = op,
                        .required = "weight must have shape {D, W} with D = " + std::to_string(channels) +
                                    " channels and W >= 1 taps",
                        .got = ops::to_string(weight.shape())};
  });
}

void check(const mx::array& x, const mx::array& weight, const Conv1dOptions& options, mx::Stream stream) {
  require(x.ndim() == 3, [&] {
    return Error::Parts{.where = kName,
                        .required = "x must have shape {B, L, D} (batch, tokens, channels)",
                        .got = ops::to_string(x.shape())};
  });
  check_weight(kName, weight, x.shape(2));
  if (options.bias) ops::require_shape(kName, "bias", *options.bias, {x.shape(2)}, "{D}");
  check_packing(x, options);
  if (options.initial_state) {
    require(!options.symmetric, [] {
      return Error::Parts{.where = kName,
                          .required = "only the causal form has a state",
                          .got = "symmetric = true with an initial_state"};
    });
    ops::require_shape(kName, "initial_state", *options.initial_state,
                       CausalConv1d::state_shape(state_count(x, options), x, weight),
                       options.cu_seqlens.empty() ? "{B, W-1, D}" : "{sequences, W-1, D}");
  }
  if (options.order) check_order(*options.order, x.shape(1), stream);
}

// {out} or {out, final_state}, of x's dtype.
Arrays run(const mx::array& x, const mx::array& weight, Conv1dOptions options, bool with_state,
           mx::Stream stream) {
  check(x, weight, options, stream);
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  const mx::Dtype dtype = ops::compute_dtype(kName, {{"x", &x},
                                                     {"weight", &weight},
                                                     {"bias", pointer(options.bias)},
                                                     {"initial_state", pointer(options.initial_state)}});
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, stream); };
  const auto narrow = [&](const mx::array& a) { return mx::astype(a, x.dtype(), stream); };
  if (options.bias) options.bias = wide(*options.bias);
  if (options.initial_state) options.initial_state = wide(*options.initial_state);
  if (options.order) options.order = mx::astype(*options.order, mx::int32, stream);

  // Without tokens there is nothing to compute and the state passes through.
  if (x.shape(1) == 0 || ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    const auto [out, final_state] = causal_conv1d_composed(wide(x), wide(weight), options, stream);
    if (!with_state) return {narrow(out)};
    return {narrow(out), narrow(final_state)};
  }
  Config config{options.silu,
                options.symmetric,
                options.reverse,
                options.bias.has_value(),
                options.initial_state.has_value(),
                options.order.has_value(),
                with_state};
  config.states = state_count(x, options);
  if (packed(options)) {
    config.sequences = std::make_shared<const std::vector<kernel::Sequence>>(conv1d_sequences(x, options, stream));
  }
  const Arrays inputs = {wide(x), wide(weight), options.bias.value_or(ops::absent()),
                         options.initial_state.value_or(ops::absent()), options.order.value_or(ops::absent())};
  const auto primitive = std::make_shared<CausalConv1d>(stream, config);
  const auto shapes = primitive->output_shapes(inputs);
  Arrays outputs = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), dtype), primitive, inputs);
  for (auto& o : outputs) o = narrow(o);
  return outputs;
}

}  // namespace

mx::array causal_conv1d(const mx::array& x, const mx::array& weight, const Conv1dOptions& options,
                        mx::StreamOrDevice s) {
  return run(x, weight, options, false, mx::to_stream(s))[0];
}

std::pair<mx::array, mx::array> causal_conv1d_with_state(const mx::array& x, const mx::array& weight,
                                                         const Conv1dOptions& options, mx::StreamOrDevice s) {
  require(!options.symmetric, [] {
    return Error::Parts{.where = kName,
                        .required = "only the causal form has a state",
                        .got = "symmetric = true",
                        .hint = "causal_conv1d"};
  });
  auto outputs = run(x, weight, options, true, mx::to_stream(s));
  return {outputs[0], outputs[1]};
}

std::pair<mx::array, mx::array> causal_conv1d_step(const mx::array& state, const mx::array& x,
                                                   const mx::array& weight, const Conv1dOptions& options,
                                                   mx::StreamOrDevice s) {
  require(x.ndim() == 2, [&] {
    return Error::Parts{.where = "causal_conv1d_step",
                        .required = "x must have shape {B, D} (one token)",
                        .got = ops::to_string(x.shape())};
  });
  const bool others =
      options.symmetric || options.reverse || options.order || options.initial_state || packed(options);
  require(!others, [] {
    return Error::Parts{.where = "causal_conv1d_step",
                        .required = "only the options bias and silu apply to a step",
                        .got = "symmetric, reverse, order, initial_state or packed sequences",
                        .hint = "pass the state as the first argument"};
  });
  check_weight("causal_conv1d_step", weight, x.shape(1));
  ops::require_shape("causal_conv1d_step", "state", state, {x.shape(0), weight.shape(1) - 1, x.shape(1)},
                     "{B, W-1, D}");
  ops::compute_dtype("causal_conv1d_step", {{"state", &state}});
  const auto stream = mx::to_stream(s);
  Conv1dOptions with_state = options;
  with_state.initial_state = state;
  const auto outputs = run(mx::expand_dims(x, 1, stream), weight, with_state, true, stream);
  return {mx::squeeze(outputs[0], 1, stream), outputs[1]};
}

}  // namespace aspis
