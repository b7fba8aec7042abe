#include "aspis/ops/adamw/adamw.h"

#include <cmath>

#include "aspis/ops/adamw/kernel/cpu.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {
namespace {

// What the update hands to its results. A primitive with 3 N outputs would keep
// 3 N copies of its 4 N inputs, which is quadratic work and makes every input
// look shared, so that no buffer could be reused. Instead the update is one
// array without content, and each result is an array that depends on it and
// takes its buffer from here.
struct Buffers {
  std::vector<std::optional<mx::array>> arrays;  // parameters, first, second
};

class AdamW : public ops::CpuPrimitive {
 public:
  AdamW(mx::Stream stream, std::vector<bool> decay, int64_t step, double learning_rate, const AdamWOptions& options,
        bool has_norm, bool has_loss, std::shared_ptr<Buffers> buffers)
      : CpuPrimitive(stream),
        decay_(std::move(decay)),
        step_(step),
        learning_rate_(learning_rate),
        options_(options),
        has_norm_(has_norm),
        has_loss_(has_loss),
        buffers_(std::move(buffers)) {}

  // {parameters.., first.., second.., gradients.., norm?, loss?} -> {nothing}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::allocate(encoder, out[0], name());
    ops::dispatch_float(in[0].dtype(), [&](auto tag) { run<decltype(tag)>(encoder, in); });
  }

  std::vector<mx::Shape> output_shapes(const Arrays&) override { return {mx::Shape{0}}; }
  const char* name() const override { return "adamw"; }

 private:
  template <typename T>
  void run(mx::cpu::CommandEncoder& encoder, const Arrays& in) {
    const size_t count = decay_.size();
    kernel::AdamWParams<T> a;
    a.beta1 = options_.beta1;
    a.beta2 = options_.beta2;
    a.eps = options_.eps;
    a.weight_decay = options_.weight_decay;
    a.max_norm = options_.max_norm;
    a.learning_rate = learning_rate_;
    a.step = step_;
    size_t next = 4 * count;
    if (has_norm_) a.norm = ops::packed<T>(encoder, in[next++], name());
    if (has_loss_) a.loss = ops::packed<T>(encoder, in[next++], name());
    a.parts.resize(count);
    // All results have their buffers before any kernel is sent, so that running
    // out of memory leaves the old values as they are.
    for (size_t i = 0; i < count; i++) {
      auto& part = a.parts[i];
      part.size = static_cast<int64_t>(in[i].size());
      part.decay = decay_[i];
      part.new_p = result<T>(encoder, in, i);
      part.new_m = result<T>(encoder, in, count + i);
      part.new_v = result<T>(encoder, in, 2 * count + i);
    }
    for (size_t i = 0; i < count; i++) {
      auto& part = a.parts[i];
      part.p = ops::packed<T>(encoder, in[i], name());
      part.m = ops::packed<T>(encoder, in[count + i], name());
      part.v = ops::packed<T>(encoder, in[2 * count + i], name());
      part.g = ops::packed<T>(encoder, in[3 * count + i], name());
    }
    encoder.dispatch([a = std::move(a)] { kernel::adamw(a); });
  }

  template <typename T>
  T* result(mx::cpu::CommandEncoder& encoder, const Arrays& in, size_t i) {
    mx::array r(in[i].shape(), in[i].dtype(), nullptr, {});
    if (in[i].is_donatable() && in[i].flags().row_contiguous) {
      r.copy_shared_buffer(in[i]);
    } else {
      ops::allocate(encoder, r, name());
    }
    // A result that nobody takes must outlive the kernel all the same.
    encoder.add_temporary(r);
    buffers_->arrays[i] = r;
    return r.data<T>();
  }

  const std::vector<bool> decay_;
  const int64_t step_;
  const double learning_rate_;
  const AdamWOptions options_;
  const bool has_norm_, has_loss_;
  const std::shared_ptr<Buffers> buffers_;
};

// {the update} -> one of its results.
class AdamWTake : public ops::CpuPrimitive {
 public:
  AdamWTake(mx::Stream stream, std::shared_ptr<Buffers> buffers, size_t index)
      : CpuPrimitive(stream), buffers_(std::move(buffers)), index_(index) {}

  void eval_cpu(const Arrays&, Arrays& out) override {
    auto& mine = buffers_->arrays[index_];
    out[0].copy_shared_buffer(*mine);
    mine.reset();  // the result is then the only owner and can be reused by the next update
  }

  const char* name() const override { return "adamw_take"; }

 private:
  const std::shared_ptr<Buffers> buffers_;
  const size_t index_;
};

void fail(std::string required, std::string got, std::string hint = "") {
  throw Error(ErrorKind::kUsage,
              {.where = "adamw", .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
}

void check_arrays(const Arrays& parameters, const Arrays& gradients, const Arrays& first, const Arrays& second,
                  size_t decay) {
  const size_t n = parameters.size();
  if (gradients.size() != n || first.size() != n || second.size() != n || decay != n) {
    const auto text = [](size_t k) { return std::to_string(k); };
    fail("parameters, gradients, first, second and decay must be lists of one length",
         text(n) + ", " + text(gradients.size()) + ", " + text(first.size()) + ", " + text(second.size()) + " and " +
             text(decay));
  }
  for (size_t i = 0; i < n; i++) {
    const mx::Shape& shape = parameters[i].shape();
    const std::string at = "[" + std::to_string(i) + "]";
    ops::require_shape("adamw", ("gradients" + at).c_str(), gradients[i], shape, "of its parameter");
    ops::require_shape("adamw", ("first" + at).c_str(), first[i], shape, "of its parameter");
    ops::require_shape("adamw", ("second" + at).c_str(), second[i], shape, "of its parameter");
    ops::compute_dtype("adamw", {{("gradients" + at).c_str(), &gradients[i]}});
    for (const mx::array* a : {&parameters[i], &first[i], &second[i]}) {
      const mx::Dtype t = a->dtype();
      if ((t == mx::float32 || t == mx::float64) && t == parameters[0].dtype()) continue;
      fail("parameters and moments must all be float32 or all float64", ops::to_string(t) + " at " + at,
           "train in float32");
    }
  }
}

void check_numbers(int64_t step, double rate, const AdamWOptions& o, bool has_norm) {
  const auto check = [](bool ok, const char* what, double value) {
    if (!ok) fail(what, std::to_string(value));
  };
  check(step >= 1, "step must be at least 1", static_cast<double>(step));
  check(rate >= 0 && std::isfinite(rate), "learning_rate must be finite and not negative", rate);
  check(o.beta1 >= 0 && o.beta1 < 1, "beta1 must be in [0, 1)", o.beta1);
  check(o.beta2 >= 0 && o.beta2 < 1, "beta2 must be in [0, 1)", o.beta2);
  check(o.eps >= 0 && std::isfinite(o.eps), "eps must be finite and not negative", o.eps);
  check(o.weight_decay >= 0 && std::isfinite(o.weight_decay), "weight_decay must be finite and not negative",
        o.weight_decay);
  check(o.max_norm >= 0, "max_norm must not be negative", o.max_norm);
  if (o.max_norm > 0 && !has_norm) fail("norm is needed for clipping by max_norm", "none", "global_norm(gradients)");
}

}  // namespace

AdamWResult adamw(const Arrays& parameters, const Arrays& gradients, const Arrays& first, const Arrays& second,
                  const std::vector<bool>& decay, int64_t step, double learning_rate, const AdamWOptions& options,
                  const std::optional<mx::array>& norm, const std::optional<mx::array>& loss,
                  mx::StreamOrDevice s) {
  check_arrays(parameters, gradients, first, second, decay.size());
  check_numbers(step, learning_rate, options, norm.has_value());
  if (parameters.empty()) return {};
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = parameters[0].dtype();
  Arrays in;
  in.reserve(4 * parameters.size() + 2);
  in.insert(in.end(), parameters.begin(), parameters.end());
  in.insert(in.end(), first.begin(), first.end());
  in.insert(in.end(), second.begin(), second.end());
  for (const mx::array& g : gradients) in.push_back(mx::astype(g, dtype, stream));
  const auto add_scalar = [&](const char* what, const std::optional<mx::array>& a) {
    if (!a) return;
    if (a->size() != 1) fail(std::string(what) + " must be a scalar", ops::to_string(a->shape()));
    in.push_back(mx::astype(*a, dtype, stream));
  };
  add_scalar("norm", norm);
  add_scalar("loss", loss);

  auto buffers = std::make_shared<Buffers>();
  buffers->arrays.resize(3 * parameters.size());
  const mx::array done(mx::Shape{0}, dtype,
                       std::make_shared<AdamW>(stream, decay, step, learning_rate, options, norm.has_value(),
                                               loss.has_value(), buffers),
                       std::move(in));
  AdamWResult result;
  size_t index = 0;
  for (auto* list : {&result.parameters, &result.first, &result.second}) {
    for (const mx::array& p : parameters) {
      list->push_back(
          mx::array(p.shape(), dtype, std::make_shared<AdamWTake>(stream, buffers, index++), {done}));
    }
  }
  return result;
}

}  // namespace aspis
