#include "aspis/ops/adamw/optimizer_step.h"

#include <cmath>
#include <memory>
#include <string>

#include "aspis/ops/common/primitive.h"

namespace aspis::ops {
namespace {

// The buffers of a step, from its evaluation until the results take them.
using Results = std::shared_ptr<std::vector<std::optional<mx::array>>>;

// {lists of updated arrays one after the other, averages?, gradients, norm?, loss?} -> applied.
// Results are in the order of the lists and averages, then the rounded parameters.
class UpdateStep : public CpuPrimitive {
 public:
  UpdateStep(mx::Stream stream, const char* op, size_t lists, std::vector<bool> decay, const StepControl& control,
             UpdateKernel kernel, Results results)
      : CpuPrimitive(stream),
        op_(op),
        lists_(lists),
        decay_(std::move(decay)),
        lr_(control.lr),
        step_(control.step),
        gradient_scale_(control.gradient_scale),
        max_norm_(control.max_norm),
        has_norm_(control.norm.has_value()),
        has_loss_(control.loss.has_value()),
        has_averages_(!control.averages.empty()),
        average_decay_(control.average_decay),
        half_(control.half),
        kernel_(std::move(kernel)),
        results_(std::move(results)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    if (in[0].dtype() == mx::float64) {
      run<double>(in, out[0], kernel_.f64);
    } else {
      run<float>(in, out[0], kernel_.f32);
    }
  }
  const char* name() const override { return op_; }

 private:
  template <typename T>
  void run(const Arrays& in, mx::array& applied,
           const std::function<void(const kernel::UpdateParams<T>&)>& kernel) {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const size_t n = decay_.size();
    kernel::UpdateParams<T> p;
    p.arrays.resize(n);
    for (size_t i = 0; i < n; i++) {
      auto& a = p.arrays[i];
      a.n = static_cast<int64_t>(in[i].size());
      a.rows = in[i].ndim() > 1 ? in[i].shape(0) : 0;
      a.decay = decay_[i];
      const size_t first = lists_ + (has_averages_ ? 1 : 0);  // list of the gradients
      const mx::array& gradient = in[first * n + i];
      if (gradient.dtype() == mx::bfloat16) {
        a.half_gradient = reinterpret_cast<const Bf16*>(packed<mx::bfloat16_t>(encoder, gradient, op_));
      } else {
        a.gradient = packed<T>(encoder, gradient, op_);
      }
      for (size_t k = 0; k < first; k++) {
        const mx::array& from = in[k * n + i];
        mx::array to(from.shape(), from.dtype(), nullptr, {});
        // Looked at before `packed`, which may hold a reference.
        const bool in_place =
            from.is_donatable() && from.flags().row_contiguous && from.data_size() == from.size();
        const T* data = packed<T>(encoder, from, op_);
        if (in_place) {
          to.copy_shared_buffer(from);
          encoder.set_output_array(to);
        } else {
          allocate(encoder, to, op_);
        }
        (k < lists_ ? a.in[k] : a.average_in) = data;
        (k < lists_ ? a.out[k] : a.average_out) = to.template data<T>();
        (*results_)[k * n + i] = std::move(to);
      }
      if (half_) {
        mx::array to(in[i].shape(), mx::bfloat16, nullptr, {});
        allocate(encoder, to, op_);
        a.half = reinterpret_cast<Bf16*>(to.data<mx::bfloat16_t>());
        (*results_)[first * n + i] = std::move(to);
      }
    }
    size_t next = (lists_ + (has_averages_ ? 2 : 1)) * n;
    if (has_norm_) p.norm = packed<float>(encoder, in[next++], op_);
    if (has_loss_) p.loss = packed<float>(encoder, in[next++], op_);
    p.average_decay = average_decay_;
    p.learning_rate = lr_;
    p.step = step_;
    p.gradient_scale = gradient_scale_;
    p.max_norm = max_norm_;
    allocate(encoder, applied, op_);
    p.applied = applied.data<float>();
    encoder.dispatch([p = std::move(p), kernel] { kernel(p); });
  }

  const char* op_;
  size_t lists_;
  std::vector<bool> decay_;
  double lr_;
  int64_t step_;
  double gradient_scale_, max_norm_;
  bool has_norm_, has_loss_, has_averages_;
  double average_decay_;
  bool half_;
  UpdateKernel kernel_;
  Results results_;
};

// {applied} -> one updated array: takes the buffer the step left. No kernel runs.
class TakeUpdated : public CpuPrimitive {
 public:
  TakeUpdated(mx::Stream stream, Results results, size_t index)
      : CpuPrimitive(stream), results_(std::move(results)), index_(index) {}

  void eval_cpu(const Arrays&, Arrays& out) override {
    auto& updated = (*results_)[index_];
    if (!updated) {
      throw Error(ErrorKind::kRuntime, {.where = name(),
                                        .required = "the result of an optimizer step can be evaluated once only",
                                        .got = "a second evaluation"});
    }
    out[0].copy_shared_buffer(*updated);
    updated.reset();
  }
  const char* name() const override { return "take_updated"; }

 private:
  Results results_;
  size_t index_;
};

void check_scalar(const char* op, const char* name, const std::optional<mx::array>& a) {
  if (!a) return;
  require(a->size() == 1 && mx::issubdtype(a->dtype(), mx::floating), [&] {
    return Error::Parts{.where = op,
                        .required = std::string(name) + " must be a floating-point scalar",
                        .got = to_string(a->dtype()) + " " + to_string(a->shape())};
  });
}

void check_number(const char* op, bool ok, const char* required, double got) {
  require(ok, [&] { return Error::Parts{.where = op, .required = required, .got = std::to_string(got)}; });
}

}  // namespace

void check_step(const char* op, const std::vector<const char*>& names, const std::vector<Arrays>& updated,
                const Arrays& gradients, const std::vector<bool>& decay, const StepControl& control) {
  const size_t n = updated[0].size();
  const auto check_count = [&](const char* name, size_t count) {
    require(count == n, [&] {
      return Error::Parts{
          .where = op,
          .required = std::string(name) + " must hold one entry per parameter, " + std::to_string(n),
          .got = std::to_string(count)};
    });
  };
  for (size_t k = 0; k < updated.size(); k++) check_count(names[k], updated[k].size());
  check_count("gradients", gradients.size());
  check_count("decay flags", decay.size());
  for (size_t i = 0; i < n; i++) {
    const mx::array& parameter = updated[0][i];
    const std::string number = "[" + std::to_string(i) + "]";
    const auto dtype = parameter.dtype();
    require((dtype == mx::float32 || dtype == mx::float64) && dtype == updated[0][0].dtype(), [&] {
      return Error::Parts{.where = op,
                          .required = "parameters must be float32 (or all float64)",
                          .got = names[0] + number + " of " + to_string(dtype)};
    });
    for (size_t k = 1; k < updated.size(); k++) {
      require_shape(op, (names[k] + number).c_str(), updated[k][i], parameter.shape(), "{parameter}");
      require(updated[k][i].dtype() == dtype, [&] {
        return Error::Parts{.where = op,
                            .required = names[k] + number + " must be " + to_string(dtype) + " like its parameter",
                            .got = to_string(updated[k][i].dtype())};
      });
    }
    require_shape(op, ("gradients" + number).c_str(), gradients[i], parameter.shape(), "{parameter}");
  }
  if (!control.averages.empty()) {
    check_count("averages", control.averages.size());
    for (size_t i = 0; i < n; i++) {
      const std::string name = "averages[" + std::to_string(i) + "]";
      require_shape(op, name.c_str(), control.averages[i], updated[0][i].shape(), "{parameter}");
      require(control.averages[i].dtype() == updated[0][i].dtype(), [&] {
        return Error::Parts{
            .where = op,
            .required = name + " must be " + to_string(updated[0][i].dtype()) + " like its parameter",
            .got = to_string(control.averages[i].dtype())};
      });
    }
  }
  check_number(op, control.average_decay >= 0 && control.average_decay <= 1, "average_decay must be in [0, 1]",
               control.average_decay);
  require(!control.half || n == 0 || updated[0][0].dtype() == mx::float32, [&] {
    return Error::Parts{.where = op,
                        .required = "only float32 parameters have copies in bfloat16",
                        .got = to_string(updated[0][0].dtype())};
  });
  check_scalar(op, "norm", control.norm);
  check_scalar(op, "loss", control.loss);
  check_number(op, std::isfinite(control.lr) && control.lr >= 0, "lr must be a finite number of at least 0",
               control.lr);
  check_number(op, control.step >= 1, "step must be at least 1", static_cast<double>(control.step));
  check_number(op, std::isfinite(control.gradient_scale), "gradient_scale must be a finite number",
               control.gradient_scale);
  check_number(op, control.max_norm >= 0, "max_norm must be a number of at least 0", control.max_norm);
  require(control.max_norm == 0 || control.norm.has_value(), [&] {
    return Error::Parts{.where = op,
                        .required = "clipping needs the norm of the gradients",
                        .got = "none",
                        .hint = "pass global_norm(gradients)"};
  });
}

UpdateResult update_step(const char* op, std::vector<Arrays> updated, Arrays gradients,
                         const std::vector<bool>& decay, StepControl control, UpdateKernel kernel,
                         mx::Stream stream) {
  const size_t n = updated[0].size(), lists = updated.size();
  if (n == 0) return {std::move(updated), {}, {}, mx::array(1.0f)};
  const size_t kept = lists + (control.averages.empty() ? 0 : 1), results_of_one = kept + (control.half ? 1 : 0);
  std::vector<mx::Shape> shapes;
  const mx::Dtype dtype = updated[0][0].dtype();
  Arrays inputs;
  inputs.reserve((kept + 1) * n + 2);
  for (Arrays& list : updated) {
    for (mx::array& a : list) {
      shapes.push_back(a.shape());
      inputs.push_back(std::move(a));
    }
    list.clear();
  }
  if (!control.averages.empty()) {
    // Before the step is made, so that nothing else holds them when it runs.
    for (mx::array& a : control.averages) inputs.push_back(std::move(a));
  }
  for (mx::array& g : gradients) {
    const bool as_it_is = g.dtype() == mx::bfloat16 && dtype == mx::float32;
    inputs.push_back(as_it_is ? g : mx::astype(g, dtype, stream));
  }
  gradients.clear();
  if (control.norm) inputs.push_back(mx::astype(*control.norm, mx::float32, stream));
  if (control.loss) inputs.push_back(mx::astype(*control.loss, mx::float32, stream));

  const auto results = std::make_shared<std::vector<std::optional<mx::array>>>(results_of_one * n);
  auto step = std::make_shared<UpdateStep>(stream, op, lists, decay, control, std::move(kernel), results);
  control = {};
  const mx::array applied(mx::Shape{}, mx::float32, std::move(step), std::move(inputs));
  UpdateResult r{std::move(updated), {}, {}, applied};
  for (size_t j = 0; j < results_of_one * n; j++) {
    const size_t list = j / n;
    const auto type = list < kept ? dtype : mx::bfloat16;
    const mx::array result(shapes[j % n], type, std::make_shared<TakeUpdated>(stream, results, j),
                           Arrays{applied});
    (list < lists ? r.updated[list] : list < kept ? r.averages : r.half).push_back(result);
  }
  return r;
}

}  // namespace aspis::ops
