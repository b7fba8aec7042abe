#include "aspis/nn/recompute.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/nn/drop_path.h"

namespace aspis {
namespace {

using ArrayList = std::vector<mx::array>;

/// Puts arrays back into their places when the scope ends, however it ends.
class Restore {
 public:
  explicit Restore(std::vector<mx::array*> places) : places_(std::move(places)) {
    for (const auto* p : places_) saved_.push_back(*p);
  }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;
  ~Restore() {
    for (size_t i = 0; i < places_.size(); i++) *places_[i] = std::move(saved_[i]);
  }
  const ArrayList& saved() const { return saved_; }

 private:
  std::vector<mx::array*> places_;
  ArrayList saved_;
};

}  // namespace

ArrayList recomputed(Module& module, const std::function<ArrayList(const ArrayList&)>& f,
                     const ArrayList& inputs) {
  std::vector<mx::array*> places;
  for (auto& r : module.parameter_refs()) {
    if (r.trainable) places.push_back(r.value);
  }
  // Arguments are inputs and parameters, because gradients flow to arguments only.
  const size_t n = inputs.size();
  const auto run = [places, f, n](const ArrayList& args) {
    const Restore guard(places);
    for (size_t i = 0; i < places.size(); i++) *places[i] = args[n + i];
    return f({args.begin(), args.begin() + static_cast<ptrdiff_t>(n)});
  };
  const auto gradient = [&module, run, key = RandomStep::key()](const ArrayList& args, const ArrayList& cotangents,
                                                                const ArrayList&) {
    const RandomStep again = RandomStep::again(key);
    const Restore buffers(module.buffer_refs());
    // The second run waits for the gradients that it is for; else it could start at once.
    const auto late = mx::depends(args, cotangents);
    return mx::vjp(run, late, cotangents).second;
  };
  ArrayList args = inputs;
  for (const auto* p : places) args.push_back(*p);
  return mx::custom_vjp(run, gradient)(args);
}

Residual recomputed(Module& module, const std::function<Residual(const Residual&)>& f, const Residual& x) {
  ArrayList inputs{x.sum};
  if (x.branch) inputs.push_back(*x.branch);
  const auto pack = [](const Residual& r) { return r.branch ? ArrayList{r.sum, *r.branch} : ArrayList{r.sum}; };
  const auto unpack = [](const ArrayList& a) {
    return Residual{a[0], a.size() > 1 ? std::optional(a[1]) : std::nullopt};
  };
  return unpack(recomputed(
      module, [f, pack, unpack](const ArrayList& in) { return pack(f(unpack(in))); }, inputs));
}

}  // namespace aspis
