#include "aspis/ops/harness/harness.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/harness/bounds.h"
#include "aspis/simd/isa.h"

namespace aspis::harness {
namespace {

Arrays to_arrays(const OpCase& c, const Tensors& tensors, mx::Dtype dtype) {
  Arrays arrays;
  for (size_t i = 0; i < tensors.size(); i++) arrays.push_back(to_array(tensors[i], c.inputs[i], dtype));
  return arrays;
}

std::vector<size_t> differentiable_inputs(const OpCase& c) {
  std::vector<size_t> indices;
  for (size_t i = 0; i < c.inputs.size(); i++) {
    if (c.inputs[i].differentiable && !c.inputs[i].fill.is_integer()) indices.push_back(i);
  }
  return indices;
}

// Random weights of the loss sum_k <w_k, output_k>, one tensor per output.
Tensors loss_weights(const OpCase& c, const Tensors& outputs, uint64_t seed, bool round_to_float) {
  Tensors weights;
  for (size_t k = 0; k < outputs.size(); k++) {
    Rng rng(seed, "harness.weights." + c.name, k);
    Tensor w{outputs[k].shape, std::vector<double>(outputs[k].data.size())};
    for (double& v : w.data) {
      v = rng.normal();
      if (round_to_float) v = static_cast<float>(v);
    }
    weights.push_back(std::move(w));
  }
  return weights;
}

struct Evaluation {
  Arrays outputs, gradients;  // gradients of the differentiable inputs only
};

Evaluation evaluate(const OpCase& c, const ArrayFn& fn, const Arrays& inputs, const Arrays& cotangents) {
  const auto wanted = differentiable_inputs(c);
  if (cotangents.empty() || wanted.empty()) {
    Evaluation e{fn(inputs), {}};
    mx::eval(e.outputs);
    return e;
  }
  Arrays primals;
  for (const size_t i : wanted) primals.push_back(inputs[i]);
  auto [outputs, gradients] = mx::vjp(
      [&](const Arrays& moved) {
        Arrays all = inputs;
        for (size_t k = 0; k < wanted.size(); k++) all[wanted[k]] = moved[k];
        return fn(all);
      },
      primals, cotangents);
  Arrays both = outputs;
  both.insert(both.end(), gradients.begin(), gradients.end());
  mx::eval(both);
  return {std::move(outputs), std::move(gradients)};
}

Arrays cotangent_arrays(const Tensors& weights, mx::Dtype dtype) {
  Arrays arrays;
  for (const Tensor& w : weights) arrays.push_back(to_array(w, {}, dtype));
  return arrays;
}

bool same_bits(const mx::array& a, const mx::array& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  Arrays dense = {mx::contiguous(a), mx::contiguous(b)};
  mx::eval(dense);
  return std::memcmp(dense[0].data<uint8_t>(), dense[1].data<uint8_t>(), dense[0].nbytes()) == 0;
}

bool same_bits(const Evaluation& a, const Evaluation& b) {
  const auto same = [](const Arrays& x, const Arrays& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [](const mx::array& p, const mx::array& q) { return same_bits(p, q); });
  };
  return same(a.outputs, b.outputs) && same(a.gradients, b.gradients);
}

// Views of `a` with equal values but another memory layout.
std::vector<std::pair<std::string, mx::array>> layouts_of(const mx::array& a) {
  std::vector<std::pair<std::string, mx::array>> views;
  const int ndim = static_cast<int>(a.ndim());
  if (ndim == 0 || a.size() == 0) return views;
  for (int axis : {ndim - 1, ndim - 2}) {
    if (axis < 0) continue;
    // Neighbours of another value on both sides: reading past a row shows.
    std::vector<std::pair<int, int>> pads(ndim, {0, 0});
    pads[axis] = {1, 2};
    mx::array wide = mx::contiguous(mx::pad(a, pads, mx::array(-77, a.dtype())));
    mx::Shape start(ndim, 0), stop = wide.shape();
    start[axis] = 1;
    stop[axis] -= 2;
    views.emplace_back("slice of axis " + std::to_string(axis), mx::slice(wide, start, stop));
  }
  // Dense, but at an address that no allocator gives: one element further.
  const auto around = mx::full({1}, mx::array(-77, a.dtype()));
  const auto longer = mx::contiguous(mx::concatenate({around, mx::flatten(a), around}, 0));
  views.emplace_back("one element further",
                     mx::reshape(mx::slice(longer, {1}, {1 + static_cast<int>(a.size())}), a.shape()));
  if (ndim >= 2) {
    const auto stored = mx::contiguous(mx::swapaxes(a, -1, -2));
    views.emplace_back("transposed", mx::swapaxes(stored, -1, -2));
  }
  for (auto& [name, view] : views) mx::eval(view);
  return views;
}

// `a` with its first row along axis 0 repeated by a stride of zero.
mx::array broadcast_first(const mx::array& a) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  stop[0] = 1;
  return mx::broadcast_to(mx::contiguous(mx::slice(a, start, stop)), a.shape());
}

// Central differences with step 1e-5 of a sum over all outputs, as a share of what one input changes it by.
constexpr double kDirection = 2e-7;

class Checker {
 public:
  Checker(const OpEntry& entry, const OpInstance& instance, const CheckOptions& options)
      : entry_(entry), c_(instance.plain), instance_(instance), options_(options) {
    result_.op = entry.name, result_.case_name = c_.name, result_.isa = active_isa();
  }

  CheckResult run() {
    try {
      check_all();
    } catch (const std::exception& e) {
      fail(std::string("it threw: ") + e.what());
    }
    return result_;
  }

 private:
  void check_all() {
    inputs_ = make_inputs(c_, options_.seed, true);
    reference_ = c_.reference(inputs_);
    weights_ = loss_weights(c_, reference_, options_.seed, true);
    check_values();
    if (entry_.has_gradient && result_.passed) check_gradients();
    if (options_.half && entry_.half && result_.passed) {
      check_half(mx::bfloat16, 0x1p-8, "bfloat16", result_.bfloat16);
      check_half(mx::float16, 0x1p-11, "float16", result_.float16);
    }
    if (options_.threads && result_.passed) check_threads();
    if (options_.layouts && result_.passed) check_layouts();
  }

  void fail(const std::string& message) {
    if (result_.passed) result_.message = message;
    result_.passed = false;
  }

  void expect_below(double error, double tolerance, const std::string& what) {
    if (!(error <= tolerance)) {
      char text[96];
      std::snprintf(text, sizeof text, ": error %.2e is above %.0e", error, tolerance);
      fail(what + text);
    }
  }

  double worst_error(const Arrays& got, const Tensors& want, double tolerance, const std::string& what) {
    if (got.size() != want.size()) {
      fail(what + ": " + std::to_string(got.size()) + " outputs, " + std::to_string(want.size()) + " expected");
      return INFINITY;
    }
    double worst = 0;
    for (size_t k = 0; k < got.size(); k++) {
      const double e = normalized_error(to_tensor(got[k]), want[k]);
      expect_below(e, tolerance, what + ", output " + std::to_string(k));
      worst = std::max(worst, e);
    }
    return worst;
  }

  void check_values() {
    const Arrays f32 = to_arrays(c_, inputs_, mx::float32), f64 = to_arrays(c_, inputs_, mx::float64);
    result_.single.forward = worst_error(evaluate(c_, instance_.op, f32, {}).outputs, reference_,
                                         c_.tolerance.forward, "float32 forward against the oracle");
    result_.wide.forward = worst_error(evaluate(c_, instance_.op, f64, {}).outputs, reference_,
                                       c_.tolerance.forward_double, "float64 forward against the oracle");
    if (instance_.composed) {
      result_.composed.forward = worst_error(evaluate(c_, instance_.composed, f64, {}).outputs, reference_,
                                             c_.tolerance.forward_double, "composed version against the oracle");
    }
  }

  void check_gradients() {
    const auto wanted = differentiable_inputs(c_);
    const auto name = [&](size_t k) { return "gradient of " + c_.inputs[wanted[k]].name; };
    const Arrays f64 = to_arrays(c_, inputs_, mx::float64);
    const Arrays w64 = cotangent_arrays(weights_, mx::float64);
    const Evaluation exact = evaluate(c_, instance_.op, f64, w64);
    Tensors exact_gradients;
    for (const auto& g : exact.gradients) exact_gradients.push_back(to_tensor(g));

    const Evaluation single =
        evaluate(c_, instance_.op, to_arrays(c_, inputs_, mx::float32), cotangent_arrays(weights_, mx::float32));
    for (size_t k = 0; k < wanted.size(); k++) {
      const double e = normalized_error(to_tensor(single.gradients[k]), exact_gradients[k]);
      expect_below(e, c_.tolerance.gradient, name(k) + ", float32 against float64");
      result_.single.gradient = std::max(result_.single.gradient, e);
    }
    Tensors composed_gradients;
    if (instance_.composed) {
      const Evaluation composed = evaluate(c_, instance_.composed, f64, w64);
      for (size_t k = 0; k < wanted.size(); k++) {
        composed_gradients.push_back(to_tensor(composed.gradients[k]));
        const double e = normalized_error(exact_gradients[k], composed_gradients[k]);
        expect_below(e, c_.tolerance.gradient_double, name(k) + ", float64 against the composed version");
        result_.wide.gradient = std::max(result_.wide.gradient, e);
      }
    }
    if (c_.uses & kGrid) check_direction(wanted, exact_gradients);
    if (options_.finite_differences && (c_.uses & kGrad)) {
      for (size_t k = 0; k < wanted.size(); k++) {
        const Tensor numeric = numeric_gradient(c_, inputs_, weights_, wanted[k]);
        // Central differences with step 1e-6 are good to about 1e-8 of the
        // largest loss term; 1e-6 leaves room for curvature.
        const double e = normalized_error(exact_gradients[k], numeric);
        expect_below(e, 1e-6, name(k) + " against finite differences");
        if (!instance_.composed) result_.wide.gradient = std::max(result_.wide.gradient, e);
        if (instance_.composed) {
          result_.composed.gradient =
              std::max(result_.composed.gradient, normalized_error(composed_gradients[k], numeric));
        }
      }
    }
  }

  // All inputs move at once, each by a random direction that changes the loss by about as much as the others do,
  // so that an error of a given share of any one gradient weighs the same.
  void check_direction(const std::vector<size_t>& wanted, const Tensors& gradients) {
    const auto length = [](const Tensor& g) {
      double squares = 0;
      for (const double v : g.data) squares += v * v;
      return std::sqrt(squares);
    };
    double unit = INFINITY;  // what one input changes the loss by
    for (const auto& g : gradients) {
      if (length(g) > 0) unit = std::min(unit, length(g));
    }
    Tensors directions;
    for (const auto& in : inputs_) directions.push_back({in.shape, {}});
    const auto aim = [&](size_t k) {
      Rng rng(options_.seed, "harness.direction." + c_.name, k);
      const double scale = unit / std::max(length(gradients[k]), unit);
      double sum = 0;
      for (const double g : gradients[k].data) {
        directions[wanted[k]].data.push_back(scale * rng.normal());
        sum += g * directions[wanted[k]].data.back();
      }
      return sum;
    };
    const auto differs = [&](double analytic) {
      return std::abs(analytic - directional_derivative(c_, inputs_, weights_, directions)) / unit;
    };
    double analytic = 0;
    for (size_t k = 0; k < wanted.size(); k++) analytic += aim(k);
    const double e = differs(analytic);
    result_.wide.gradient = std::max(result_.wide.gradient, e);
    if (e <= kDirection) return;
    for (size_t k = 0; k < wanted.size(); k++) {
      for (auto& d : directions) d.data.clear();
      expect_below(differs(aim(k)), kDirection,
                   "gradient of " + c_.inputs[wanted[k]].name + " along a direction against the oracle");
    }
    expect_below(e, kDirection, "gradients along a direction against the oracle");
  }

  // The oracle and the float64 gradients see the rounded inputs. What may be lost is twice the rounding of a
  // result and 1e-3 (operators.md 7.2): one rounding where arithmetic is in float32 throughout, another for a
  // value that the forward pass keeps in the type of its input.
  void check_half(mx::Dtype dtype, double roundoff, const std::string& type, Errors& errors) {
    // Below 6e-5 the numbers of float16 lie 2^-24 apart, however small.
    const double spacing = dtype == mx::float16 ? 0x1p-24 : 0;
    const auto gate = [&](const Tensor& want) {
      double largest = 1e-30;
      for (const double v : want.data) largest = std::max(largest, std::abs(v));
      return 2 * roundoff + 1e-3 + spacing / largest;
    };
    Arrays half, exact;
    Tensors rounded;
    const auto round = [&](const mx::array& a) { return mx::astype(a, dtype); };
    for (size_t i = 0; i < inputs_.size(); i++) {
      const mx::array a = to_array(inputs_[i], c_.inputs[i], mx::float32);
      half.push_back(c_.inputs[i].fill.is_integer() ? a : round(a));
      rounded.push_back(to_tensor(half.back()));
      exact.push_back(to_array(rounded.back(), c_.inputs[i], mx::float64));
    }
    const Tensors want = c_.reference(rounded);
    const Arrays got = evaluate(c_, instance_.op, half, {}).outputs;
    Arrays half_cotangents, exact_cotangents;
    for (size_t k = 0; k < got.size(); k++) {
      const double limit = got[k].dtype() == dtype ? gate(want[k]) : c_.tolerance.forward;
      const double e = normalized_error(to_tensor(got[k]), want[k]);
      expect_below(e, limit, type + " forward against the oracle, output " + std::to_string(k));
      errors.forward = std::max(errors.forward, e);
      if (k < weights_.size()) {
        half_cotangents.push_back(mx::astype(to_array(weights_[k], {}, mx::float32), got[k].dtype()));
        exact_cotangents.push_back(to_array(to_tensor(half_cotangents.back()), {}, mx::float64));
      }
    }
    if (!entry_.has_gradient) return;
    const auto wanted = differentiable_inputs(c_);
    const Arrays gradients = evaluate(c_, instance_.op, half, half_cotangents).gradients,
                 fine = evaluate(c_, instance_.op, exact, exact_cotangents).gradients;
    for (size_t k = 0; k < wanted.size(); k++) {
      const Tensor want_gradient = to_tensor(fine[k]);
      const double e = normalized_error(to_tensor(gradients[k]), want_gradient);
      expect_below(e, gate(want_gradient), type + " gradient of " + c_.inputs[wanted[k]].name);
      errors.gradient = std::max(errors.gradient, e);
    }
  }

  Arrays single_cotangents() const {
    return entry_.has_gradient ? cotangent_arrays(weights_, mx::float32) : Arrays{};
  }

  void check_threads() {
    const Arrays inputs = to_arrays(c_, inputs_, mx::float32);
    const int saved = num_threads();
    set_num_threads(1);
    const Evaluation one = evaluate(c_, instance_.op, inputs, single_cotangents());
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      if (!same_bits(one, evaluate(c_, instance_.op, inputs, single_cotangents()))) {
        fail("results with 1 and " + std::to_string(threads) + " threads differ in bits");
      }
    }
    set_num_threads(saved);
  }

  void check_layouts() {
    const Arrays inputs = to_arrays(c_, inputs_, mx::float32);
    const Arrays cotangents = single_cotangents();
    const Evaluation plain = evaluate(c_, instance_.op, inputs, cotangents);
    for (size_t i = 0; i < inputs.size(); i++) {
      Arrays moved = inputs;
      for (const auto& [layout, view] : layouts_of(inputs[i])) {
        moved[i] = view;
        if (!same_bits(plain, evaluate(c_, instance_.op, moved, cotangents))) {
          fail("input " + c_.inputs[i].name + " as " + layout + " gives another result");
        }
      }
      if (inputs[i].ndim() >= 2 && inputs[i].shape(0) > 1) {
        moved[i] = broadcast_first(inputs[i]);
        const Evaluation broadcast = evaluate(c_, instance_.op, moved, cotangents);
        moved[i] = mx::contiguous(moved[i]);
        if (!same_bits(broadcast, evaluate(c_, instance_.op, moved, cotangents))) {
          fail("input " + c_.inputs[i].name + " as a broadcast view gives another result");
        }
      }
    }
    if (!cotangents.empty()) {
      Arrays ones_view, ones_dense;
      for (const auto& w : cotangents) {
        ones_view.push_back(mx::broadcast_to(mx::array(1.0f), w.shape()));
        ones_dense.push_back(mx::contiguous(ones_view.back()));
      }
      if (!same_bits(evaluate(c_, instance_.op, inputs, ones_view),
                     evaluate(c_, instance_.op, inputs, ones_dense))) {
        fail("a broadcast cotangent gives another gradient than a dense one");
      }
    }
  }

  const OpEntry& entry_;
  const OpCase& c_;
  const OpInstance& instance_;
  const CheckOptions options_;
  CheckResult result_;
  Tensors inputs_, reference_, weights_;
};

}  // namespace

mx::array to_array(const Tensor& t, const TensorSpec& spec, mx::Dtype dtype) {
  const mx::Shape shape(t.shape.begin(), t.shape.end());
  if (spec.fill.is_integer()) {
    const std::vector<int32_t> values(t.data.begin(), t.data.end());
    return mx::array(values.begin(), shape, mx::int32);
  }
  if (dtype == mx::float64) return mx::array(t.data.begin(), shape, mx::float64);
  const std::vector<float> values(t.data.begin(), t.data.end());
  return mx::array(values.begin(), shape, mx::float32);
}

Tensor to_tensor(const mx::array& a) {
  mx::array wide = mx::contiguous(mx::astype(a, mx::float64, mx::Device::cpu), false, mx::Device::cpu);
  wide.eval();
  Tensor t{{a.shape().begin(), a.shape().end()}, {}};
  t.data.assign(wide.data<double>(), wide.data<double>() + wide.size());
  return t;
}

CheckResult check_case(const OpEntry& entry, const OpInstance& instance, const CheckOptions& options) {
  return Checker(entry, instance, options).run();
}

Timing time_repeatedly(const std::function<void()>& run, double seconds) {
  run();  // first-touch of buffers, creation of primitives
  std::vector<double> times;
  const double start = monotonic_seconds();
  while (times.size() < 3 || (monotonic_seconds() - start < seconds && times.size() < 1000)) {
    const double t = monotonic_seconds();
    run();
    times.push_back(monotonic_seconds() - t);
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double q) { return times[static_cast<size_t>(q * static_cast<double>(times.size() - 1))]; };
  return {at(0.5), times.front(), (at(0.9) - at(0.1)) / at(0.5), static_cast<int>(times.size())};
}

PerfResult measure_case(const OpEntry& entry, const OpInstance& instance, double seconds, bool composed,
                        mx::Dtype dtype) {
  const OpCase& c = instance.plain;
  const ArrayFn& fn = composed ? instance.composed : instance.op;
  Arrays inputs = to_arrays(c, make_inputs(c, 1, true), mx::float32);
  for (auto& a : inputs) {
    if (a.dtype() == mx::float32) a = mx::astype(a, dtype);
  }
  mx::eval(inputs);
  const auto sized = [&](Cost cost) {
    cost.bytes *= static_cast<double>(mx::size_of(dtype)) / 4;
    return cost;
  };
  PerfResult result{entry.name, c.name, {}, {}, 0, 0, "", ""};
  Arrays outputs = fn(inputs);
  mx::eval(outputs);
  result.forward = time_repeatedly([&] { mx::eval(fn(inputs)); }, entry.has_gradient ? seconds / 2 : seconds);
  const MachineBounds& bounds = machine_bounds();
  result.forward_bound = bound_seconds(sized(c.forward), bounds, &result.forward_limit);
  if (entry.has_gradient) {
    Arrays cotangents;
    for (const auto& o : outputs) cotangents.push_back(mx::ones(o.shape(), o.dtype()));
    mx::eval(cotangents);
    result.forward_backward = time_repeatedly([&] { evaluate(c, fn, inputs, cotangents); }, seconds / 2);
    const Cost both{c.forward.flops + c.backward.flops, c.forward.exps + c.backward.exps,
                    c.forward.bytes + c.backward.bytes};
    result.forward_backward_bound = bound_seconds(sized(both), bounds, &result.forward_backward_limit);
  }
  return result;
}

}  // namespace aspis::harness
