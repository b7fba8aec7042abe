#include "aspis/ops/attention/attention.h"

#include <cmath>
#include <type_traits>

#include "aspis/ops/attention/kernel/cpu.h"
#include "aspis/ops/common/storage.h"

namespace aspis {
namespace {

struct Rule {
  double scale = 1;
  bool causal = false;
  int mask = 0;  // 0: none, 1: added, 2: bool
  int side = 0;  // of windows
  bool operator==(const Rule&) const = default;
};

template <typename S>
struct Operand {
  const S* data = nullptr;
  kernel::AttentionStrides strides;
};

template <typename S>
const S* values(const mx::array& a) {
  if constexpr (std::is_same_v<S, Bf16>) {
    return reinterpret_cast<const Bf16*>(a.data<mx::bfloat16_t>());
  } else {
    return a.data<S>();
  }
}
template <typename S>
S* values(mx::array& a) {
  return const_cast<S*>(values<S>(std::as_const(a)));
}

// Read in place if the last axis is dense, else from a copy.
template <typename S>
Operand<S> operand(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  using M = std::conditional_t<std::is_same_v<S, Bf16>, mx::bfloat16_t, S>;
  const auto x = ops::strided<M>(encoder, a, op);
  Operand<S> o{reinterpret_cast<const S*>(x.data), {}};
  o.strides = a.ndim() == 5 ? kernel::AttentionStrides{x[0], x[2], x[3], x[1]}
                            : kernel::AttentionStrides{x[0], x[1], x[2], 0};
  return o;
}

// All of AttentionParams but the output and the statistics.
template <typename T, typename S>
kernel::AttentionParams<T, S> params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const Rule& rule,
                                     const char* op) {
  kernel::AttentionParams<T, S> p;
  const int heads = static_cast<int>(in[0].ndim()) - 2;
  p.batch = in[0].shape(0);
  p.queries = in[0].shape(1);
  p.keys = in[1].shape(1);
  p.heads = in[0].shape(heads);
  p.kv_heads = in[1].shape(heads);
  p.dim = in[0].shape(heads + 1);
  if (rule.side > 0) {
    p.height = in[0].shape(1);
    p.width = in[0].shape(2);
    p.side = rule.side;
    p.queries = p.keys = p.side * p.side;
  }
  p.scale = rule.scale;
  p.causal = rule.causal;
  const auto q = operand<S>(encoder, in[0], op), k = operand<S>(encoder, in[1], op),
             v = operand<S>(encoder, in[2], op);
  p.q = q.data;
  p.q_strides = q.strides;
  p.k = k.data;
  p.k_strides = k.strides;
  p.v = v.data;
  p.v_strides = v.strides;
  if (rule.mask != 0) {
    const mx::array& m = in[3];  // of any strides
    encoder.set_input_array(m);
    if (rule.mask == 1) p.mask.bias = m.data<T>();
    if (rule.mask == 2) p.mask.allow = m.data<bool>();
    p.mask.batch = m.strides()[0];
    p.mask.head = m.strides()[1];
    p.mask.row = m.strides()[2];
    p.mask.column = m.strides()[3];
  }
  return p;
}

ops::Work work_of(const Arrays& in, const Rule& rule, double products) {
  const mx::array& q = in[0];
  const double keys = rule.side > 0 ? 1.0 * rule.side * rule.side : in[1].shape(1);
  const double scores = static_cast<double>(q.size()) / q.shape(-1) * keys;
  return {.macs = products * scores * q.shape(-1), .exps = scores};
}

// {q, k, v, mask?, o, stats, do} -> {dq, dk, dv, d_scores?}
class AttentionVjp : public ops::CpuPrimitive {
 public:
  AttentionVjp(mx::Stream s, Rule rule) : CpuPrimitive(s), rule_(rule) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const size_t next = rule_.mask != 0 ? 4 : 3;
    ops::dispatch_storage(out[0].dtype(), [&](auto storage) {
      using S = decltype(storage);
      using T = Arithmetic<S>;
      kernel::AttentionVjpParams<T, S> p;
      p.forward = params<T, S>(encoder, in, rule_, name());
      const auto o = operand<S>(encoder, in[next], name()), d_o = operand<S>(encoder, in[next + 2], name());
      p.o = o.data;
      p.o_strides = o.strides;
      p.forward.stats = const_cast<T*>(ops::packed<T>(encoder, in[next + 1], name()));
      p.d_o = d_o.data;
      p.d_o_strides = d_o.strides;
      for (auto& a : out) ops::allocate(encoder, a, name());
      p.dq = values<S>(out[0]);
      p.dk = values<S>(out[1]);
      p.dv = values<S>(out[2]);
      if (out.size() == 4) p.d_scores = out[3].data<T>();
      encoder.dispatch([p] { kernel::attention_vjp(p); });
    });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return rule_ == static_cast<const AttentionVjp&>(other).rule_;
  }
  const char* name() const override { return "attention_vjp"; }
  // Scores once more, and a product each for dv, dp, dq and dk.
  ops::Work work(const Arrays& in, const Arrays&) const override { return work_of(in, rule_, 5); }

 private:
  Rule rule_;
};

// {q, k, v, mask?} -> {o, stats}
class Attention : public ops::CpuPrimitive {
 public:
  Attention(mx::Stream s, Rule rule) : CpuPrimitive(s), rule_(rule) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto storage) {
      using S = decltype(storage);
      using T = Arithmetic<S>;
      auto p = params<T, S>(encoder, in, rule_, name());
      for (auto& a : out) ops::allocate(encoder, a, name());
      p.o = values<S>(out[0]);
      p.stats = out[1].data<T>();
      encoder.dispatch([p] { kernel::attention(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays inputs = primals;
    inputs.insert(inputs.end(), {outputs[0], outputs[1], cotangents[0]});
    std::vector<mx::Shape> shapes{primals[0].shape(), primals[1].shape(), primals[2].shape()};
    std::vector<mx::Dtype> dtypes(3, primals[0].dtype());
    const bool of_mask = rule_.mask == 1 && std::find(argnums.begin(), argnums.end(), 3) != argnums.end();
    if (of_mask) {
      shapes.push_back(primals[3].shape());
      dtypes.push_back(primals[3].dtype());
    }
    const auto gradients =
        mx::array::make_arrays(shapes, dtypes, std::make_shared<AttentionVjp>(stream(), rule_), inputs);
    Arrays result;
    for (const int a : argnums) {
      result.push_back(a < 3 || of_mask ? gradients[a]
                                        : mx::zeros(primals[a].shape(), primals[a].dtype(), stream()));
    }
    return result;
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return rule_ == static_cast<const Attention&>(other).rule_;
  }
  const char* name() const override { return "attention"; }
  ops::Work work(const Arrays& in, const Arrays& /*out*/) const override { return work_of(in, rule_, 2); }

 private:
  Rule rule_;
};

void check_heads(const char* op, const mx::array& q, const mx::array& k) {
  const int heads = q.shape(-2), shared = k.shape(-2);
  require(shared > 0 && heads % shared == 0, [&] {
    return Error::Parts{.where = op,
                        .required = "the heads of q must be a multiple of those of k",
                        .got = std::to_string(heads) + " and " + std::to_string(shared)};
  });
}

void check_scale(const char* op, float scale) {
  require(std::isfinite(scale), [&] {
    return Error::Parts{.where = op,
                        .required = "scale must be a finite number",
                        .got = std::to_string(scale),
                        .hint = "0 for 1 / sqrt(head dim)"};
  });
}

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
  ops::require_shape("attention", "k", k, {q.shape(0), k.shape(1), k.shape(2), q.shape(3)}, "{B, S, H, Dh}");
  ops::require_shape("attention", "v", v, k.shape(), "of k");
  check_heads("attention", q, k);
  check_scale("attention", options.scale);
  require(!options.causal || k.shape(1) >= q.shape(1), [&] {
    return Error::Parts{.where = "attention",
                        .required = "causal attention needs at least as many keys as queries",
                        .got = std::to_string(k.shape(1)) + " keys for " + std::to_string(q.shape(1)) + " queries",
                        .hint = ""};
  });
  if (!options.mask) return;
  const mx::array& m = *options.mask;
  require(m.dtype() == mx::bool_ || mx::issubdtype(m.dtype(), mx::floating), [&] {
    return Error::Parts{.where = "attention",
                        .required = "the mask must be bool or floating point",
                        .got = ops::to_string(m.dtype())};
  });
  const mx::Shape scores{q.shape(0), q.shape(2), q.shape(1), k.shape(1)};
  bool fits = m.ndim() <= 4;
  for (size_t i = 1; fits && i <= m.ndim(); i++) {
    const int axis = -static_cast<int>(i);
    fits = m.shape(axis) == 1 || m.shape(axis) == scores[4 - i];
  }
  require(fits, [&] {
    return Error::Parts{.where = "attention",
                        .required = "the mask must broadcast to {B, H, L, S} = " + ops::to_string(scores),
                        .got = ops::to_string(m.shape())};
  });
}

// {dtype of the kernel's operands, dtype of the result}
std::pair<mx::Dtype, mx::Dtype> dtypes(const char* op, const mx::array& q, const mx::array& k, const mx::array& v,
                                       ops::BackEnd back_end) {
  const mx::Dtype dtype = ops::compute_dtype(op, {{"q", &q}, {"k", &k}, {"v", &v}});
  const mx::Dtype result = mx::promote_types(mx::promote_types(q.dtype(), k.dtype()), v.dtype());
  const bool stored = q.dtype() == mx::bfloat16 && k.dtype() == mx::bfloat16 && v.dtype() == mx::bfloat16;
  return {stored && back_end == ops::BackEnd::kCpu ? mx::bfloat16 : dtype, result};
}

// The output of the primitive; q, k and v of one dtype that the kernel takes.
mx::array run(const Arrays& in, const Rule& rule, mx::Stream stream) {
  const mx::array& q = in[0];
  int sequences = q.shape(0), queries = q.shape(1);
  if (rule.side > 0) {
    const auto across = [&](int n) { return (n + rule.side - 1) / rule.side; };
    sequences *= across(q.shape(1)) * across(q.shape(2));
    queries = rule.side * rule.side;
  }
  const mx::Dtype arithmetic = q.dtype() == mx::float64 ? mx::float64 : mx::float32;
  return mx::array::make_arrays({q.shape(), {sequences, q.shape(-2), 2, queries}}, {q.dtype(), arithmetic},
                                std::make_shared<Attention>(stream, rule), in)[0];
}

double scale_of(float scale, const mx::array& q) {
  return scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(q.shape(-1)));
}

}  // namespace

mx::array attention(const mx::array& q, const mx::array& k, const mx::array& v, const AttentionOptions& options,
                    mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const auto back_end = ops::choose_back_end("attention", stream);
  const auto [dtype, result] = dtypes("attention", q, k, v, back_end);
  check(q, k, v, options);
  Arrays inputs{mx::astype(q, dtype, stream), mx::astype(k, dtype, stream), mx::astype(v, dtype, stream)};
  if (back_end == ops::BackEnd::kComposed) {
    return mx::astype(attention_composed(inputs[0], inputs[1], inputs[2], options, stream), result, stream);
  }
  Rule rule{.scale = scale_of(options.scale, q), .causal = options.causal};
  if (options.mask) {
    rule.mask = options.mask->dtype() == mx::bool_ ? 2 : 1;
    const auto m = rule.mask == 2
                       ? *options.mask
                       : mx::astype(*options.mask, dtype == mx::float64 ? mx::float64 : mx::float32, stream);
    inputs.push_back(mx::broadcast_to(m, {q.shape(0), q.shape(2), q.shape(1), k.shape(1)}, stream));
  }
  return mx::astype(run(inputs, rule, stream), result, stream);
}

mx::array window_attention(const mx::array& q, const mx::array& k, const mx::array& v, int side, float scale,
                           mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const char* op = "window_attention";
  const auto back_end = ops::choose_back_end(op, stream);
  const auto [dtype, result] = dtypes(op, q, k, v, back_end);
  require(q.ndim() == 5, [&] {
    return Error::Parts{
        .where = op, .required = "q must have shape {B, Y, X, H, Dh}", .got = ops::to_string(q.shape())};
  });
  require(k.ndim() == 5, [&] {
    return Error::Parts{
        .where = op, .required = "k must have shape {B, Y, X, H, Dh}", .got = ops::to_string(k.shape())};
  });
  ops::require_shape(op, "k", k, {q.shape(0), q.shape(1), q.shape(2), k.shape(3), q.shape(4)}, "{B, Y, X, H, Dh}");
  ops::require_shape(op, "v", v, k.shape(), "of k");
  check_heads(op, q, k);
  check_scale(op, scale);
  require(side >= 1 && side <= 1 << 14, [&] {
    return Error::Parts{.where = op,
                        .required = "the side of a window must be at least 1 and at most 16384",
                        .got = std::to_string(side)};
  });
  const Arrays inputs{mx::astype(q, dtype, stream), mx::astype(k, dtype, stream), mx::astype(v, dtype, stream)};
  if (back_end == ops::BackEnd::kComposed) {
    return mx::astype(window_attention_composed(inputs[0], inputs[1], inputs[2], side, scale, stream), result,
                      stream);
  }
  // A window larger than the map is the map.
  const int used = std::max(1, std::min(side, std::max(q.shape(1), q.shape(2))));
  return mx::astype(run(inputs, {.scale = scale_of(scale, q), .side = used}, stream), result, stream);
}

}  // namespace aspis
