#include "aspis/ops/channel_norm/channel_norm_cases.h"

#include "aspis/ops/channel_norm/cases.h"
#include "aspis/ops/channel_norm/channel_norm.h"
#include "aspis/ops/channel_norm/kernel/reference.h"

namespace aspis {
namespace {

// No gradient flows through the running statistics, and finite differences would
// say otherwise: they are results of the larger cases only.
bool follows(const ChannelNormCase& c, bool batch) { return batch && !c.given && !(c.uses & harness::kGrad); }

constexpr float kEps = 1e-3f, kMomentum = 0.25f;

// Where the inputs of a case stand; -1 for those it has not.
struct Places {
  int weight = -1, bias = -1, residual = -1, mean = -1, var = -1;
};

Places places_of(const ChannelNormCase& c, bool batch) {
  Places p;
  int next = 1;
  if (c.weight) p.weight = next++;
  if (c.bias) p.bias = next++;
  if (c.residual) p.residual = next++;
  if (batch) p.mean = next, p.var = next + 1;
  return p;
}

harness::Tensors reference(const ChannelNormCase& c, bool batch, const harness::Tensors& in) {
  const Places at = places_of(c, batch);
  const auto data = [&](int i) { return i < 0 ? nullptr : in[static_cast<size_t>(i)].data.data(); };
  kernel::ChannelNormParams<double> p;
  p.samples = batch ? 1 : c.shape[0];
  p.channels = c.shape.back();
  p.rows = in[0].size() / (p.samples * p.channels);
  p.groups = batch ? p.channels : c.groups;
  p.eps = static_cast<double>(kEps);
  p.activation = c.activation;
  p.x = data(0);
  p.weight = data(at.weight), p.bias = data(at.bias), p.residual = data(at.residual);
  harness::Tensors out = {{c.shape, std::vector<double>(in[0].data.size())}};
  if (follows(c, batch)) {
    const int channels = c.shape.back();
    out.resize(3, harness::Tensor{{channels}, std::vector<double>(static_cast<size_t>(channels))});
    p.momentum = static_cast<double>(kMomentum);
    p.running_mean = data(at.mean), p.running_var = data(at.var);
    p.new_mean = out[1].data.data(), p.new_var = out[2].data.data();
  } else if (c.given) {
    p.given_mean = data(at.mean), p.given_var = data(at.var);
  }
  p.y = out[0].data.data();
  kernel::channel_norm_reference(p);
  return out;
}

harness::OpInstance instance_of(const ChannelNormCase& c, bool batch) {
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  if (!batch) plain.name += " in " + std::to_string(c.groups);
  if (c.given) plain.name += " given";
  if (c.residual) plain.name += " residual";
  if (!c.weight) plain.name += " no weight";
  if (!c.bias) plain.name += " no bias";
  constexpr const char* kNames[] = {"", " relu", " silu", " gelu", " gelu_tanh"};
  plain.name += kNames[static_cast<int>(c.activation)];
  plain.uses = c.uses;
  const int channels = c.shape.back();
  plain.inputs = {{"x", c.shape}};
  if (c.weight) plain.inputs.push_back({"weight", {channels}, harness::Fill::uniform(0.5, 1.5)});
  if (c.bias) plain.inputs.push_back({"bias", {channels}});
  if (c.residual) plain.inputs.push_back({"residual", c.shape});
  if (batch) {
    plain.inputs.push_back({"mean", {channels}, harness::Fill::normal(), false});
    plain.inputs.push_back({"var", {channels}, harness::Fill::uniform(0.5, 2), false});
  }
  plain.reference = [c, batch](const harness::Tensors& in) { return reference(c, batch, in); };
  const double exps = c.activation > Activation::kRelu ? n : 0, arrays = c.residual ? 1 : 0;
  const double passes = c.given ? 1 : 2;
  plain.forward = {.flops = 8 * n, .exps = exps, .bytes = 4 * n * (passes + arrays + 1)};
  const bool again =
      c.activation != Activation::kNone && c.residual;  // read in both passes, and a gradient written
  plain.backward = {.flops = 12 * n, .exps = 2 * exps, .bytes = 4 * n * (4 + 1 + (again ? 3 : 0))};
  const auto options = [c, batch](const harness::Arrays& in) {
    const Places at = places_of(c, batch);
    ChannelNormOptions o{.eps = kEps, .activation = c.activation};
    if (c.residual) o.residual = in[static_cast<size_t>(at.residual)];
    return o;
  };
  const auto run = [c, batch, options](const harness::Arrays& in, bool composed) -> harness::Arrays {
    const Places at = places_of(c, batch);
    const auto get = [&](int i) { return i < 0 ? std::nullopt : std::optional(in[static_cast<size_t>(i)]); };
    const auto w = get(at.weight), b = get(at.bias);
    const auto o = options(in);
    if (!batch)
      return {composed ? group_norm_composed(in[0], c.groups, w, b, o) : group_norm(in[0], c.groups, w, b, o)};
    const mx::array &mean = in[static_cast<size_t>(at.mean)], &var = in[static_cast<size_t>(at.var)];
    if (c.given) {
      return {composed ? batch_norm_composed(in[0], w, b, mean, var, o) : batch_norm(in[0], w, b, mean, var, o)};
    }
    const auto r = composed ? batch_norm_training_composed(in[0], w, b, mean, var, kMomentum, o)
                            : batch_norm_training(in[0], w, b, mean, var, kMomentum, o);
    if (!follows(c, batch)) return {r.y};
    return {r.y, r.running_mean, r.running_var};
  };
  return {plain, [run](const harness::Arrays& in) { return run(in, false); },
          [run](const harness::Arrays& in) { return run(in, true); }};
}

harness::OpEntry entry(const char* name, const char* summary, const std::vector<ChannelNormCase>& cases,
                       bool batch) {
  return {name, summary, {"cpu", "composed"}, true, false, [&cases, batch] {
            std::vector<harness::OpInstance> instances;
            for (const ChannelNormCase& c : cases) instances.push_back(instance_of(c, batch));
            return instances;
          }};
}

}  // namespace

harness::OpEntry batch_norm_entry() {
  return entry("batch_norm", "Batch norm, training and inference, with residual and activation", kBatchNormCases,
               true);
}
harness::OpEntry group_norm_entry() {
  return entry("group_norm", "Group and instance norm, with residual and activation", kGroupNormCases, false);
}

}  // namespace aspis
