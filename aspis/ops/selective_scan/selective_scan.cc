#include "aspis/ops/selective_scan/selective_scan.h"

#include <atomic>
#include <memory>
#include <string_view>

#include "aspis/base/parallel.h"
#include "aspis/ops/common/packing.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/selective_scan/composed.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"
#include "aspis/ops/selective_scan/kernel/plan.h"
#include "aspis/ops/selective_scan/pairs.h"

namespace aspis {
namespace {

constexpr const char* kName = "selective_scan";
constexpr const char* kStep = "selective_scan_step";

// Inputs of both primitives; absent ones are placeholders. The backward one has
// the checkpoints and the cotangents behind them.
enum Input { kU, kDelta, kA, kB, kC, kD, kZ, kBias, kInitial, kOrder, kInputs };
enum BackwardInput { kCheckpoints = kInputs, kDout, kDlast };

struct Config {
  bool softplus = false, reverse = false;
  bool pairs = false;  // complex numbers, as in pairs.h
  bool D = false, z = false, bias = false, initial = false, order = false;
  std::shared_ptr<const kernel::ScanPlan> plan;  // null: every row is one sequence

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
      case kOrder:
        return order;
      default:
        return true;
    }
  }
};

// States every few tokens, for the backward pass. The forward primitive learns
// from its vjp, at graph-building time, that they will be needed; an inference
// pass neither computes nor stores them. If it ran before anyone asked for a
// gradient, the backward pass makes them itself.
struct CheckpointPlan {
  std::atomic<bool> wanted{false}, filled{false};
};

kernel::ScanShape shape_of(const Arrays& in) {
  kernel::ScanShape s;
  s.batch = in[kU].shape(0), s.length = in[kU].shape(1), s.channels = in[kU].shape(2);
  s.state = in[kA].shape(1);
  s.groups = 1;
  for (const int i : {kB, kC}) {
    if (in[i].ndim() == 4) s.groups = in[i].shape(2);
  }
  s.unit = kernel::scan_unit(s, planned_cores());
  return s;
}

int64_t checkpoint_slots(const Config& config, const kernel::ScanShape& s) {
  return config.plan ? config.plan->slots : s.batch * s.segments();
}

mx::Shape checkpoint_shape(const Config& config, const kernel::ScanShape& s) {
  return {static_cast<int>(checkpoint_slots(config, s)), static_cast<int>(s.panels()),
          static_cast<int>(s.panel_size())};
}

template <typename T>
kernel::ScanRows<const T> rows_of(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* name) {
  const auto r = ops::strided<T>(encoder, a, name);
  return {r.data, r[0], r[1]};
}

template <typename T>
kernel::ScanRows<T> dense_rows(mx::array& a) {
  return {a.data<T>(), int64_t{a.shape(1)} * a.shape(2), a.shape(2)};
}

template <typename T>
kernel::ScanMatrix<const T> matrix_of(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* name) {
  kernel::ScanMatrix<const T> m;
  if (a.ndim() == 2) {
    m.data = ops::packed<T>(encoder, a, name);
    m.constant = true;
    return m;
  }
  const auto r = ops::strided<T>(encoder, a, name);
  m.data = r.data, m.batch = r[0], m.token = r[1], m.group = r[2];
  return m;
}

template <typename T>
kernel::ScanParams<T> params_of(mx::cpu::CommandEncoder& encoder, const Config& config, const Arrays& in,
                                const char* name) {
  kernel::ScanParams<T> p;
  p.shape = shape_of(in);
  p.plan = config.plan.get();
  p.softplus = config.softplus, p.reverse = config.reverse, p.pairs = config.pairs;
  p.u = rows_of<T>(encoder, in[kU], name);
  p.delta = rows_of<T>(encoder, in[kDelta], name);
  p.A = ops::packed<T>(encoder, in[kA], name);
  p.B = matrix_of<T>(encoder, in[kB], name);
  p.C = matrix_of<T>(encoder, in[kC], name);
  if (config.D) p.D = ops::packed<T>(encoder, in[kD], name);
  if (config.z) p.z = rows_of<T>(encoder, in[kZ], name);
  if (config.bias) p.delta_bias = ops::packed<T>(encoder, in[kBias], name);
  if (config.initial) p.initial_state = ops::packed<T>(encoder, in[kInitial], name);
  if (config.order) p.order = ops::packed<int32_t>(encoder, in[kOrder], name);
  return p;
}

// Gradients of the inputs that are there and have one, in their order.
class SelectiveScanVjp : public ops::CpuPrimitive {
 public:
  SelectiveScanVjp(mx::Stream stream, const Config& config, std::shared_ptr<CheckpointPlan> plan)
      : CpuPrimitive(stream), config_(config), plan_(std::move(plan)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::ScanVjpParams<T> q;
      q.in = params_of<T>(encoder, config_, in, name());
      q.recompute = !plan_->filled;
      if (q.recompute) {
        const auto& shape = q.in.shape;
        const auto bytes =
            static_cast<size_t>(checkpoint_slots(config_, shape) * shape.panels() * shape.panel_size()) *
            sizeof(T);
        q.in.checkpoints = static_cast<T*>(ops::allocate_scratch(encoder, bytes, name()));
      } else {
        q.in.checkpoints = const_cast<T*>(in[kCheckpoints].data<T>());
      }
      q.dout = rows_of<T>(encoder, in[kDout], name());
      q.dlast_state = ops::packed<T>(encoder, in[kDlast], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      size_t i = 0;
      q.du = dense_rows<T>(out[i++]);
      q.ddelta = dense_rows<T>(out[i++]);
      q.dA = out[i++].data<T>();
      q.dB = out[i++].data<T>();
      q.dC = out[i++].data<T>();
      if (config_.D) q.dD = out[i++].data<T>();
      if (config_.z) q.dz = dense_rows<T>(out[i++]);
      if (config_.bias) q.ddelta_bias = out[i++].data<T>();
      if (config_.initial) q.dinitial_state = out[i++].data<T>();
      const int64_t parts = config_.plan ? config_.plan->part_count() : q.in.shape.batch;
      const int64_t work = kernel::scan_vjp_workspace(q.in.shape, parts, q.in.B.constant, q.in.C.constant);
      q.workspace = static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(work) * sizeof(T), name()));
      encoder.dispatch([q, plan = config_.plan] { kernel::scan_vjp(q); });
    });
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (int i = kU; i <= kInitial; i++) {
      if (config_.has(i)) shapes.push_back(in[i].shape());
    }
    return shapes;
  }
  const char* name() const override { return "selective_scan_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // As in selective_scan_cases.cc: 19 operations a state and 25 a channel, and the
    // exponentials of the forward pass once more.
    const double tokens = static_cast<double>(in[kU].size()), states = in[kA].shape(1);
    const double macs = tokens * (9.5 * states + 12.5);
    return {.macs = macs, .exps = tokens * (states + 3), .scan_macs = macs};
  }

 private:
  const Config config_;
  const std::shared_ptr<CheckpointPlan> plan_;
};

// Outputs: out, last_state, and the checkpoints, which only the backward pass sees.
class SelectiveScan : public ops::CpuPrimitive {
 public:
  SelectiveScan(mx::Stream stream, const Config& config)
      : CpuPrimitive(stream), config_(config), plan_(std::make_shared<CheckpointPlan>()) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params_of<T>(encoder, config_, in, name());
      ops::allocate(encoder, out[0], name());
      ops::allocate(encoder, out[1], name());
      p.out = dense_rows<T>(out[0]);
      p.last_state = out[1].data<T>();
      if (plan_->wanted) {
        ops::allocate(encoder, out[2], name());
        p.checkpoints = out[2].data<T>();
        plan_->filled = true;
      } else {
        // Nobody reads it: a stub keeps the engine's bookkeeping whole.
        out[2].set_data(mx::allocator::malloc(sizeof(T)));
      }
      encoder.dispatch([p, plan = config_.plan] { kernel::scan(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    plan_->wanted = true;
    Arrays inputs = primals;
    inputs.push_back(outputs[2]);
    inputs.push_back(cotangents[0]);
    inputs.push_back(cotangents[1]);
    const auto primitive = std::make_shared<SelectiveScanVjp>(stream(), config_, plan_);
    const auto shapes = primitive->output_shapes(inputs);
    const std::vector<mx::Dtype> dtypes(shapes.size(), primals[kU].dtype());
    const Arrays gradients = mx::array::make_arrays(shapes, dtypes, primitive, inputs);
    Arrays result;
    for (const int wanted : argnums) {
      if (wanted == kOrder || !config_.has(wanted)) {
        result.push_back(mx::zeros_like(primals[wanted], stream()));
        continue;
      }
      size_t place = 0;
      for (int i = kU; i < wanted; i++) place += config_.has(i);
      result.push_back(gradients[place]);
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    const int states = config_.plan ? static_cast<int>(config_.plan->states) : in[kU].shape(0);
    return {in[kU].shape(), {states, in[kU].shape(2), in[kA].shape(1)}, checkpoint_shape(config_, shape_of(in))};
  }
  const char* name() const override { return kName; }
  ops::Work work(const Arrays& in, const Arrays& /*out*/) const override {
    // Per channel and token: N exponentials and 3 N multiply-adds (dt A and dt u B
    // half of one each; a x + b; C x), one for D u, three for softplus and gate.
    const double tokens = static_cast<double>(in[kU].size()), states = in[kA].shape(1);
    const double macs = tokens * (3 * states + 1);
    return {.macs = macs, .exps = tokens * (states + 3), .scan_macs = macs};
  }

 private:
  const Config config_;
  const std::shared_ptr<CheckpointPlan> plan_;
};

class SelectiveScanStep : public ops::CpuPrimitive {
 public:
  SelectiveScanStep(mx::Stream stream, const Config& config, int groups)
      : CpuPrimitive(stream), config_(config), groups_(groups) {}

  // Inputs as above with the state in kInitial.
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto get = [&](int i) { return ops::packed<T>(encoder, in[i], name()); };
      kernel::ScanStepParams<T> p;
      p.batch = in[kU].shape(0), p.channels = in[kU].shape(1), p.state_size = in[kA].shape(1);
      p.groups = groups_;
      p.softplus = config_.softplus, p.pairs = config_.pairs;
      p.state = get(kInitial), p.u = get(kU), p.delta = get(kDelta), p.A = get(kA), p.B = get(kB), p.C = get(kC);
      p.constant_B = in[kB].ndim() == 2, p.constant_C = in[kC].ndim() == 2;
      if (config_.D) p.D = get(kD);
      if (config_.z) p.z = get(kZ);
      if (config_.bias) p.delta_bias = get(kBias);
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.out = out[0].data<T>();
      p.next_state = out[1].data<T>();
      encoder.dispatch([p] { kernel::scan_step(p); });
    });
  }

  // By the whole operator over one token.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto token = [&](const mx::array& a) { return mx::expand_dims(a, 1, stream()); };
    Arrays whole = primals;
    for (const int i : {kU, kDelta}) whole[i] = token(primals[i]);
    for (const int i : {kB, kC}) {
      if (primals[i].ndim() == 3) whole[i] = token(primals[i]);  // constant ones have no tokens
    }
    if (config_.z) whole[kZ] = token(primals[kZ]);
    const auto forward = std::make_shared<SelectiveScan>(stream(), config_);
    const std::vector<mx::Dtype> dtypes(3, primals[kU].dtype());
    const Arrays outputs = mx::array::make_arrays(forward->output_shapes(whole), dtypes, forward, whole);
    Arrays gradients = forward->vjp(whole, {token(cotangents[0]), cotangents[1]}, argnums, outputs);
    for (size_t i = 0; i < argnums.size(); i++)
      gradients[i] = mx::reshape(gradients[i], primals[argnums[i]].shape(), stream());
    return gradients;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    return {in[kU].shape(), in[kInitial].shape()};
  }
  const char* name() const override { return "selective_scan_step"; }

 private:
  const Config config_;
  const int groups_;
};

[[noreturn]] void refuse(const char* op, std::string required, std::string got, std::string hint = {}) {
  throw Error(ErrorKind::kUsage,
              {.where = op, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
}

// B or C as {B, L, G, N} or {D, N}; `rows` are the axes before the groups.
mx::array normal_matrix(const char* op, const char* name, const mx::array& m, const mx::Shape& rows, int channels,
                        int state, mx::Stream stream) {
  const auto outer = static_cast<int>(rows.size());
  const bool constant = m.ndim() == 2 && m.shape() == mx::Shape{channels, state} &&
                        !(outer == 1 && m.shape(0) == rows[0] && channels != rows[0]);
  mx::Shape plain = rows;
  plain.push_back(state);
  // A step of a batch as large as the channels: {B, N} and {D, N} look alike; per-token wins.
  if (m.shape() == plain) return mx::expand_dims(m, outer, stream);
  if (constant) return m;
  const bool fits = static_cast<int>(m.ndim()) == outer + 2 &&
                    std::equal(rows.begin(), rows.end(), m.shape().begin()) && m.shape(outer + 1) == state &&
                    m.shape(outer) >= 1;
  if (!fits) {
    refuse(op,
           std::string(name) +
               (outer == 2 ? " must have shape {B, L, N}, {B, L, G, N} or {D, N} = "
                           : " must have shape {B, N}, {B, G, N} or {D, N} = ") +
               ops::to_string(plain) + ", with groups, or " + ops::to_string({channels, state}),
           ops::to_string(m.shape()));
  }
  if (channels % m.shape(outer) != 0) {
    refuse(op, std::string("the groups of ") + name + " must divide D = " + std::to_string(channels),
           std::to_string(m.shape(outer)));
  }
  return m;
}

int groups_of(const char* op, const mx::array& B, const mx::array& C, int axis) {
  int groups = 1;
  bool known = false;
  for (const mx::array* m : {&B, &C}) {
    if (m->ndim() == 2) continue;
    if (known && m->shape(axis) != groups) {
      refuse(op, "B and C must have the same number of groups",
             std::to_string(groups) + " and " + std::to_string(m->shape(axis)));
    }
    groups = m->shape(axis);
    known = true;
  }
  return groups;
}

void check_order(const mx::array& order, int length, mx::Stream stream) {
  ops::require_shape(kName, "order", order, {length}, "{L}");
  if (!mx::issubdtype(order.dtype(), mx::integer))
    refuse(kName, "order must hold integers", ops::to_string(order.dtype()));
  // Values are looked at only where that costs no evaluation.
  const mx::array dense = mx::astype(order, mx::int32, stream);
  if (!dense.is_available() || !dense.flags().row_contiguous) return;
  std::vector<bool> seen(length, false);
  for (int i = 0; i < length; i++) {
    const int t = dense.data<int32_t>()[i];
    if (t < 0 || t >= length || seen[t]) {
      refuse(kName, "order must hold each of 0 .. L-1 = " + std::to_string(length - 1) + " once",
             std::to_string(t) + " at place " + std::to_string(i));
    }
    seen[t] = true;
  }
}

void check_sizes(const char* op, const mx::array& u, const mx::array& delta, const mx::array& A, int ndim,
                 const ScanOptions& o, bool pairs) {
  const char* letters = ndim == 3 ? "{B, L, D}" : "{B, D}";
  if (static_cast<int>(u.ndim()) != ndim)
    refuse(op, std::string("u must have shape ") + letters, ops::to_string(u.shape()));
  ops::require_shape(op, "delta", delta, u.shape(), letters);
  const int channels = u.shape(-1);
  if (A.ndim() != 2 || A.shape(0) != channels) {
    refuse(op, "A must have shape {D, N} with D = " + std::to_string(channels), ops::to_string(A.shape()));
  }
  const int state = pairs ? A.shape(1) / 2 : A.shape(1);
  if (state < 1 || state > kernel::kScanMaxState) {
    refuse(op, "the state size N of A must be 1 to 256", std::to_string(state));
  }
  if (o.D) ops::require_shape(op, "D", *o.D, {channels}, "{D}");
  if (o.delta_bias) ops::require_shape(op, "delta_bias", *o.delta_bias, {channels}, "{D}");
  if (o.z) ops::require_shape(op, "z", *o.z, u.shape(), letters);
}

mx::Dtype dtype_of(const char* op, const mx::array& u, const mx::array& delta, const mx::array& A,
                   const mx::array& B, const mx::array& C, const ScanOptions& o) {
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  return ops::compute_dtype(
      op, {{"u", &u},
           {"delta", &delta},
           {"A", &A},
           {"B", &B},
           {"C", &C},
           {"D", pointer(o.D)},
           {"z", pointer(o.z)},
           {"delta_bias", pointer(o.delta_bias)},
           {op == std::string_view(kName) ? "initial_state" : "state", pointer(o.initial_state)}});
}

// Every optional array in the dtype of the computation.
ScanOptions widened(ScanOptions o, mx::Dtype dtype, mx::Stream stream) {
  for (auto* a : {&o.D, &o.z, &o.delta_bias, &o.initial_state}) {
    if (*a) *a = mx::astype(**a, dtype, stream);
  }
  if (o.order) o.order = mx::astype(*o.order, mx::int32, stream);
  return o;
}

Config config_of(const ScanOptions& o) {
  Config c;
  c.softplus = o.delta_softplus, c.reverse = o.reverse;
  c.D = o.D.has_value(), c.z = o.z.has_value(), c.bias = o.delta_bias.has_value();
  c.initial = o.initial_state.has_value(), c.order = o.order.has_value();
  return c;
}

// How the tokens form sequences and are shared out; null for plain rows.
std::shared_ptr<const kernel::ScanPlan> plan_of(const kernel::ScanShape& shape, const ScanOptions& o, bool pairs,
                                                mx::Stream stream) {
  if (!o.cu_seqlens.empty()) {
    return std::make_shared<const kernel::ScanPlan>(kernel::packed_plan(o.cu_seqlens));
  }
  if (o.seq_idx) {
    mx::array ids = mx::contiguous(*o.seq_idx, false, stream);
    ids.eval();
    return std::make_shared<const kernel::ScanPlan>(kernel::packed_plan(shape, ids.data<int32_t>(), o.reverse));
  }
  const int64_t chunks = pairs ? 1 : kernel::scan_chunks(shape, planned_cores());
  if (chunks == 1) return nullptr;
  return std::make_shared<const kernel::ScanPlan>(kernel::chained_plan(shape, chunks));
}

Arrays inputs_of(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                 const mx::array& C, const ScanOptions& o) {
  const auto or_absent = [](const std::optional<mx::array>& a) { return a.value_or(ops::absent()); };
  return {u,
          delta,
          A,
          B,
          C,
          or_absent(o.D),
          or_absent(o.z),
          or_absent(o.delta_bias),
          or_absent(o.initial_state),
          or_absent(o.order)};
}

std::pair<mx::array, mx::array> run(const mx::array& u, const mx::array& delta, const mx::array& A,
                                    const mx::array& B, const mx::array& C, const ScanOptions& options, bool pairs,
                                    mx::Stream stream) {
  check_sizes(kName, u, delta, A, 3, options, pairs);
  const int batch = u.shape(0), length = u.shape(1), channels = u.shape(2), state = A.shape(1);
  const auto wide_B = normal_matrix(kName, "B", B, {batch, length}, channels, state, stream);
  const auto wide_C = normal_matrix(kName, "C", C, {batch, length}, channels, state, stream);
  groups_of(kName, wide_B, wide_C, 2);
  int sequences = batch;
  if (!options.cu_seqlens.empty()) {
    ops::require_cu_seqlens(kName, options.cu_seqlens, batch, length);
    if (options.seq_idx) refuse(kName, "only one of cu_seqlens and seq_idx may be given", "both");
    sequences = static_cast<int>(options.cu_seqlens.size()) - 1;
  }
  if (options.seq_idx) ops::require_seq_idx(kName, *options.seq_idx, batch, length);
  if (options.order && (options.seq_idx || !options.cu_seqlens.empty())) {
    refuse(kName, "packed sequences are visited in the order of their tokens", "an order too",
           "gather the tokens first");
  }
  if (options.initial_state) {
    ops::require_shape(kName, "initial_state", *options.initial_state, {sequences, channels, state},
                       options.cu_seqlens.empty() ? "{B, D, N}" : "{sequences, D, N}");
  }
  if (options.order) check_order(*options.order, length, stream);
  const mx::Dtype dtype = dtype_of(kName, u, delta, A, B, C, options);
  const ScanOptions o = widened(options, dtype, stream);
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, stream); };
  // Without tokens there is nothing to compute and the state passes through.
  if (u.size() == 0 || ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    const auto composed = pairs ? selective_scan_pairs_composed : selective_scan_composed;
    auto [out, last] = composed(wide(u), wide(delta), wide(A), wide(wide_B), wide(wide_C), o, stream);
    return {mx::astype(out, u.dtype(), stream), last};
  }
  const Arrays inputs = inputs_of(wide(u), wide(delta), wide(A), wide(wide_B), wide(wide_C), o);
  Config config = config_of(o);
  config.pairs = pairs;
  config.plan = plan_of(shape_of(inputs), o, pairs, stream);
  const auto primitive = std::make_shared<SelectiveScan>(stream, config);
  const auto shapes = primitive->output_shapes(inputs);
  const Arrays outputs = mx::array::make_arrays(shapes, {dtype, dtype, dtype}, primitive, inputs);
  return {mx::astype(outputs[0], u.dtype(), stream), outputs[1]};
}

std::pair<mx::array, mx::array> step(const mx::array& state, const mx::array& u, const mx::array& delta,
                                     const mx::array& A, const mx::array& B, const mx::array& C,
                                     const ScanOptions& options, bool pairs, mx::Stream stream) {
  check_sizes(kStep, u, delta, A, 2, options, pairs);
  const int batch = u.shape(0), channels = u.shape(1), size = A.shape(1);
  ops::require_shape(kStep, "state", state, {batch, channels, size}, "{B, D, N}");
  if (options.reverse || options.order || options.initial_state || options.seq_idx ||
      !options.cu_seqlens.empty()) {
    refuse(kStep, "only D, z, delta_bias and delta_softplus apply to a step",
           "reverse, order, initial_state, seq_idx or cu_seqlens", "pass the state as the first argument");
  }
  const auto wide_B = normal_matrix(kStep, "B", B, {batch}, channels, size, stream);
  const auto wide_C = normal_matrix(kStep, "C", C, {batch}, channels, size, stream);
  const int groups = groups_of(kStep, wide_B, wide_C, 1);
  ScanOptions o = options;
  o.initial_state = state;
  const mx::Dtype dtype = dtype_of(kStep, u, delta, A, B, C, o);
  o = widened(o, dtype, stream);
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, stream); };
  if (u.size() == 0 || ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    const auto token = [&](const mx::array& a) { return mx::expand_dims(wide(a), 1, stream); };
    const auto per_token = [&](const mx::array& m) { return m.ndim() == 2 ? wide(m) : token(m); };
    if (o.z) o.z = mx::expand_dims(*o.z, 1, stream);
    const auto composed = pairs ? selective_scan_pairs_composed : selective_scan_composed;
    auto [out, last] = composed(token(u), token(delta), wide(A), per_token(wide_B), per_token(wide_C), o, stream);
    return {mx::astype(mx::squeeze(out, 1, stream), u.dtype(), stream), last};
  }
  const Arrays inputs = inputs_of(wide(u), wide(delta), wide(A), wide(wide_B), wide(wide_C), o);
  Config config = config_of(o);
  config.pairs = pairs;
  const auto primitive = std::make_shared<SelectiveScanStep>(stream, config, groups);
  const Arrays outputs =
      mx::array::make_arrays(primitive->output_shapes(inputs), {dtype, dtype}, primitive, inputs);
  return {mx::astype(outputs[0], u.dtype(), stream), outputs[1]};
}

// Complex A, B and C as pairs. Real ones among them are widened, so that a scan is
// complex as a whole or not at all.
struct Complex {
  mx::array A, B, C;
  ScanOptions options;

  static bool asked_for(const char* op, const mx::array& A, const mx::array& B, const mx::array& C,
                        const std::optional<mx::array>& state) {
    if (A.dtype() == mx::complex64) return true;
    const bool others =
        B.dtype() == mx::complex64 || C.dtype() == mx::complex64 || (state && state->dtype() == mx::complex64);
    if (others) refuse(op, "complex B, C or states need a complex64 A", ops::to_string(A.dtype()) + " A");
    return false;
  }

  Complex(const char* op, const mx::array& u, const mx::array& delta, const mx::array& a, const mx::array& b,
          const mx::array& c, const ScanOptions& o, mx::Stream stream)
      : A(a), B(b), C(c), options(o) {
    const auto parts = [&](const mx::array& m, const char* name) {
      const bool fits = m.dtype() == mx::complex64 || mx::issubdtype(m.dtype(), mx::floating);
      if (!fits) {
        refuse(op, std::string(name) + " must be a floating-point or complex64 array", ops::to_string(m.dtype()));
      }
      if (m.dtype() == mx::float64) narrow(op, name);
      return pairs_of(m, stream);
    };
    // Shapes are told in the caller's numbers, before there are twice as many values.
    const bool whole = u.ndim() == 3;
    check_sizes(op, u, delta, A, std::string_view(op) == kStep ? 2 : 3, o, false);
    mx::Shape rows = u.shape();
    rows.pop_back();
    for (const auto& [array, name] : {std::pair{&B, "B"}, std::pair{&C, "C"}}) {
      normal_matrix(op, name, *array, rows, u.shape(-1), A.shape(1), stream);
    }
    if (o.initial_state && (o.initial_state->ndim() != 3 || o.initial_state->shape(2) != A.shape(1))) {
      refuse(op,
             std::string(whole ? "initial_state" : "state") +
                 " must have shape {.., D, N} with N = " + std::to_string(A.shape(1)),
             ops::to_string(o.initial_state->shape()));
    }
    for (const auto& [array, name] : {std::pair{&u, "u"}, std::pair{&delta, "delta"}}) {
      if (array->dtype() == mx::float64) narrow(op, name);
    }
    A = parts(A, "A"), B = parts(B, "B"), C = parts(C, "C");
    if (options.initial_state)
      options.initial_state = parts(*options.initial_state, whole ? "initial_state" : "state");
  }

  [[noreturn]] static void narrow(const char* op, const char* name) {
    refuse(op, "with complex A all arrays must be float32 or narrower, or complex64",
           std::string("float64 ") + name, "the engine has no wider complex type");
  }
};

}  // namespace

std::pair<mx::array, mx::array> selective_scan_pairs(const mx::array& u, const mx::array& delta,
                                                     const mx::array& A, const mx::array& B, const mx::array& C,
                                                     const ScanOptions& options, mx::StreamOrDevice s) {
  return run(u, delta, A, B, C, options, true, mx::to_stream(s));
}

std::pair<mx::array, mx::array> selective_scan_with_state(const mx::array& u, const mx::array& delta,
                                                          const mx::array& A, const mx::array& B,
                                                          const mx::array& C, const ScanOptions& options,
                                                          mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  if (!Complex::asked_for(kName, A, B, C, options.initial_state))
    return run(u, delta, A, B, C, options, false, stream);
  const Complex c(kName, u, delta, A, B, C, options, stream);
  auto [out, last] = run(u, delta, c.A, c.B, c.C, c.options, true, stream);
  return {out, numbers_of(last, stream)};
}

mx::array selective_scan(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                         const mx::array& C, const ScanOptions& options, mx::StreamOrDevice s) {
  return selective_scan_with_state(u, delta, A, B, C, options, s).first;
}

std::pair<mx::array, mx::array> selective_scan_step(const mx::array& state, const mx::array& u,
                                                    const mx::array& delta, const mx::array& A, const mx::array& B,
                                                    const mx::array& C, const ScanOptions& options,
                                                    mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  if (!Complex::asked_for(kStep, A, B, C, state)) return step(state, u, delta, A, B, C, options, false, stream);
  ScanOptions o = options;
  if (!o.initial_state) o.initial_state = state;
  Complex c(kStep, u, delta, A, B, C, o, stream);
  const mx::array pairs = *c.options.initial_state;
  c.options.initial_state = options.initial_state;  // refused if given
  auto [out, next] = step(pairs, u, delta, c.A, c.B, c.C, c.options, true, stream);
  return {out, numbers_of(next, stream)};
}

}  // namespace aspis
