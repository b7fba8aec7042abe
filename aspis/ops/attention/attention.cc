#include "aspis/ops/attention/attention.h"

#include <cmath>

#include "aspis/ops/attention/kernel/cpu.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {
namespace {

struct Rule {
  double scale = 1;
  bool causal = false;
  bool operator==(const Rule&) const = default;
};

template <typename T>
struct Operand {
  const T* data = nullptr;
  kernel::AttentionStrides strides;
};
template <typename T>
Operand<T> operand(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  const auto x = ops::strided<T>(encoder, a, op);
  return {x.data, {x[0], x[1], x[2]}};
}

// All of AttentionParams but the output.
template <typename T>
kernel::AttentionParams<T> params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const Rule& rule,
                                  const char* op) {
  kernel::AttentionParams<T> p;
  p.batch = in[0].shape(0);
  p.queries = in[0].shape(1);
  p.heads = in[0].shape(2);
  p.dim = in[0].shape(3);
  p.keys = in[1].shape(1);
  p.scale = rule.scale;
  p.causal = rule.causal;
  const auto q = operand<T>(encoder, in[0], op), k = operand<T>(encoder, in[1], op),
             v = operand<T>(encoder, in[2], op);
  p.q = q.data;
  p.q_strides = q.strides;
  p.k = k.data;
  p.k_strides = k.strides;
  p.v = v.data;
  p.v_strides = v.strides;
  return p;
}

// {q, k, v, do} -> {dq, dk, dv}
class AttentionVjp : public ops::CpuPrimitive {
 public:
  AttentionVjp(mx::Stream s, Rule rule) : CpuPrimitive(s), rule_(rule) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::AttentionVjpParams<T> p;
      p.forward = params<T>(encoder, in, rule_, name());
      const auto d_o = operand<T>(encoder, in[3], name());
      p.d_o = d_o.data;
      p.d_o_strides = d_o.strides;
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.dq = out[0].data<T>();
      p.dk = out[1].data<T>();
      p.dv = out[2].data<T>();
      encoder.dispatch([p] { kernel::attention_vjp(p); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[0].shape(), in[1].shape(), in[2].shape()};
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return rule_ == static_cast<const AttentionVjp&>(other).rule_;
  }
  const char* name() const override { return "attention_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // Scores once more, and a product each for dv, dp, dq and dk.
    const double scores = static_cast<double>(in[0].size()) / in[0].shape(3) * in[1].shape(1);
    return {.macs = 5 * scores * in[0].shape(3), .exps = scores};
  }

 private:
  Rule rule_;
};

// {q, k, v} -> o
class Attention : public ops::CpuPrimitive {
 public:
  Attention(mx::Stream s, Rule rule) : CpuPrimitive(s), rule_(rule) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params<T>(encoder, in, rule_, name());
      ops::allocate(encoder, out[0], name());
      p.o = out[0].data<T>();
      encoder.dispatch([p] { kernel::attention(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto gradients = mx::array::make_arrays({primals[0].shape(), primals[1].shape(), primals[2].shape()},
                                                  std::vector<mx::Dtype>(3, primals[0].dtype()),
                                                  std::make_shared<AttentionVjp>(stream(), rule_),
                                                  {primals[0], primals[1], primals[2], cotangents[0]});
    Arrays result;
    for (const int a : argnums) result.push_back(gradients[a]);
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return rule_ == static_cast<const Attention&>(other).rule_;
  }
  const char* name() const override { return "attention"; }
  ops::Work work(const Arrays& in, const Arrays& /*out*/) const override {
    const double scores = static_cast<double>(in[0].size()) / in[0].shape(3) * in[1].shape(1);
    return {.macs = 2 * scores * in[0].shape(3), .exps = scores};
  }

 private:
  Rule rule_;
};

void check(const mx::array& q, const mx::array& k, const mx::array& v, const AttentionOptions& options) {
  require(q.ndim() == 4, [&] {
    return Error::Parts{.where = "attention",
                        .required = "q must have shape {B, L, H, Dh}",
                        .got = ops::to_string(q.shape()),
                        .hint = ""};
  });
  require(k.ndim() == 4 && k.shape(1) > 0, [&] {
    return Error::Parts{.where = "attention",
                        .required = "k must have shape {B, S, H, Dh} with at least one key",
                        .got = ops::to_string(k.shape()),
                        .hint = ""};
  });
  ops::require_shape("attention", "k", k, {q.shape(0), k.shape(1), q.shape(2), q.shape(3)}, "{B, S, H, Dh}");
  ops::require_shape("attention", "v", v, k.shape(), "of k");
  require(std::isfinite(options.scale), [&] {
    return Error::Parts{.where = "attention",
                        .required = "scale must be a finite number",
                        .got = std::to_string(options.scale),
                        .hint = "0 for 1 / sqrt(head dim)"};
  });
  require(!options.causal || k.shape(1) >= q.shape(1), [&] {
    return Error::Parts{.where = "attention",
                        .required = "causal attention needs at least as many keys as queries",
                        .got = std::to_string(k.shape(1)) + " keys for " + std::to_string(q.shape(1)) + " queries",
                        .hint = ""};
  });
}

}  // namespace

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, const AttentionOptions& options,
                    mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = ops::compute_dtype("attention", {{"q", &q}, {"k", &k}, {"v", &v}});
  check(q, k, v, options);
  const mx::Dtype result = mx::promote_types(mx::promote_types(q.dtype(), k.dtype()), v.dtype());
  const Arrays inputs{mx::astype(q, dtype, stream), mx::astype(k, dtype, stream), mx::astype(v, dtype, stream)};
  if (ops::choose_back_end("attention", stream) == ops::BackEnd::kComposed) {
    return mx::astype(attention_composed(inputs[0], inputs[1], inputs[2], options, stream), result, stream);
  }
  Rule rule{options.scale, options.causal};
  if (options.scale == 0) rule.scale = 1 / std::sqrt(static_cast<double>(q.shape(3)));
  const mx::array o(q.shape(), dtype, std::make_shared<Attention>(stream, rule), inputs);
  return mx::astype(o, result, stream);
}

}  // namespace aspis
