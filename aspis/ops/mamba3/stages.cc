#include "aspis/ops/mamba3/stages.h"

#include <mlx/ops.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <numbers>
#include <tuple>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/common/composed_trig.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/spans.h"
#include "aspis/ops/rms_norm/rms_norm.h"

namespace aspis::mamba3_stages {
namespace {

using Borders = std::shared_ptr<const std::vector<int32_t>>;

Borders borders_of(const std::vector<int32_t>& cu) {
  return cu.empty() ? nullptr : std::make_shared<const std::vector<int32_t>>(cu);
}

bool composed(mx::Stream stream) { return ops::choose_back_end("mamba3", stream) == ops::BackEnd::kComposed; }

mx::array part(const mx::array& a, int axis, int first, int last, mx::Stream s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = first, stop[axis] = last;
  return mx::slice(a, start, stop, s);
}

// Calls run(first, last, row) for each sequence and joins what it returns along
// the tokens and along the sequences.
template <typename Run>
std::vector<mx::array> by_sequence(const std::vector<int32_t>& cu, const Run& run, mx::Stream s) {
  std::vector<std::vector<mx::array>> columns;
  for (size_t i = 0; i + 1 < cu.size(); i++) {
    const std::vector<mx::array> parts = run(cu[i], cu[i + 1], static_cast<int>(i));
    columns.resize(parts.size());
    for (size_t k = 0; k < parts.size(); k++) columns[k].push_back(parts[k]);
  }
  std::vector<mx::array> joined;
  for (size_t k = 0; k < columns.size(); k++) joined.push_back(mx::concatenate(columns[k], k == 0 ? 1 : 0, s));
  return joined;
}

// --- weights -----------------------------------------------------------------

mx::array decay_rate(const mx::array& v, const Mamba3Options& o, mx::Stream s) {
  const auto number = [&](double value) { return mx::array(value, v.dtype()); };
  const auto one = number(1), zero = number(0);
  mx::array f = zero;
  if (o.A_activation == AActivation::kSoftplus) {
    f = ops::softplus(v, s);
  } else {
    // The branch that is not taken must stay finite, or its gradient would be NaN.
    const auto low = mx::divide(one, mx::subtract(one, mx::minimum(v, zero, s), s), s);
    f = mx::where(mx::greater_equal(v, zero, s), mx::add(v, one, s), low, s);
  }
  return mx::minimum(mx::negative(f, s), number(-o.A_floor), s);
}

Weights weights_composed(const mx::array& dd_dt, const mx::array& dd_A, const mx::array& trap,
                         const Mamba3Options& o, mx::Stream s) {
  const auto dt = ops::softplus(o.dt_bias ? mx::add(dd_dt, *o.dt_bias, s) : dd_dt, s);
  const auto log = mx::multiply(decay_rate(dd_A, o, s), dt, s);
  const auto gamma = mx::multiply(dt, ops::sigmoid(trap, s), s);
  return {dt, log, gamma, mx::subtract(dt, gamma, s)};
}

struct WeightsConfig {
  bool heavy_tail, bias;
  double A_floor;
};

enum WeightsInput { kDdDt, kDdA, kTrap, kDtBias, kWeightsInputs };

template <typename T>
kernel::Mamba3WeightsParams<T> weights_params(mx::cpu::CommandEncoder& encoder, const Arrays& in,
                                              const WeightsConfig& c, const char* name) {
  kernel::Mamba3WeightsParams<T> p;
  p.heads = in[kDdDt].shape(2);
  p.tokens = static_cast<int64_t>(in[kDdDt].shape(0)) * in[kDdDt].shape(1);
  p.heavy_tail = c.heavy_tail;
  p.A_floor = static_cast<T>(c.A_floor);
  p.dd_dt = ops::packed<T>(encoder, in[kDdDt], name);
  p.dd_A = ops::packed<T>(encoder, in[kDdA], name);
  p.trap = ops::packed<T>(encoder, in[kTrap], name);
  if (c.bias) p.dt_bias = ops::packed<T>(encoder, in[kDtBias], name);
  return p;
}

// {dd_dt, dd_A, trap, dt_bias, ddt, dlog, dgamma, dbeta} -> gradients of the first four
class WeightsVjp : public ops::CpuPrimitive {
 public:
  WeightsVjp(mx::Stream stream, const WeightsConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::Mamba3WeightsVjpParams<T> q;
      q.in = weights_params<T>(encoder, in, config_, name());
      q.ddt = ops::packed<T>(encoder, in[kWeightsInputs], name());
      q.dlog = ops::packed<T>(encoder, in[kWeightsInputs + 1], name());
      q.dgamma = ops::packed<T>(encoder, in[kWeightsInputs + 2], name());
      q.dbeta = ops::packed<T>(encoder, in[kWeightsInputs + 3], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      q.ddd_dt = out[kDdDt].data<T>(), q.ddd_A = out[kDdA].data<T>(), q.dtrap = out[kTrap].data<T>();
      if (config_.bias) q.dbias = out[kDtBias].data<T>();
      encoder.dispatch([q] { kernel::mamba3_weights_vjp(q); });
    });
  }
  const char* name() const override { return "mamba3_weights_vjp"; }

 private:
  const WeightsConfig config_;
};

class WeightsPrimitive : public ops::CpuPrimitive {
 public:
  WeightsPrimitive(mx::Stream stream, const WeightsConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = weights_params<T>(encoder, in, config_, name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.dt = out[0].data<T>(), p.log = out[1].data<T>(), p.gamma = out[2].data<T>(), p.beta = out[3].data<T>();
      encoder.dispatch([p] { kernel::mamba3_weights(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays inputs = primals;
    inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
    std::vector<mx::Shape> shapes;
    for (const auto& a : primals) shapes.push_back(a.shape());
    const Arrays all = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), primals[0].dtype()),
                                              std::make_shared<WeightsVjp>(stream(), config_), inputs);
    Arrays wanted;
    for (const int i : argnums) {
      wanted.push_back(i == kDtBias && !config_.bias ? mx::zeros_like(primals[i], stream()) : all[i]);
    }
    return wanted;
  }
  const char* name() const override { return "mamba3_weights"; }

 private:
  const WeightsConfig config_;
};

// --- phase -------------------------------------------------------------------

kernel::Mamba3Shape phase_shape(const Arrays& in, const Borders& cu) {
  kernel::Mamba3Shape s;
  s.batch = in[1].shape(0), s.length = in[1].shape(1), s.heads = in[1].shape(2), s.angles = in[0].shape(2);
  s.sequences = cu ? static_cast<int64_t>(cu->size()) - 1 : 0;
  return s;
}

template <typename T>
kernel::Mamba3PhaseParams<T> phase_params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const Borders& cu,
                                          const char* name) {
  return {phase_shape(in, cu),
          cu ? cu->data() : nullptr,
          ops::packed<T>(encoder, in[0], name),
          ops::packed<T>(encoder, in[1], name),
          ops::packed<T>(encoder, in[2], name),
          nullptr};
}

// {angle, dt, initial, dphi} -> gradients of the first three
class PhaseVjp : public ops::CpuPrimitive {
 public:
  PhaseVjp(mx::Stream stream, Borders cu) : CpuPrimitive(stream), cu_(std::move(cu)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::Mamba3PhaseVjpParams<T> d;
      d.in = phase_params<T>(encoder, in, cu_, name());
      d.dphi = ops::packed<T>(encoder, in[3], name());
      d.dlast = ops::packed<T>(encoder, in[4], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      d.dangle = out[0].data<T>(), d.ddt = out[1].data<T>(), d.dinitial = out[2].data<T>();
      encoder.dispatch([d, cu = cu_] { kernel::mamba3_phase_vjp(d); });
    });
  }
  const char* name() const override { return "mamba3_phase_vjp"; }

 private:
  const Borders cu_;
};

class Phase : public ops::CpuPrimitive {
 public:
  Phase(mx::Stream stream, Borders cu) : CpuPrimitive(stream), cu_(std::move(cu)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = phase_params<T>(encoder, in, cu_, name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.phi = out[0].data<T>(), p.last = out[1].data<T>();
      encoder.dispatch([p, cu = cu_] { kernel::mamba3_phase(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays inputs = primals;
    inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
    const Arrays all =
        mx::array::make_arrays({primals[0].shape(), primals[1].shape(), primals[2].shape()},
                               {3, primals[0].dtype()}, std::make_shared<PhaseVjp>(stream(), cu_), inputs);
    Arrays wanted;
    for (const int i : argnums) wanted.push_back(all[i]);
    return wanted;
  }
  const char* name() const override { return "mamba3_phase"; }

 private:
  const Borders cu_;
};

// --- rotation ----------------------------------------------------------------

struct RotaryConfig {
  RotaryPairing pairing = RotaryPairing::kAdjacent;
  int heads = 1;
  bool bias = false, phi = false;
};

// Inputs {x, bias, phi}; absent ones are placeholders.
template <typename T>
kernel::RotaryParams<T> rotary_params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const RotaryConfig& c,
                                      const char* name) {
  kernel::RotaryParams<T> p;
  p.shape.batch = in[0].shape(0), p.shape.length = in[0].shape(1), p.shape.rank = in[0].shape(2);
  p.groups = in[0].shape(3), p.shape.state = in[0].shape(4), p.shape.heads = c.heads;
  if (c.phi) p.shape.angles = in[2].shape(3);
  p.pairs = c.pairing == RotaryPairing::kAdjacent ? kernel::RotaryPairs::kAdjacent : kernel::RotaryPairs::kHalf;
  p.x = ops::packed<T>(encoder, in[0], name);
  if (c.bias) p.bias = ops::packed<T>(encoder, in[1], name);
  if (c.phi) p.phi = ops::packed<T>(encoder, in[2], name);
  return p;
}

// {x, bias, phi, y, dy} -> dx, dbias, dphi
class RotaryVjp : public ops::CpuPrimitive {
 public:
  RotaryVjp(mx::Stream stream, const RotaryConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::RotaryVjpParams<T> d;
      d.in = rotary_params<T>(encoder, in, config_, name());
      d.in.y = const_cast<T*>(ops::packed<T>(encoder, in[3], name()));
      d.dy = ops::packed<T>(encoder, in[4], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      d.dx = out[0].data<T>();
      if (config_.bias) d.dbias = out[1].data<T>();
      if (config_.phi) d.dphi = out[2].data<T>();
      encoder.dispatch([d] { kernel::rotary_vjp(d); });
    });
  }
  const char* name() const override { return "rotary_vjp"; }

 private:
  const RotaryConfig config_;
};

class Rotary : public ops::CpuPrimitive {
 public:
  Rotary(mx::Stream stream, const RotaryConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = rotary_params<T>(encoder, in, config_, name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p] { kernel::rotary(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    Arrays inputs = primals;
    inputs.push_back(outputs[0]);
    inputs.push_back(cotangents[0]);
    const Arrays all =
        mx::array::make_arrays({primals[0].shape(), primals[1].shape(), primals[2].shape()},
                               {3, primals[0].dtype()}, std::make_shared<RotaryVjp>(stream(), config_), inputs);
    Arrays wanted;
    for (const int i : argnums) {
      const bool there = i == 0 || (i == 1 ? config_.bias : config_.phi);
      wanted.push_back(there ? all[i] : mx::zeros_like(primals[i], stream()));
    }
    return wanted;
  }
  const char* name() const override { return "rotary"; }

 private:
  const RotaryConfig config_;
};

mx::array rotate_composed(const mx::array& x, const mx::array& phi, RotaryPairing pairing, mx::Stream s) {
  const int N = x.shape(4), A = phi.shape(3), last = 4;
  const auto [sine, cosine] = ops::sine_cosine(mx::expand_dims(phi, 3, s), s);
  const auto turned = [&](const mx::array& a, const mx::array& b) {
    return std::pair(mx::subtract(mx::multiply(a, cosine, s), mx::multiply(b, sine, s), s),
                     mx::add(mx::multiply(a, sine, s), mx::multiply(b, cosine, s), s));
  };
  if (pairing == RotaryPairing::kHalf) {
    const auto [a, b] = turned(part(x, last, 0, A, s), part(x, last, N / 2, N / 2 + A, s));
    return mx::concatenate({a, part(x, last, A, N / 2, s), b, part(x, last, N / 2 + A, N, s)}, last, s);
  }
  mx::Shape pairs = x.shape();
  pairs.back() = A;
  pairs.push_back(2);
  const auto head = mx::reshape(part(x, last, 0, 2 * A, s), pairs, s);
  const auto [a, b] = turned(mx::squeeze(part(head, 5, 0, 1, s), 5, s), mx::squeeze(part(head, 5, 1, 2, s), 5, s));
  mx::Shape flat = x.shape();
  flat.back() = 2 * A;
  return mx::concatenate({mx::reshape(mx::stack({a, b}, 5, s), flat, s), part(x, last, 2 * A, N, s)}, last, s);
}

mx::array phase_composed(const mx::array& angle, const mx::array& dt, const mx::array& initial,
                         const std::vector<int32_t>& cu, mx::Stream s) {
  if (!cu.empty()) {
    return by_sequence(
        cu,
        [&](int first, int last, int row) {
          return Arrays{phase_composed(part(angle, 1, first, last, s), part(dt, 1, first, last, s),
                                       part(initial, 0, row, row + 1, s), {}, s)};
        },
        s)[0];
  }
  const auto number = [&](double v) { return mx::array(v, angle.dtype()); };
  // pi tanh(a) = pi (2 sigmoid(2 a) - 1)
  const auto tanh =
      mx::subtract(mx::multiply(number(2), ops::sigmoid(mx::multiply(number(2), angle, s), s), s), number(1), s);
  const auto turns = mx::multiply(mx::expand_dims(mx::multiply(number(std::numbers::pi), tanh, s), 2, s),
                                  mx::expand_dims(dt, 3, s), s);
  const auto phi = mx::add(mx::expand_dims(initial, 1, s), mx::cumsum(turns, 1, false, true, s), s);
  const auto full = mx::floor(mx::multiply(phi, number(0.5 / std::numbers::pi), s), s);
  return mx::subtract(phi, mx::multiply(number(2 * std::numbers::pi), mx::stop_gradient(full, s), s), s);
}

// --- core --------------------------------------------------------------------

// The forward primitive learns from its vjp, when the graph is built, that the
// states will be needed; if it ran before, the backward pass runs it again.
struct Plan {
  std::atomic<bool> wanted{false}, filled{false};
};

enum CoreInput { kLog, kW, kG, kV, kK, kQ, kInitial, kCoreInputs };

// v {B, L, H, P}, or {B, L, H, R, P}.
kernel::Mamba3Shape core_shape(const mx::array& v, int rank, int state, const Borders& cu, int64_t chunk) {
  kernel::Mamba3Shape s;
  s.batch = v.shape(0), s.length = v.shape(1), s.heads = v.shape(2), s.rank = rank;
  s.headdim = v.shape(-1), s.state = state;
  s.recurrent = chunk == 0;
  // Tokens between two states that are kept: spans of eight rows divide them.
  constexpr int64_t kRows = 64;
  if (chunk == 0) chunk = std::max<int64_t>(1, kRows / s.rank);
  s.chunk = std::clamp<int64_t>(chunk, 1, std::max<int64_t>(1, s.length));
  s.sequences = cu ? static_cast<int64_t>(cu->size()) - 1 : 0;
  return s;
}

template <typename T>
kernel::Mamba3CoreParams<T> core_params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const Borders& cu,
                                        int64_t chunk, const char* name) {
  kernel::Mamba3CoreParams<T> p;
  p.shape = core_shape(in[kV], in[kV].shape(3), in[kK].shape(4), cu, chunk);
  p.cu_seqlens = cu ? cu->data() : nullptr;
  const auto get = [&](int i) { return ops::packed<T>(encoder, in[i], name); };
  p.log = get(kLog), p.w = get(kW), p.g = get(kG), p.v = get(kV), p.k = get(kK), p.q = get(kQ);
  p.initial = get(kInitial);
  return p;
}

template <typename T>
T* scratch(mx::cpu::CommandEncoder& encoder, int64_t values, const char* name) {
  return static_cast<T*>(
      ops::allocate_scratch(encoder, static_cast<size_t>(std::max<int64_t>(1, values)) * sizeof(T), name));
}

class CoreVjp : public ops::CpuPrimitive {
 public:
  CoreVjp(mx::Stream stream, Borders cu, int64_t chunk, std::shared_ptr<Plan> plan)
      : CpuPrimitive(stream), cu_(std::move(cu)), chunk_(chunk), plan_(std::move(plan)) {}

  // Inputs of the core, its states, dy, dfinal -> gradients of the inputs.
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::Mamba3CoreVjpParams<T> d;
      d.in = core_params<T>(encoder, in, cu_, chunk_, name());
      const auto& s = d.in.shape;
      const bool again = !plan_->filled;
      if (again) {
        d.in.states = scratch<T>(encoder, s.slots() * s.heads * s.state_size(), name());
        d.in.y = scratch<T>(encoder, static_cast<int64_t>(in[kV].size()), name());
        d.in.final = scratch<T>(encoder, static_cast<int64_t>(in[kInitial].size()), name());
      } else {
        d.in.states = const_cast<T*>(in[kCoreInputs].data<T>());
      }
      d.dy = ops::packed<T>(encoder, in[kCoreInputs + 1], name());
      d.dfinal = ops::packed<T>(encoder, in[kCoreInputs + 2], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      d.dlog = out[kLog].data<T>(), d.dw = out[kW].data<T>(), d.dg = out[kG].data<T>();
      d.dv = out[kV].data<T>(), d.dk = out[kK].data<T>(), d.dq = out[kQ].data<T>();
      d.dinitial = out[kInitial].data<T>();
      encoder.dispatch([d, again, cu = cu_] {
        if (again) kernel::mamba3_core(d.in);
        kernel::mamba3_core_vjp(d);
      });
    });
  }
  const char* name() const override { return "mamba3_core_vjp"; }

 private:
  const Borders cu_;
  const int64_t chunk_;
  const std::shared_ptr<Plan> plan_;
};

class Core : public ops::CpuPrimitive {
 public:
  Core(mx::Stream stream, Borders cu, int64_t chunk)
      : CpuPrimitive(stream), cu_(std::move(cu)), chunk_(chunk), plan_(std::make_shared<Plan>()) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = core_params<T>(encoder, in, cu_, chunk_, name());
      ops::allocate(encoder, out[0], name());
      ops::allocate(encoder, out[1], name());
      p.y = out[0].data<T>(), p.final = out[1].data<T>();
      const bool wanted = plan_->wanted;
      if (wanted) {
        ops::allocate(encoder, out[2], name());
        p.states = out[2].data<T>();
      } else {
        // Nobody reads it: a stub keeps the engine's bookkeeping whole.
        out[2].set_data(mx::allocator::malloc(sizeof(T)));
      }
      plan_->filled = wanted;
      encoder.dispatch([p, cu = cu_] { kernel::mamba3_core(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    plan_->wanted = true;
    Arrays inputs = primals;
    for (const auto& a : {outputs[2], cotangents[0], cotangents[1]}) inputs.push_back(a);
    std::vector<mx::Shape> shapes;
    for (const auto& a : primals) shapes.push_back(a.shape());
    const Arrays all = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), primals[0].dtype()),
                                              std::make_shared<CoreVjp>(stream(), cu_, chunk_, plan_), inputs);
    Arrays wanted;
    for (const int i : argnums) wanted.push_back(all[i]);
    return wanted;
  }
  const char* name() const override { return "mamba3_core"; }

 private:
  const Borders cu_;
  const int64_t chunk_;
  const std::shared_ptr<Plan> plan_;
};

enum TurnedInput {
  kTLog,
  kTW,
  kTG,
  kTV,
  kTInitial,
  kTB,
  kTC,
  kTBBias,
  kTCBias,
  kTAngle,
  kTDt,
  kTPhase,
  kTD,
  kTZ,
  kTMimo,
  kTurnedInputs
};

struct TurnedConfig {
  RotaryPairing pairing;
  bool B_bias = false, C_bias = false, phi = false;
  bool finish = false, D = false, z = false, mimo = false;
};

// Params of the core with its keys and queries from the inputs of TurnedCorePrimitive.
template <typename T>
kernel::Mamba3CoreParams<T> turned_params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const Borders& cu,
                                          int64_t chunk, const TurnedConfig& c, const char* name) {
  const auto get = [&](int i) { return ops::packed<T>(encoder, in[i], name); };
  kernel::Mamba3CoreParams<T> p;
  p.shape = core_shape(in[kTV], in[kTB].shape(2), in[kTB].shape(4), cu, chunk);
  if (c.phi) p.shape.angles = in[kTAngle].shape(2);
  p.cu_seqlens = cu ? cu->data() : nullptr;
  p.log = get(kTLog), p.w = get(kTW), p.g = get(kTG), p.v = get(kTV), p.initial = get(kTInitial);
  p.key.groups = p.query.groups = in[kTB].shape(3);
  p.key.pairs = c.pairing == RotaryPairing::kHalf ? kernel::RotaryPairs::kHalf : kernel::RotaryPairs::kAdjacent;
  p.key.x = get(kTB), p.query.x = get(kTC);
  if (c.B_bias) p.key.bias = get(kTBBias);
  if (c.C_bias) p.query.bias = get(kTCBias);
  if (c.phi) p.angle = get(kTAngle), p.dt = get(kTDt), p.initial_phi = get(kTPhase);
  if (c.D) p.D = get(kTD);
  if (c.z) p.z = get(kTZ);
  if (c.mimo) p.scale = get(kTMimo);
  return p;
}

// Inputs of the core, its states and what was before the gate, gradients of the output,
// the last states and the last phases -> gradients of the inputs.
class TurnedVjp : public ops::CpuPrimitive {
 public:
  TurnedVjp(mx::Stream stream, Borders cu, int64_t chunk, const TurnedConfig& config, std::shared_ptr<Plan> plan)
      : CpuPrimitive(stream), cu_(std::move(cu)), chunk_(chunk), config_(config), plan_(std::move(plan)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::Mamba3TurnedVjpParams<T> d;
      auto& p = d.in = turned_params<T>(encoder, in, cu_, chunk_, config_, name());
      const bool again = !plan_->filled;
      if (again) {
        // The forward pass ran before anyone asked for a gradient.
        p.states = scratch<T>(encoder, p.shape.slots() * p.shape.heads * p.shape.state_size(), name());
        p.y = scratch<T>(encoder, p.shape.tokens() * p.shape.heads * p.shape.rank * p.shape.headdim, name());
        if (config_.finish) p.out = scratch<T>(encoder, static_cast<int64_t>(in[kTV].size()), name());
        p.final = scratch<T>(encoder, static_cast<int64_t>(in[kTInitial].size()), name());
        if (config_.phi) p.last_phi = scratch<T>(encoder, static_cast<int64_t>(in[kTPhase].size()), name());
      } else {
        p.states = const_cast<T*>(in[kTurnedInputs].data<T>());
        if (config_.z) p.y = const_cast<T*>(in[kTurnedInputs + 1].data<T>());
      }
      d.dout = ops::packed<T>(encoder, in[kTurnedInputs + 2], name());
      d.dfinal = ops::packed<T>(encoder, in[kTurnedInputs + 3], name());
      if (config_.phi) d.dlast_phi = ops::packed<T>(encoder, in[kTurnedInputs + 4], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      const auto to = [&](int i) { return out[i].data<T>(); };
      d.dlog = to(kTLog), d.dw = to(kTW), d.dg = to(kTG), d.dv = to(kTV), d.dinitial = to(kTInitial);
      d.dB = to(kTB), d.dC = to(kTC);
      if (config_.B_bias) d.dB_bias = to(kTBBias);
      if (config_.C_bias) d.dC_bias = to(kTCBias);
      if (config_.phi) d.dangle = to(kTAngle), d.ddt = to(kTDt), d.dinitial_phi = to(kTPhase);
      if (config_.D) d.dD = to(kTD);
      if (config_.z) d.dz = to(kTZ);
      if (config_.mimo) d.dscale = to(kTMimo);
      encoder.dispatch([d, again, cu = cu_] {
        if (again) kernel::mamba3_core_spans(d.in);
        kernel::mamba3_turned_vjp(d);
      });
    });
  }
  const char* name() const override { return "mamba3_core_vjp"; }

 private:
  const Borders cu_;
  const int64_t chunk_;
  const TurnedConfig config_;
  const std::shared_ptr<Plan> plan_;
};

// The core with the keys and queries made inside.
class TurnedCorePrimitive : public ops::CpuPrimitive {
 public:
  TurnedCorePrimitive(mx::Stream stream, Borders cu, int64_t chunk, const TurnedConfig& config)
      : CpuPrimitive(stream),
        cu_(std::move(cu)),
        chunk_(chunk),
        config_(config),
        plan_(std::make_shared<Plan>()) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = turned_params<T>(encoder, in, cu_, chunk_, config_, name());
      ops::allocate(encoder, out[0], name());
      ops::allocate(encoder, out[1], name());
      ops::allocate(encoder, out[3], name());
      if (config_.phi) p.last_phi = out[3].data<T>();
      p.final = out[1].data<T>();
      const bool wanted = plan_->wanted;
      const auto keep = [&](mx::array& a, bool there) -> T* {
        if (there) {
          ops::allocate(encoder, a, name());
          return a.data<T>();
        }
        // Nobody reads it: a stub keeps the engine's bookkeeping whole.
        a.set_data(mx::allocator::malloc(sizeof(T)));
        return nullptr;
      };
      p.states = keep(out[2], wanted);
      T* const before = keep(out[4], wanted && config_.z);
      if (config_.finish) {
        p.out = out[0].data<T>(), p.y = before;
      } else {
        p.y = out[0].data<T>();
      }
      plan_->filled = wanted;
      encoder.dispatch([p, cu = cu_] { kernel::mamba3_core_spans(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    plan_->wanted = true;
    Arrays inputs = primals;
    for (const auto& a : {outputs[2], outputs[4], cotangents[0], cotangents[1], cotangents[3]})
      inputs.push_back(a);
    std::vector<mx::Shape> shapes;
    for (const auto& a : primals) shapes.push_back(a.shape());
    const Arrays all =
        mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), primals[0].dtype()),
                               std::make_shared<TurnedVjp>(stream(), cu_, chunk_, config_, plan_), inputs);
    const auto there = [&](int i) {
      switch (i) {
        case kTBBias:
          return config_.B_bias;
        case kTCBias:
          return config_.C_bias;
        case kTAngle:
        case kTDt:
        case kTPhase:
          return config_.phi;
        case kTD:
          return config_.D;
        case kTZ:
          return config_.z;
        case kTMimo:
          return config_.mimo;
        default:
          return true;
      }
    };
    Arrays wanted;
    for (const int i : argnums) wanted.push_back(there(i) ? all[i] : mx::zeros_like(primals[i], stream()));
    return wanted;
  }
  const char* name() const override { return "mamba3_core"; }

 private:
  const Borders cu_;
  const int64_t chunk_;
  const TurnedConfig config_;
  const std::shared_ptr<Plan> plan_;
};

std::pair<mx::array, mx::array> core_composed(const Arrays& in, const std::vector<int32_t>& cu, mx::Stream s) {
  if (!cu.empty()) {
    const auto joined = by_sequence(
        cu,
        [&](int first, int last, int row) {
          Arrays own;
          for (int i = kLog; i < kInitial; i++) own.push_back(part(in[i], 1, first, last, s));
          own.push_back(part(in[kInitial], 0, row, row + 1, s));
          const auto [y, state] = core_composed(own, {}, s);
          return Arrays{y, state};
        },
        s);
    return {joined[0], joined[1]};
  }
  const int length = in[kV].shape(1);
  mx::array state = in[kInitial];  // {B, H, P, N}
  Arrays rows;
  const auto token = [&](const mx::array& a, int t) { return mx::squeeze(part(a, 1, t, t + 1, s), 1, s); };
  const auto over_state = [&](const mx::array& a) { return mx::expand_dims(a, {2, 3}, s); };
  for (int t = 0; t < length; t++) {
    const auto v = token(in[kV], t), k = token(in[kK], t), q = token(in[kQ], t);  // {B, H, R, .}
    const auto kept = mx::multiply(state, over_state(ops::exp(token(in[kLog], t), s)), s);
    const auto scores = mx::matmul(q, mx::swapaxes(k, 2, 3, s), s);  // {B, H, R, R'}
    const auto own = mx::multiply(mx::matmul(scores, v, s), over_state(token(in[kG], t)), s);
    rows.push_back(mx::add(mx::matmul(q, mx::swapaxes(kept, 2, 3, s), s), own, s));
    state = mx::add(kept,
                    mx::multiply(mx::matmul(mx::swapaxes(v, 2, 3, s), k, s), over_state(token(in[kW], t)), s), s);
  }
  return {rows.empty() ? mx::zeros_like(in[kV], s) : mx::stack(rows, 1, s), state};
}

// --- combination -------------------------------------------------------------

enum CombineInput { kY, kX, kD, kMimoX, kMimoZ, kMimoO, kZ, kNorm, kCombineInputs };

struct CombineConfig {
  float eps = 0;
  std::array<bool, kCombineInputs> has{};
};

template <typename T>
kernel::CombineParams<T> combine_params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const CombineConfig& c,
                                        const char* name) {
  kernel::CombineParams<T> p;
  p.shape.batch = in[kY].shape(0), p.shape.length = in[kY].shape(1), p.shape.heads = in[kY].shape(2);
  p.shape.rank = in[kY].shape(3), p.shape.headdim = in[kY].shape(4);
  p.eps = static_cast<T>(c.eps);
  const auto get = [&](int i) { return c.has[i] ? ops::packed<T>(encoder, in[i], name) : nullptr; };
  p.y = get(kY), p.x = get(kX), p.D = get(kD), p.mimo_x = get(kMimoX), p.mimo_z = get(kMimoZ),
  p.mimo_o = get(kMimoO);
  p.z = get(kZ), p.norm = get(kNorm);
  return p;
}

// Inputs of the combination and dout -> gradients of the inputs.
class CombineVjp : public ops::CpuPrimitive {
 public:
  CombineVjp(mx::Stream stream, const CombineConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::CombineVjpParams<T> q;
      q.in = combine_params<T>(encoder, in, config_, name());
      q.dout = ops::packed<T>(encoder, in[kCombineInputs], name());
      for (auto& o : out) ops::allocate(encoder, o, name());
      const auto get = [&](int i) { return config_.has[i] ? out[i].data<T>() : nullptr; };
      q.dy = get(kY), q.dD = get(kD), q.dmimo_x = get(kMimoX), q.dmimo_z = get(kMimoZ), q.dmimo_o = get(kMimoO);
      q.dz = get(kZ), q.dnorm = get(kNorm);
      if (config_.has[kD]) q.dx = get(kX);
      encoder.dispatch([q] { kernel::mamba3_combine_vjp(q); });
    });
  }
  const char* name() const override { return "mamba3_combine_vjp"; }

 private:
  const CombineConfig config_;
};

class Combine : public ops::CpuPrimitive {
 public:
  Combine(mx::Stream stream, const CombineConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = combine_params<T>(encoder, in, config_, name());
      ops::allocate(encoder, out[0], name());
      p.out = out[0].data<T>();
      encoder.dispatch([p] { kernel::mamba3_combine(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays inputs = primals;
    inputs.push_back(cotangents[0]);
    std::vector<mx::Shape> shapes;
    for (const auto& a : primals) shapes.push_back(a.shape());
    const Arrays all = mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), primals[0].dtype()),
                                              std::make_shared<CombineVjp>(stream(), config_), inputs);
    Arrays wanted;
    for (const int i : argnums) {
      // x only counts through the skip.
      const bool there = i == kX ? config_.has[kD] : config_.has[i];
      wanted.push_back(there ? all[i] : mx::zeros_like(primals[i], stream()));
    }
    return wanted;
  }
  const char* name() const override { return "mamba3_combine"; }

 private:
  const CombineConfig config_;
};

mx::array combine_composed(mx::array y, const mx::array& x, const Mamba3Options& o, mx::Stream s) {
  const int heads = y.shape(2);
  const auto wide = [&](const mx::array& a) { return mx::expand_dims(a, -2, s); };
  if (o.D) {
    const auto v = o.mimo_x ? mx::multiply(wide(x), *o.mimo_x, s) : wide(x);
    y = mx::add(y, mx::multiply(v, mx::reshape(*o.D, {heads, 1, 1}, s), s), s);
  }
  if (o.out_norm_weight) {
    y = mx::multiply(rms_norm_composed(y, std::nullopt, o.eps, s), mx::expand_dims(*o.out_norm_weight, 1, s), s);
  }
  if (o.z) {
    const auto g = o.mimo_z ? mx::multiply(wide(*o.z), *o.mimo_z, s) : wide(*o.z);
    y = mx::multiply(y, mx::multiply(g, ops::sigmoid(g, s), s), s);
  }
  if (o.mimo_o) y = mx::multiply(y, *o.mimo_o, s);
  return mx::sum(y, 3, false, s);
}

// --- step --------------------------------------------------------------------

enum StepInput {
  kSPhi,
  kSSsm,
  kSK,
  kSV,
  kSX,
  kSB,
  kSC,
  kSDdDt,
  kSDdA,
  kSTrap,
  kSAngle,
  kSDtBias,
  kSBNorm,
  kSCNorm,
  kSBBias,
  kSCBias,
  kSD,
  kSZ,
  kSMimoX,
  kSMimoZ,
  kSMimoO,
  kSOutNorm,
  kStepInputs
};

struct StepConfig {
  RotaryPairing pairing;
  AActivation activation;
  double A_floor;
  float eps;
  std::array<bool, kStepInputs> has{};
};

class Step : public ops::CpuPrimitive {
 public:
  Step(mx::Stream stream, const StepConfig& config) : CpuPrimitive(stream), config_(config) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      const auto get = [&](int i) { return config_.has[i] ? ops::packed<T>(encoder, in[i], name()) : nullptr; };
      kernel::Mamba3StepParams<T> p;
      p.batch = in[kSX].shape(0), p.heads = in[kSX].shape(1), p.headdim = in[kSX].shape(2);
      p.rank = in[kSB].shape(1), p.groups = in[kSB].shape(2), p.state = in[kSB].shape(3);
      if (config_.has[kSAngle]) p.angles = in[kSAngle].shape(1);
      p.pairs =
          config_.pairing == RotaryPairing::kHalf ? kernel::RotaryPairs::kHalf : kernel::RotaryPairs::kAdjacent;
      p.heavy_tail = config_.activation == AActivation::kHeavyTail;
      p.A_floor = static_cast<T>(config_.A_floor), p.eps = static_cast<T>(config_.eps);
      p.phi = get(kSPhi), p.ssm = get(kSSsm), p.k = get(kSK), p.v = get(kSV);
      p.x = get(kSX), p.B = get(kSB), p.C = get(kSC);
      p.dd_dt = get(kSDdDt), p.dd_A = get(kSDdA), p.trap = get(kSTrap);
      p.angle = get(kSAngle), p.dt_bias = get(kSDtBias), p.B_norm = get(kSBNorm), p.C_norm = get(kSCNorm);
      p.B_bias = get(kSBBias), p.C_bias = get(kSCBias), p.D = get(kSD), p.z = get(kSZ);
      p.mimo_x = get(kSMimoX), p.mimo_z = get(kSMimoZ), p.mimo_o = get(kSMimoO), p.out_norm = get(kSOutNorm);
      for (auto& o : out) ops::allocate(encoder, o, name());
      p.out = out[0].data<T>(), p.next_phi = out[1].data<T>(), p.next_ssm = out[2].data<T>();
      p.next_k = out[3].data<T>();
      encoder.dispatch([p] { kernel::mamba3_step(p); });
    });
  }

  // By the whole operator over one token.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const auto c = config_;
    const auto s = stream();
    const auto whole = [c, s](const Arrays& a) {
      const auto option = [&](int i) { return c.has[i] ? std::optional(a[i]) : std::nullopt; };
      const auto token = [&](const mx::array& m) { return mx::expand_dims(m, 1, s); };
      Mamba3Options o;
      if (c.has[kSAngle]) o.angle = token(a[kSAngle]);
      o.dt_bias = option(kSDtBias), o.B_norm_weight = option(kSBNorm), o.C_norm_weight = option(kSCNorm);
      o.B_bias = option(kSBBias), o.C_bias = option(kSCBias), o.D = option(kSD);
      if (c.has[kSZ]) o.z = token(a[kSZ]);
      o.mimo_x = option(kSMimoX), o.mimo_z = option(kSMimoZ), o.mimo_o = option(kSMimoO);
      o.out_norm_weight = option(kSOutNorm);
      o.pairing = c.pairing, o.A_activation = c.activation, o.A_floor = c.A_floor, o.eps = c.eps;
      o.initial_state = Mamba3State{a[kSPhi], a[kSSsm], a[kSK], a[kSV]};
      const auto [out, next] = mamba3_with_state(token(a[kSX]), token(a[kSB]), token(a[kSC]), token(a[kSDdDt]),
                                                 token(a[kSDdA]), token(a[kSTrap]), o, s);
      return Arrays{mx::squeeze(out, 1, s), next.angle, next.ssm, next.k};
    };
    const Arrays all = mx::vjp(whole, primals, cotangents).second;
    Arrays wanted;
    for (const int i : argnums) wanted.push_back(all[i]);
    return wanted;
  }
  const char* name() const override { return "mamba3_step"; }

 private:
  const StepConfig config_;
};

}  // namespace

Weights weights(const mx::array& dd_dt, const mx::array& dd_A, const mx::array& trap, const Mamba3Options& o,
                mx::Stream stream) {
  if (composed(stream) || dd_dt.size() == 0) return weights_composed(dd_dt, dd_A, trap, o, stream);
  const WeightsConfig config{o.A_activation == AActivation::kHeavyTail, o.dt_bias.has_value(), o.A_floor};
  const Arrays out = mx::array::make_arrays(
      std::vector<mx::Shape>(4, dd_dt.shape()), std::vector<mx::Dtype>(4, dd_dt.dtype()),
      std::make_shared<WeightsPrimitive>(stream, config), {dd_dt, dd_A, trap, o.dt_bias.value_or(ops::absent())});
  return {out[0], out[1], out[2], out[3]};
}

std::pair<mx::array, mx::array> phase(const mx::array& angle, const mx::array& dt, const mx::array& initial,
                                      const std::vector<int32_t>& cu_seqlens, mx::Stream stream) {
  if (composed(stream) || angle.size() == 0 || dt.size() == 0) {
    const auto phi = phase_composed(angle, dt, initial, cu_seqlens, stream);
    return {phi, last_tokens(phi, cu_seqlens, initial, stream)};
  }
  const mx::Shape shape{angle.shape(0), angle.shape(1), dt.shape(2), angle.shape(2)};
  const Arrays out =
      mx::array::make_arrays({shape, initial.shape()}, {2, angle.dtype()},
                             std::make_shared<Phase>(stream, borders_of(cu_seqlens)), {angle, dt, initial});
  return {out[0], out[1]};
}

mx::array rotate(const mx::array& x, const std::optional<mx::array>& bias, const std::optional<mx::array>& phi,
                 int heads, RotaryPairing pairing, mx::Stream stream) {
  if (composed(stream) || x.size() == 0) {
    auto v = mx::swapaxes(mx::repeat(x, heads / x.shape(3), 3, stream), 2, 3, stream);
    if (bias) v = mx::add(v, *bias, stream);
    return phi ? rotate_composed(v, *phi, pairing, stream) : v;
  }
  const RotaryConfig config{pairing, heads, bias.has_value(), phi.has_value()};
  return mx::array({x.shape(0), x.shape(1), heads, x.shape(2), x.shape(4)}, x.dtype(),
                   std::make_shared<Rotary>(stream, config),
                   {x, bias.value_or(ops::absent()), phi.value_or(ops::absent())});
}

std::pair<mx::array, mx::array> core(const mx::array& log, const mx::array& w, const mx::array& g,
                                     const mx::array& v, const mx::array& k, const mx::array& q,
                                     const mx::array& initial, const std::vector<int32_t>& cu_seqlens,
                                     int64_t chunk, mx::Stream stream) {
  const Arrays in{log, w, g, v, k, q, initial};
  if (composed(stream) || v.size() == 0) return core_composed(in, cu_seqlens, stream);
  const Borders cu = borders_of(cu_seqlens);
  const kernel::Mamba3Shape s = core_shape(v, v.shape(3), k.shape(4), cu, chunk);
  const mx::Shape states{static_cast<int>(s.slots()), static_cast<int>(s.heads), static_cast<int>(s.state),
                         static_cast<int>(s.headdim)};
  const Arrays out = mx::array::make_arrays({v.shape(), initial.shape(), states}, {3, v.dtype()},
                                            std::make_shared<Core>(stream, cu, chunk), in);
  return {out[0], out[1]};
}

mx::array last_tokens(const mx::array& a, const std::vector<int32_t>& cu, const mx::array& otherwise,
                      mx::Stream s) {
  if (cu.empty()) return mx::squeeze(part(a, 1, a.shape(1) - 1, a.shape(1), s), 1, s);
  const int sequences = static_cast<int>(cu.size()) - 1;
  std::vector<int32_t> place;
  std::vector<uint8_t> there;
  for (int i = 0; i < sequences; i++) {
    there.push_back(cu[i + 1] > cu[i]);
    place.push_back(there.back() ? cu[i + 1] - 1 : 0);
  }
  const auto taken = mx::take(mx::squeeze(a, 0, s), mx::array(place.data(), {sequences}, mx::int32), 0, s);
  mx::Shape shape(taken.ndim(), 1);
  shape[0] = sequences;
  const auto mask =
      mx::reshape(mx::astype(mx::array(there.data(), {sequences}, mx::uint8), mx::bool_, s), shape, s);
  return mx::where(mask, taken, otherwise, s);
}

TurnedCore turned_core(const mx::array& log, const mx::array& w, const mx::array& g, const mx::array& x,
                       const std::optional<mx::array>& mimo_x, const mx::array& B, const mx::array& C,
                       const std::optional<mx::array>& B_bias, const std::optional<mx::array>& C_bias,
                       const std::optional<Phases>& phases, const mx::array& initial,
                       const std::vector<int32_t>& cu_seqlens, int64_t chunk, RotaryPairing pairing,
                       const std::optional<mx::array>& D, const std::optional<Finish>& finish, mx::Stream stream) {
  const int heads = x.shape(2), rank = B.shape(2);
  const Borders cu = borders_of(cu_seqlens);
  const kernel::Mamba3Shape s = core_shape(x, rank, B.shape(4), cu, chunk);
  if (composed(stream) || x.size() == 0 || !s.recurrent || !kernel::mamba3_spans_fit(s)) {
    std::optional<mx::array> phi, last;
    if (phases) {
      std::tie(phi, last) = phase(phases->angle, phases->dt, phases->initial, cu_seqlens, stream);
    }
    const auto wide = mx::expand_dims(x, 3, stream);
    const auto v = mimo_x ? mx::multiply(wide, *mimo_x, stream) : wide;
    const auto k = rotate(B, B_bias, phi, heads, pairing, stream),
               q = rotate(C, C_bias, phi, heads, pairing, stream);
    const auto [y, final] = core(log, w, g, v, k, q, initial, cu_seqlens, chunk, stream);
    if (!finish) return {y, final, last};
    Mamba3Options o;
    o.D = D, o.z = finish->z;
    return {combine(y, x, o, stream), final, last, true};
  }
  const Arrays in{log,
                  w,
                  g,
                  x,
                  initial,
                  B,
                  C,
                  B_bias.value_or(ops::absent()),
                  C_bias.value_or(ops::absent()),
                  phases ? phases->angle : ops::absent(),
                  phases ? phases->dt : ops::absent(),
                  phases ? phases->initial : ops::absent(),
                  D.value_or(ops::absent()),
                  finish ? finish->z.value_or(ops::absent()) : ops::absent(),
                  mimo_x.value_or(ops::absent())};
  const mx::Shape states{static_cast<int>(s.slots()), static_cast<int>(s.heads), static_cast<int>(s.state),
                         static_cast<int>(s.headdim)};
  TurnedConfig config{pairing, B_bias.has_value(), C_bias.has_value(), phases.has_value()};
  config.finish = finish.has_value(), config.D = D.has_value(), config.mimo = mimo_x.has_value();
  config.z = finish && finish->z;
  const mx::Shape last = phases ? phases->initial.shape() : mx::Shape{1};
  const mx::Shape ranks{x.shape(0), x.shape(1), heads, rank, x.shape(3)};
  const Arrays out = mx::array::make_arrays({finish ? x.shape() : ranks, initial.shape(), states, last, ranks},
                                            std::vector<mx::Dtype>(5, x.dtype()),
                                            std::make_shared<TurnedCorePrimitive>(stream, cu, chunk, config), in);
  return {out[0], out[1], phases ? std::optional(out[3]) : std::nullopt, true};
}

mx::array combine(const mx::array& y, const mx::array& x, const Mamba3Options& o, mx::Stream stream) {
  if (composed(stream) || y.size() == 0) return combine_composed(y, x, o, stream);
  CombineConfig config;
  config.eps = o.eps;
  Arrays inputs{y, x};
  config.has[kY] = config.has[kX] = true;
  for (const auto* a : {&o.D, &o.mimo_x, &o.mimo_z, &o.mimo_o, &o.z, &o.out_norm_weight}) {
    config.has[inputs.size()] = a->has_value();
    inputs.push_back(a->value_or(ops::absent()));
  }
  return mx::array(x.shape(), x.dtype(), std::make_shared<Combine>(stream, config), inputs);
}

std::vector<mx::array> step(const Mamba3State& state, const mx::array& x, const mx::array& B, const mx::array& C,
                            const mx::array& dd_dt, const mx::array& dd_A, const mx::array& trap,
                            const Mamba3Options& o, mx::Stream stream) {
  StepConfig config{o.pairing, o.A_activation, o.A_floor, o.eps};
  Arrays inputs{state.angle, state.ssm, state.k, state.v, x, B, C, dd_dt, dd_A, trap};
  std::fill_n(config.has.begin(), inputs.size(), true);
  for (const auto* a : {&o.angle, &o.dt_bias, &o.B_norm_weight, &o.C_norm_weight, &o.B_bias, &o.C_bias, &o.D, &o.z,
                        &o.mimo_x, &o.mimo_z, &o.mimo_o, &o.out_norm_weight}) {
    config.has[inputs.size()] = a->has_value();
    inputs.push_back(a->value_or(ops::absent()));
  }
  return mx::array::make_arrays({x.shape(), state.angle.shape(), state.ssm.shape(), state.k.shape()},
                                std::vector<mx::Dtype>(4, x.dtype()), std::make_shared<Step>(stream, config),
                                inputs);
}

bool runs_composed(mx::Stream stream) { return composed(stream); }

}  // namespace aspis::mamba3_stages
