#include "aspis/ops/ssd/ssd.h"

#include <atomic>
#include <memory>
#include <string_view>

#include "aspis/ops/common/packing.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/ssd/composed.h"
#include "aspis/ops/ssd/kernel/cpu.h"

namespace aspis {
namespace {

constexpr const char* kName = "ssd";
constexpr int64_t kDefaultChunk = 64;

// Inputs of both primitives; absent ones are placeholders. The backward one has
// what the forward pass kept and the cotangents behind them.
enum Input { kX, kDt, kA, kB, kC, kD, kZ, kBias, kInitial, kIds, kInputs };
enum BackwardInput { kStates = kInputs, kBeforeGate, kDout, kDfinal };

struct Config {
  bool softplus = false;
  double dt_min = 0, dt_max = 0;
  int64_t chunk = kDefaultChunk;
  bool recurrent = true;  // forward in registers unless the caller asks for chunks
  bool D = false, z = false, bias = false, initial = false, ids = false;
  std::shared_ptr<const std::vector<int32_t>> cu;

  bool has(int input) const {
    switch (input) {
      case kD:
        return D;
      case kZ:
        return z;
      case kBias:
        return bias;
      case kInitial:
        return initial;
      case kIds:
        return ids;
      default:
        return true;
    }
  }
};

// What the backward pass needs of the forward one. The forward primitive learns
// from its vjp, when the graph is built, that it will be needed; if it ran
// before, the backward pass runs it again.
struct Plan {
  std::atomic<bool> wanted{false}, filled{false};
};

kernel::SsdShape shape_of(const Config& c, const Arrays& in) {
  kernel::SsdShape s;
  s.batch = in[kX].shape(0), s.length = in[kX].shape(1), s.heads = in[kX].shape(2), s.headdim = in[kX].shape(3);
  s.groups = in[kB].shape(2), s.state = in[kB].shape(3);
  s.chunk = std::min(c.chunk, std::max<int64_t>(1, s.length));
  s.sequences = c.cu ? static_cast<int64_t>(c.cu->size()) - 1 : 0;
  s.recurrent = c.recurrent;
  s.ids = c.ids;
  return s;
}

mx::Shape state_shape(const kernel::SsdShape& s) {
  return {static_cast<int>(s.rows()), static_cast<int>(s.heads), static_cast<int>(s.headdim),
          static_cast<int>(s.state)};
}

template <typename T>
kernel::SsdRows<const T> rows_of(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* name) {
  const auto r = ops::strided<T>(encoder, a, name);
  return {r.data, r[0], r[1], r[2]};
}

template <typename T>
T* scratch(mx::cpu::CommandEncoder& encoder, int64_t values, const char* name) {
  return static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), name));
}

template <typename T>
kernel::SsdParams<T> params_of(mx::cpu::CommandEncoder& encoder, const Config& c, const Arrays& in,
                               const char* name) {
  kernel::SsdParams<T> p;
  p.shape = shape_of(c, in);
  p.softplus = c.softplus;
  p.dt_min = static_cast<T>(c.dt_min), p.dt_max = static_cast<T>(c.dt_max);
  p.x = rows_of<T>(encoder, in[kX], name);
  p.B = rows_of<T>(encoder, in[kB], name);
  p.C = rows_of<T>(encoder, in[kC], name);
  p.dt = ops::packed<T>(encoder, in[kDt], name);
  p.A = ops::packed<T>(encoder, in[kA], name);
  if (c.D) {
    p.D = ops::packed<T>(encoder, in[kD], name);
    p.channel_D = in[kD].ndim() == 2;
  }
  if (c.z) p.z = rows_of<T>(encoder, in[kZ], name);
  if (c.bias) p.dt_bias = ops::packed<T>(encoder, in[kBias], name);
  if (c.initial) p.initial_state = ops::packed<T>(encoder, in[kInitial], name);
  if (c.ids) p.seq_idx = ops::packed<int32_t>(encoder, in[kIds], name);
  if (c.cu) p.cu_seqlens = c.cu->data();
  return p;
}

// Gradients of the inputs that are there and have one, in their order.
class SsdVjp : public ops::CpuPrimitive {
 public:
  SsdVjp(mx::Stream stream, const Config& config, std::shared_ptr<Plan> plan)
      : CpuPrimitive(stream), config_(config), plan_(std::move(plan)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::SsdVjpParams<T> q;
      q.in = params_of<T>(encoder, config_, in, name());
      const kernel::SsdShape s = q.in.shape;
      const bool again = !plan_->filled;
      if (again) {
        q.in.states = scratch<T>(encoder, s.slots() * s.heads * s.state_size(), name());
        q.in.before_gate = scratch<T>(encoder, s.tokens() * s.heads * s.headdim, name());
        q.in.out = scratch<T>(encoder, s.tokens() * s.heads * s.headdim, name());
        q.in.workspace = scratch<T>(encoder, kernel::ssd_workspace(s), name());
      } else {
        q.in.states = const_cast<T*>(in[kStates].data<T>());
        q.in.before_gate = const_cast<T*>(in[kBeforeGate].data<T>());
      }
      q.dout = ops::packed<T>(encoder, in[kDout], name());
      q.dfinal_state = ops::packed<T>(encoder, in[kDfinal], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      size_t i = 0;
      q.dx = out[i++].data<T>();
      q.ddt = out[i++].data<T>();
      q.dA = out[i++].data<T>();
      q.dB = out[i++].data<T>();
      q.dC = out[i++].data<T>();
      if (config_.D) q.dD = out[i++].data<T>();
      if (config_.z) q.dz = out[i++].data<T>();
      if (config_.bias) q.ddt_bias = out[i++].data<T>();
      if (config_.initial) q.dinitial_state = out[i++].data<T>();
      q.workspace = scratch<T>(encoder, kernel::ssd_vjp_workspace(s), name());
      encoder.dispatch([q, again, cu = config_.cu] {
        if (again) kernel::ssd(q.in);
        kernel::ssd_vjp(q);
      });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (int i = kX; i <= kInitial; i++) {
      if (config_.has(i)) shapes.push_back(in[i].shape());
    }
    return shapes;
  }
  const char* name() const override { return "ssd_vjp"; }

 private:
  const Config config_;
  const std::shared_ptr<Plan> plan_;
};

// Outputs: out, final_state, and for the backward pass alone the states before
// each chunk and the output before the gate.
class Ssd : public ops::CpuPrimitive {
 public:
  Ssd(mx::Stream stream, const Config& config)
      : CpuPrimitive(stream), config_(config), plan_(std::make_shared<Plan>()) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params_of<T>(encoder, config_, in, name());
      ops::allocate(encoder, out[0], name());
      ops::allocate(encoder, out[1], name());
      p.out = out[0].data<T>();
      p.final_state = out[1].data<T>();
      const auto keep = [&](mx::array& a, bool wanted) -> T* {
        if (wanted) {
          ops::allocate(encoder, a, name());
          return a.data<T>();
        }
        // Nobody reads it: a stub keeps the engine's bookkeeping whole.
        a.set_data(mx::allocator::malloc(sizeof(T)));
        return nullptr;
      };
      const bool wanted = plan_->wanted;
      p.states = keep(out[2], wanted);
      p.before_gate = keep(out[3], wanted && config_.z);
      plan_->filled = wanted;
      p.workspace = scratch<T>(encoder, kernel::ssd_workspace(p.shape), name());
      encoder.dispatch([p, cu = config_.cu] { kernel::ssd(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    plan_->wanted = true;
    Arrays inputs = primals;
    for (const auto& a : {outputs[2], outputs[3], cotangents[0], cotangents[1]}) inputs.push_back(a);
    const auto primitive = std::make_shared<SsdVjp>(stream(), config_, plan_);
    const auto shapes = primitive->output_shapes(inputs);
    const std::vector<mx::Dtype> dtypes(shapes.size(), primals[kX].dtype());
    const Arrays gradients = mx::array::make_arrays(shapes, dtypes, primitive, inputs);
    Arrays result;
    for (const int wanted : argnums) {
      if (wanted == kIds || !config_.has(wanted)) {
        result.push_back(mx::zeros_like(primals[wanted], stream()));
        continue;
      }
      size_t place = 0;
      for (int i = kX; i < wanted; i++) place += config_.has(i);
      result.push_back(gradients[place]);
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const kernel::SsdShape s = shape_of(config_, in);
    return {in[kX].shape(),
            state_shape(s),
            {static_cast<int>(s.slots()), static_cast<int>(s.heads), static_cast<int>(s.state),
             static_cast<int>(s.headdim)},
            in[kX].shape()};
  }
  const char* name() const override { return kName; }
  ops::Work work(const Arrays& in, const Arrays& out) const override {
    // Per channel and token: N for the outer product with B, N for the product with C.
    const double macs = 2 * static_cast<double>(out[0].size()) * static_cast<double>(shape_of(config_, in).state);
    return {.macs = macs, .exps = static_cast<double>(out[0].size()), .scan_macs = macs};
  }

 private:
  const Config config_;
  const std::shared_ptr<Plan> plan_;
};

class SsdStep : public ops::CpuPrimitive {
 public:
  SsdStep(mx::Stream stream, const Config& config) : CpuPrimitive(stream), config_(config) {}

  // Inputs as above without the axis of tokens, the state in kInitial.
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto get = [&](int i) { return ops::packed<T>(encoder, in[i], name()); };
      kernel::SsdStepParams<T> p;
      p.batch = in[kX].shape(0), p.heads = in[kX].shape(1), p.headdim = in[kX].shape(2);
      p.groups = in[kB].shape(1), p.state_size = in[kB].shape(2);
      p.softplus = config_.softplus;
      p.dt_min = static_cast<T>(config_.dt_min), p.dt_max = static_cast<T>(config_.dt_max);
      p.x = get(kX), p.dt = get(kDt), p.A = get(kA), p.B = get(kB), p.C = get(kC), p.state = get(kInitial);
      if (config_.D) {
        p.D = get(kD);
        p.channel_D = in[kD].ndim() == 2;
      }
      if (config_.z) p.z = get(kZ);
      if (config_.bias) p.dt_bias = get(kBias);
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.out = out[0].data<T>();
      p.next_state = out[1].data<T>();
      encoder.dispatch([p] { kernel::ssd_step(p); });
    });
  }

  // By the whole operator over one token.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto token = [&](const mx::array& a) { return mx::expand_dims(a, 1, stream()); };
    Arrays whole = primals;
    for (const int i : {kX, kDt, kB, kC}) whole[i] = token(primals[i]);
    if (config_.z) whole[kZ] = token(primals[kZ]);
    const auto forward = std::make_shared<Ssd>(stream(), config_);
    const std::vector<mx::Dtype> dtypes(4, primals[kX].dtype());
    const Arrays outputs = mx::array::make_arrays(forward->output_shapes(whole), dtypes, forward, whole);
    Arrays gradients = forward->vjp(whole, {token(cotangents[0]), cotangents[1]}, argnums, outputs);
    for (size_t i = 0; i < argnums.size(); i++)
      gradients[i] = mx::reshape(gradients[i], primals[argnums[i]].shape(), stream());
    return gradients;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[kX].shape(), in[kInitial].shape()};
  }
  const char* name() const override { return "ssd_step"; }

 private:
  const Config config_;
};

[[noreturn]] void refuse(const char* op, std::string required, std::string got, std::string hint = {}) {
  throw Error(ErrorKind::kUsage,
              {.where = op, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
}

// B or C with its axis of groups; `rows` are the axes before it.
mx::array with_groups(const char* op, const char* name, const mx::array& m, const mx::Shape& rows, int heads,
                      mx::Stream stream) {
  const size_t outer = rows.size();
  const bool leads = m.ndim() >= outer && std::equal(rows.begin(), rows.end(), m.shape().begin());
  if (!leads || (m.ndim() != outer + 1 && m.ndim() != outer + 2)) {
    refuse(
        op,
        std::string(name) +
            (outer == 2 ? " must have shape {B, L, N} or {B, L, G, N}" : " must have shape {B, N} or {B, G, N}") +
            " with " + ops::to_string(rows) + " in front",
        ops::to_string(m.shape()));
  }
  if (m.shape(-1) < 1) refuse(op, std::string("the state size N of ") + name + " must be at least 1", "0");
  if (m.ndim() == outer + 1) return mx::expand_dims(m, static_cast<int>(outer), stream);
  const int groups = m.shape(static_cast<int>(outer));
  if (groups < 1 || heads % groups != 0) {
    refuse(op, std::string("the groups of ") + name + " must divide H = " + std::to_string(heads),
           std::to_string(groups));
  }
  return m;
}

// Sizes that prefill and step share; `rows` are the axes before the heads.
void check_sizes(const char* op, const mx::array& x, const mx::array& dt, const mx::array& A, size_t outer,
                 const SsdOptions& o) {
  const char* letters = outer == 2 ? "{B, L, H, P}" : "{B, H, P}";
  if (x.ndim() != outer + 2) refuse(op, std::string("x must have shape ") + letters, ops::to_string(x.shape()));
  const int heads = x.shape(-2), headdim = x.shape(-1);
  if (heads < 1 || headdim < 1) refuse(op, "x needs at least one head and one channel", ops::to_string(x.shape()));
  mx::Shape steps = x.shape();
  steps.pop_back();
  ops::require_shape(op, "dt", dt, steps, outer == 2 ? "{B, L, H}" : "{B, H}");
  ops::require_shape(op, "A", A, {heads}, "{H}");
  if (o.D && o.D->ndim() == 2) {
    ops::require_shape(op, "D", *o.D, {heads, headdim}, "{H, P}");
  } else if (o.D) {
    ops::require_shape(op, "D", *o.D, {heads}, "{H}");
  }
  if (o.dt_bias) ops::require_shape(op, "dt_bias", *o.dt_bias, {heads}, "{H}");
  if (o.z) ops::require_shape(op, "z", *o.z, x.shape(), letters);
  if (!(o.dt_limit.first >= 0 && o.dt_limit.first <= o.dt_limit.second)) {
    refuse(op, "dt_limit must be two numbers, 0 <= low <= high",
           std::to_string(o.dt_limit.first) + " and " + std::to_string(o.dt_limit.second));
  }
  if (o.chunk_size < 0) refuse(op, "chunk_size must be positive, or 0 to choose", std::to_string(o.chunk_size));
}

mx::Dtype dtype_of(const char* op, const mx::array& x, const mx::array& dt, const mx::array& A, const mx::array& B,
                   const mx::array& C, const SsdOptions& o) {
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  return ops::compute_dtype(
      op, {{"x", &x},
           {"dt", &dt},
           {"A", &A},
           {"B", &B},
           {"C", &C},
           {"D", pointer(o.D)},
           {"z", pointer(o.z)},
           {"dt_bias", pointer(o.dt_bias)},
           {op == std::string_view(kName) ? "initial_state" : "state", pointer(o.initial_state)}});
}

SsdOptions widened(SsdOptions o, mx::Dtype dtype, mx::Stream stream) {
  for (auto* a : {&o.D, &o.z, &o.dt_bias, &o.initial_state}) {
    if (*a) *a = mx::astype(**a, dtype, stream);
  }
  return o;
}

Config config_of(const SsdOptions& o) {
  Config c;
  c.softplus = o.dt_softplus;
  c.dt_min = o.dt_limit.first, c.dt_max = o.dt_limit.second;
  if (o.chunk_size > 0) c.chunk = o.chunk_size, c.recurrent = false;
  c.D = o.D.has_value(), c.z = o.z.has_value(), c.bias = o.dt_bias.has_value();
  c.initial = o.initial_state.has_value(), c.ids = o.seq_idx.has_value();
  if (!o.cu_seqlens.empty()) c.cu = std::make_shared<const std::vector<int32_t>>(o.cu_seqlens);
  return c;
}

Arrays inputs_of(const mx::array& x, const mx::array& dt, const mx::array& A, const mx::array& B,
                 const mx::array& C, const SsdOptions& o) {
  const auto or_absent = [](const std::optional<mx::array>& a) { return a.value_or(ops::absent()); };
  return {x,
          dt,
          A,
          B,
          C,
          or_absent(o.D),
          or_absent(o.z),
          or_absent(o.dt_bias),
          or_absent(o.initial_state),
          or_absent(o.seq_idx)};
}

std::pair<mx::array, mx::array> run(const mx::array& x, const mx::array& dt, const mx::array& A,
                                    const mx::array& B, const mx::array& C, const SsdOptions& options,
                                    mx::Stream stream) {
  check_sizes(kName, x, dt, A, 2, options);
  const int batch = x.shape(0), length = x.shape(1), heads = x.shape(2), headdim = x.shape(3);
  const auto wide_B = with_groups(kName, "B", B, {batch, length}, heads, stream);
  const auto wide_C = with_groups(kName, "C", C, {batch, length}, heads, stream);
  ops::require_shape(kName, "C", wide_C, wide_B.shape(), "that of B");
  int rows = batch;
  if (!options.cu_seqlens.empty()) {
    ops::require_cu_seqlens(kName, options.cu_seqlens, batch, length);
    if (options.seq_idx) refuse(kName, "only one of cu_seqlens and seq_idx may be given", "both");
    rows = static_cast<int>(options.cu_seqlens.size()) - 1;
  }
  if (options.seq_idx) ops::require_seq_idx(kName, *options.seq_idx, batch, length);
  if (options.initial_state) {
    ops::require_shape(kName, "initial_state", *options.initial_state, {rows, heads, headdim, wide_B.shape(3)},
                       options.cu_seqlens.empty() ? "{B, H, P, N}" : "{sequences, H, P, N}");
  }
  const mx::Dtype dtype = dtype_of(kName, x, dt, A, B, C, options);
  const SsdOptions o = widened(options, dtype, stream);
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, stream); };
  // Without tokens there is nothing to compute and the state passes through.
  if (x.size() == 0 || ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    auto [out, last] = ssd_composed(wide(x), wide(dt), wide(A), wide(wide_B), wide(wide_C), o, stream);
    return {mx::astype(out, x.dtype(), stream), last};
  }
  const Arrays inputs = inputs_of(wide(x), wide(dt), wide(A), wide(wide_B), wide(wide_C), o);
  const auto primitive = std::make_shared<Ssd>(stream, config_of(o));
  const Arrays outputs =
      mx::array::make_arrays(primitive->output_shapes(inputs), {dtype, dtype, dtype, dtype}, primitive, inputs);
  return {mx::astype(outputs[0], x.dtype(), stream), outputs[1]};
}

}  // namespace

mx::array ssd(const mx::array& x, const mx::array& dt, const mx::array& A, const mx::array& B, const mx::array& C,
              const SsdOptions& options, mx::StreamOrDevice s) {
  return run(x, dt, A, B, C, options, mx::to_stream(s)).first;
}

std::pair<mx::array, mx::array> ssd_with_state(const mx::array& x, const mx::array& dt, const mx::array& A,
                                               const mx::array& B, const mx::array& C, const SsdOptions& options,
                                               mx::StreamOrDevice s) {
  return run(x, dt, A, B, C, options, mx::to_stream(s));
}

std::pair<mx::array, mx::array> ssd_step(const mx::array& state, const mx::array& x, const mx::array& dt,
                                         const mx::array& A, const mx::array& B, const mx::array& C,
                                         const SsdOptions& options, mx::StreamOrDevice s) {
  constexpr const char* kStep = "ssd_step";
  const auto stream = mx::to_stream(s);
  check_sizes(kStep, x, dt, A, 1, options);
  const int batch = x.shape(0), heads = x.shape(1), headdim = x.shape(2);
  const auto wide_B = with_groups(kStep, "B", B, {batch}, heads, stream);
  const auto wide_C = with_groups(kStep, "C", C, {batch}, heads, stream);
  ops::require_shape(kStep, "C", wide_C, wide_B.shape(), "that of B");
  ops::require_shape(kStep, "state", state, {batch, heads, headdim, wide_B.shape(2)}, "{B, H, P, N}");
  if (options.initial_state || options.seq_idx || !options.cu_seqlens.empty()) {
    refuse(kStep, "only D, z, dt_bias, dt_softplus and dt_limit apply to a step",
           "initial_state, seq_idx or cu_seqlens", "pass the state as the first argument");
  }
  SsdOptions o = options;
  o.initial_state = state;
  const mx::Dtype dtype = dtype_of(kStep, x, dt, A, B, C, o);
  o = widened(o, dtype, stream);
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, stream); };
  if (x.size() == 0 || ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    const auto token = [&](const mx::array& a) { return mx::expand_dims(wide(a), 1, stream); };
    if (o.z) o.z = mx::expand_dims(*o.z, 1, stream);
    auto [out, last] = ssd_composed(token(x), token(dt), wide(A), token(wide_B), token(wide_C), o, stream);
    return {mx::astype(mx::squeeze(out, 1, stream), x.dtype(), stream), last};
  }
  const Arrays inputs = inputs_of(wide(x), wide(dt), wide(A), wide(wide_B), wide(wide_C), o);
  const auto primitive = std::make_shared<SsdStep>(stream, config_of(o));
  const Arrays outputs =
      mx::array::make_arrays(primitive->output_shapes(inputs), {dtype, dtype}, primitive, inputs);
  return {mx::astype(outputs[0], x.dtype(), stream), outputs[1]};
}

}  // namespace aspis
