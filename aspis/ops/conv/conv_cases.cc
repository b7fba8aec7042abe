#include "aspis/ops/conv/conv_cases.h"

#include "aspis/ops/conv/cases.h"
#include "aspis/ops/conv/conv.h"
#include "aspis/ops/conv/kernel/reference.h"

namespace aspis {
namespace {

kernel::ConvShape shape_of(const ConvCase& c) {
  const int axes = static_cast<int>(c.x.size()) - 2;
  kernel::ConvShape s;
  s.batch = c.x[0];
  s.in_channels = c.x.back();
  s.out_channels = c.weight[0];
  s.groups = c.groups;
  for (int i = 0; i < axes; i++) {
    const int a = 3 - axes + i;
    s.in[a] = c.x[i + 1];
    s.kernel[a] = c.weight[i + 1];
    s.stride[a] = c.stride[a];
    s.padding[a] = c.padding[a];
    s.dilation[a] = c.dilation[a];
    s.out[a] = (s.in[a] + 2 * s.padding[a] - s.dilation[a] * (s.kernel[a] - 1) - 1) / s.stride[a] + 1;
  }
  return s;
}

std::string joined(const std::vector<int>& v) {
  std::string text;
  for (const int d : v) text += (text.empty() ? "" : "x") + std::to_string(d);
  return text;
}

harness::OpInstance make_instance(const ConvCase& c) {
  const kernel::ConvShape s = shape_of(c);
  harness::OpCase plain;
  plain.name = joined(c.x) + " * " + joined(c.weight);
  if (s.stride != kernel::Axes{1, 1, 1})
    plain.name += " stride " + joined({c.stride.begin() + (c.x.size() == 4), c.stride.end()});
  if (c.groups > 1) plain.name += s.depthwise() ? " depthwise" : " groups " + std::to_string(c.groups);
  plain.uses = c.uses;
  plain.inputs = {{"x", c.x}, {"weight", c.weight, harness::Fill::normal(0.5)}};
  if (c.bias) plain.inputs.push_back({"bias", {c.weight[0]}});
  plain.reference = [c, s](const harness::Tensors& t) {
    harness::Tensor y;
    y.shape = c.x;
    for (size_t i = 1; i + 1 < c.x.size(); i++) y.shape[i] = static_cast<int>(s.out[4 + i - c.x.size()]);
    y.shape.back() = c.weight[0];
    y.data.resize(static_cast<size_t>(s.pixels() * s.out_channels));
    kernel::conv_reference<double>(
        {s, t[0].data.data(), t[1].data.data(), c.bias ? t[2].data.data() : nullptr, y.data.data(), nullptr});
    return harness::Tensors{y};
  };
  const auto pixels = static_cast<double>(s.pixels()), outs = static_cast<double>(s.out_channels);
  const double product = 2 * pixels * outs * static_cast<double>(s.depth());
  const double floats =
      static_cast<double>(s.batch * kernel::volume(s.in) * s.in_channels + s.out_channels * s.depth());
  plain.forward = {.flops = product, .exps = 0, .bytes = 4 * (floats + pixels * outs)};
  plain.backward = {.flops = 2 * product, .exps = 0, .bytes = 8 * (floats + pixels * outs)};
  const bool deep = c.x.size() == 5;
  const auto run = [c, deep](const harness::Arrays& a, bool composed) {
    const auto bias = a.size() > 2 ? std::optional(a[2]) : std::nullopt;
    if (deep) {
      const Conv3dOptions o{c.stride, c.padding, c.dilation, c.groups, bias};
      return harness::Arrays{composed ? conv3d_composed(a[0], a[1], o) : conv3d(a[0], a[1], o)};
    }
    const auto last = [](const std::array<int, 3>& v) { return std::array<int, 2>{v[1], v[2]}; };
    const Conv2dOptions o{last(c.stride), last(c.padding), last(c.dilation), c.groups, bias};
    return harness::Arrays{composed ? conv2d_composed(a[0], a[1], o) : conv2d(a[0], a[1], o)};
  };
  return {plain, [run](const harness::Arrays& a) { return run(a, false); },
          [run](const harness::Arrays& a) { return run(a, true); }};
}

template <size_t N>
TransposedConvOptions<N> options_of(const TransposedConvCase& c) {
  TransposedConvOptions<N> o;
  for (size_t i = 0; i < N; i++) {
    o.stride[i] = c.stride[3 - N + i];
    o.padding[i] = c.padding[3 - N + i];
    o.dilation[i] = c.dilation[3 - N + i];
    o.output_padding[i] = c.output_padding[3 - N + i];
  }
  o.groups = c.groups;
  return o;
}

harness::OpInstance make_instance(const TransposedConvCase& c) {
  const size_t axes = c.x.size() - 2;
  kernel::ConvShape s;
  s.batch = c.x[0];
  s.out_channels = c.x.back();
  s.in_channels = int64_t{c.weight.back()} * c.groups;
  s.groups = c.groups;
  std::vector<int> result{c.x[0]};
  for (size_t i = 0; i < axes; i++) {
    const size_t a = 3 - axes + i;
    s.out[a] = c.x[i + 1];
    s.kernel[a] = c.weight[i + 1];
    s.stride[a] = c.stride[a];
    s.padding[a] = c.padding[a];
    s.dilation[a] = c.dilation[a];
    s.in[a] = (s.out[a] - 1) * s.stride[a] - 2 * s.padding[a] + s.dilation[a] * (s.kernel[a] - 1) +
              c.output_padding[a] + 1;
    result.push_back(static_cast<int>(s.in[a]));
  }
  result.push_back(static_cast<int>(s.in_channels));
  harness::OpCase plain;
  plain.name = joined(c.x) + " * " + joined(c.weight) + " stride " +
               joined({c.stride.begin() + (axes == 2), c.stride.end()});
  if (c.groups > 1) plain.name += " groups " + std::to_string(c.groups);
  plain.uses = c.uses;
  plain.inputs = {{"x", c.x}, {"weight", c.weight, harness::Fill::normal(0.5)}};
  if (c.bias) plain.inputs.push_back({"bias", {result.back()}});
  plain.reference = [c, s, result](const harness::Tensors& t) {
    harness::Tensor y;
    y.shape = result;
    y.data.resize(static_cast<size_t>(s.batch * kernel::volume(s.in) * s.in_channels));
    kernel::ConvVjpParams<double> p;
    p.shape = s;
    p.weight = t[1].data.data();
    p.dy = t[0].data.data();
    p.dx = y.data.data();
    kernel::conv_vjp_reference(p);
    for (size_t i = 0; c.bias && i < y.data.size(); i++) y.data[i] += t[2].data[i % t[2].data.size()];
    return harness::Tensors{y};
  };
  const double product =
      2 * static_cast<double>(s.pixels() * s.out_channels) * static_cast<double>(s.taps() * s.group_in());
  const auto floats =
      static_cast<double>(s.batch * kernel::volume(s.in) * s.in_channels + s.pixels() * s.out_channels);
  plain.forward = {.flops = product, .exps = 0, .bytes = 4 * floats};
  plain.backward = {.flops = 2 * product, .exps = 0, .bytes = 8 * floats};
  const auto run = [c, axes](const harness::Arrays& a, bool composed) {
    const auto bias = a.size() > 2 ? std::optional(a[2]) : std::nullopt;
    if (axes == 3) {
      auto o = options_of<3>(c);
      o.bias = bias;
      return harness::Arrays{composed ? transposed_conv3d_composed(a[0], a[1], o)
                                      : transposed_conv3d(a[0], a[1], o)};
    }
    auto o = options_of<2>(c);
    o.bias = bias;
    return harness::Arrays{composed ? transposed_conv2d_composed(a[0], a[1], o)
                                    : transposed_conv2d(a[0], a[1], o)};
  };
  return {plain, [run](const harness::Arrays& a) { return run(a, false); },
          [run](const harness::Arrays& a) { return run(a, true); }};
}

template <typename Case>
harness::OpEntry make_entry(const char* name, const char* summary, const std::vector<Case>& cases) {
  return {name, summary, {"cpu", "composed"}, true, false, [&cases] {
            std::vector<harness::OpInstance> instances;
            for (const Case& c : cases) instances.push_back(make_instance(c));
            return instances;
          }};
}

}  // namespace

harness::OpEntry conv2d_entry() {
  return make_entry("conv2d", "2-D convolution: stride, padding, dilation, groups, depthwise", kConv2dCases);
}

harness::OpEntry conv3d_entry() {
  return make_entry("conv3d", "3-D convolution: stride, padding, dilation, groups, depthwise", kConv3dCases);
}

harness::OpEntry transposed_conv2d_entry() {
  return make_entry("transposed_conv2d", "transposed convolution over images, channels last",
                    kTransposedConv2dCases);
}

harness::OpEntry transposed_conv3d_entry() {
  return make_entry("transposed_conv3d", "transposed convolution over volumes, channels last",
                    kTransposedConv3dCases);
}

}  // namespace aspis
