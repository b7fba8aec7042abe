#include "aspis/ops/common/profile.h"

#include <mlx/memory.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <memory>
#include <set>
#include <unordered_set>

#include "aspis/base/clock.h"

namespace aspis::ops {

namespace {

Profiler* g_profiler = nullptr;

// Operations that only look at data in another way, unless the layout forces a
// copy. Others share a buffer with an input when they write over it.
bool may_be_view(std::string_view name) {
  static const std::set<std::string, std::less<>> names{
      "AsStrided", "Broadcast",    "BroadcastAxes", "Contiguous", "Copy",  "CustomTransforms",
      "Depends",   "ExpandDims",   "Flatten",       "Reshape",    "Slice", "Split",
      "Squeeze",   "StopGradient", "Transpose",     "Unflatten",  "View"};
  return names.contains(name);
}

// Hands over a buffer that an operation before it has filled.
bool hands_over(std::string_view name) { return name == "take_updated"; }

std::string list_shapes(const Arrays& arrays) {
  constexpr size_t kMost = 6;  // an optimizer's update has hundreds
  std::string text;
  for (size_t i = 0; i < std::min(arrays.size(), kMost); i++)
    text += (i ? ", " : "") + to_string(arrays[i].shape());
  if (arrays.size() > kMost) text += ", ... (" + std::to_string(arrays.size()) + ")";
  return text;
}

// What there is in memory of an array: one row of a broadcast one.
int64_t stored_bytes(const mx::array& a) {
  return static_cast<int64_t>(std::min(a.data_size(), a.size()) * mx::size_of(a.dtype()));
}

}  // namespace

// Stands for another primitive and leaves a mark before and after its work.
class TimedPrimitive final : public mx::Primitive {
 public:
  TimedPrimitive(std::shared_ptr<mx::Primitive> inner, Profiler& profiler)
      : Primitive(inner->stream()), inner_(std::move(inner)), profiler_(profiler) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    if (g_profiler != &profiler_) return inner_->eval_cpu(in, out);  // a node that outlived its profiler
    ProfileEvent& event = profiler_.add_event();
    event.name = inner_->name();
    const auto* own = dynamic_cast<const CpuPrimitive*>(inner_.get());
    event.engine = own == nullptr;
    if (own) event.work = own->work(in, out);
    event.shapes = list_shapes(in) + " -> " + list_shapes(out);
    event.host_start = profiler_.now();
    for (const auto& a : in) event.bytes += stored_bytes(a);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([&event, p = &profiler_] { event.start = p->now(); });
    inner_->eval_cpu(in, out);
    encoder.dispatch([&event, p = &profiler_] { event.seconds = p->now() - event.start; });
    const auto shared = [&](const mx::array& o) {
      return std::any_of(in.begin(), in.end(),
                         [&](const mx::array& a) { return a.data_shared_ptr() == o.data_shared_ptr(); });
    };
    event.view =
        hands_over(event.name) || (may_be_view(event.name) && std::all_of(out.begin(), out.end(), shared));
    for (const auto& a : out) event.bytes += stored_bytes(a);
    if (event.view) event.bytes = 0;
    event.host_seconds = profiler_.now() - event.host_start;
    event.active_bytes = static_cast<int64_t>(mx::get_active_memory());
  }

  void eval_gpu(const Arrays& in, Arrays& out) override { inner_->eval_gpu(in, out); }
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override {
    return inner_->jvp(primals, tangents, argnums);
  }
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    return inner_->vjp(primals, cotangents, argnums, outputs);
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& in, const std::vector<int>& axes) override {
    return inner_->vmap(in, axes);
  }
  const char* name() const override { return inner_->name(); }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return inner_->output_shapes(in); }

 private:
  std::shared_ptr<mx::Primitive> inner_;
  Profiler& profiler_;
};

namespace {

// Wraps the primitives of all nodes that are still to be computed. Nothing may
// hold on to the arrays afterwards: a buffer with another owner is not reused.
void wrap(const Arrays& outputs, Profiler& profiler) {
  std::unordered_set<std::uintptr_t> seen;
  Arrays open = outputs;
  while (!open.empty()) {
    mx::array a = std::move(open.back());
    open.pop_back();
    if (!a.has_primitive() || a.status() != mx::array::Status::unscheduled || !seen.insert(a.id()).second)
      continue;
    if (!dynamic_cast<TimedPrimitive*>(&a.primitive())) {
      const auto timed = std::make_shared<TimedPrimitive>(a.primitive_ptr(), profiler);
      for (const auto& sibling : a.siblings()) {
        seen.insert(sibling.id());
        sibling.primitive_ptr() = timed;
      }
      a.primitive_ptr() = timed;
    }
    for (const auto& input : a.inputs()) open.push_back(input);
  }
}

}  // namespace

Profiler::Profiler(int skip, int keep) : skip_(skip), keep_(keep), origin_(monotonic_seconds()) {
  require(g_profiler == nullptr, [] {
    return Error::Parts{.where = "profiler",
                        .required = "only one profiler may be alive at a time",
                        .got = "a second one",
                        .hint = ""};
  });
  g_profiler = this;
}

Profiler::~Profiler() { g_profiler = nullptr; }

double Profiler::now() const { return monotonic_seconds() - origin_; }

ProfileEvent& Profiler::add_event() {
  events_.emplace_back();
  events_.back().evaluation = static_cast<int>(spans_.size());
  return events_.back();
}

void evaluate(std::vector<mx::array> outputs) {
  Profiler* p = g_profiler;
  if (!p) return mx::eval(std::move(outputs));
  const int call = p->calls_++;
  if (call < p->skip_ || call - p->skip_ >= p->keep_) {
    g_profiler = nullptr;  // nodes wrapped before stay silent too
    try {
      mx::eval(std::move(outputs));
    } catch (...) {
      g_profiler = p;
      throw;
    }
    g_profiler = p;
    return;
  }
  wrap(outputs, *p);
  const double start = p->now();
  mx::eval(std::move(outputs));
  p->spans_.push_back({start, p->now() - start, static_cast<double>(mx::get_active_memory())});
}

}  // namespace aspis::ops
