#include "aspis/ops/quantized/quantized.h"

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/quantized/kernel/cpu.h"

namespace aspis::ops {
namespace {

kernel::QuantizedShape shape_of(const QuantizedWeight& w) { return {w.packed.shape(0), w.in, w.bits, w.group}; }

bool same(const kernel::QuantizedShape& a, const kernel::QuantizedShape& b) {
  return a.out == b.out && a.in == b.in && a.bits == b.bits && a.group == b.group;
}

// weight -> {packed, scales, offsets}
class Quantize : public CpuPrimitive {
 public:
  Quantize(mx::Stream stream, const kernel::QuantizedShape& shape) : CpuPrimitive(stream), shape_(shape) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    kernel::QuantizeParams p;
    p.shape = shape_;
    p.weight = packed<float>(encoder, in[0], name());
    for (auto& o : out) allocate(encoder, o, name());
    p.packed = out[0].data<uint32_t>();
    p.scales = out[1].data<float>();
    p.offsets = out[2].data<float>();
    encoder.dispatch([p] { kernel::quantize(p); });
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return same(shape_, static_cast<const Quantize&>(other).shape_);
  }
  const char* name() const override { return "quantize"; }

 private:
  kernel::QuantizedShape shape_;
};

// {packed, scales, offsets} -> weight, or {packed, scales, offsets, x, bias?} -> y
class Quantized : public CpuPrimitive {
 public:
  Quantized(mx::Stream stream, const kernel::QuantizedShape& shape) : CpuPrimitive(stream), shape_(shape) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    kernel::QuantizedLinearParams p;
    p.shape = shape_;
    p.packed = packed<uint32_t>(encoder, in[0], name());
    p.scales = packed<float>(encoder, in[1], name());
    p.offsets = packed<float>(encoder, in[2], name());
    allocate(encoder, out[0], name());
    float* const result = out[0].data<float>();
    if (in.size() == 3) {
      encoder.dispatch([p, result] { kernel::dequantize(p, result); });
      return;
    }
    p.rows = shape_.in > 0 ? static_cast<int64_t>(in[3].size()) / shape_.in : 0;
    p.x = packed<float>(encoder, in[3], name());
    p.x_stride = shape_.in;
    if (in.size() > 4) p.bias = packed<float>(encoder, in[4], name());
    p.y = result;
    const auto values = static_cast<size_t>(kernel::quantized_linear_workspace(shape_, p.rows)) + 1;
    p.workspace = static_cast<float*>(allocate_scratch(encoder, values * sizeof(float), name()));
    encoder.dispatch([p] { kernel::quantized_linear(p); });
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return same(shape_, static_cast<const Quantized&>(other).shape_);
  }
  const char* name() const override { return "linear_quantized"; }
  Work work(const Arrays& in, const Arrays& out) const override {
    return {.macs = in.size() > 3 ? static_cast<double>(out[0].size()) * static_cast<double>(shape_.in) : 0};
  }

 private:
  kernel::QuantizedShape shape_;
};

}  // namespace

QuantizedWeight quantize(const mx::array& weight, const QuantizeOptions& o, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  compute_dtype("quantize", {{"weight", &weight}});
  const auto fail = [](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage, {.where = "quantize", .required = std::move(required), .got = std::move(got)});
  };
  if (weight.ndim() != 2) fail("weight must have shape {out, in}", to_string(weight.shape()));
  if (o.bits != 4 && o.bits != 8) fail("bits must be 4 or 8", std::to_string(o.bits));
  const int block = 512 / o.bits;
  if (o.group < 16 || o.group > block || block % o.group != 0 || o.group % 16 != 0) {
    fail("group must be 16, 32, 64 or, with 4 bits, 128", std::to_string(o.group));
  }
  if (weight.shape(1) % o.group != 0) {
    fail("the group " + std::to_string(o.group) + " must divide the columns of weight", to_string(weight.shape()));
  }
  const kernel::QuantizedShape shape{weight.shape(0), weight.shape(1), o.bits, o.group};
  const mx::Shape groups{weight.shape(0), static_cast<int>(shape.groups())};
  auto parts = mx::array::make_arrays(
      {{weight.shape(0), static_cast<int>(shape.words())}, groups, groups}, {mx::uint32, mx::float32, mx::float32},
      std::make_shared<Quantize>(stream, shape), {mx::astype(weight, mx::float32, stream)});
  return {parts[0], parts[1], parts[2], weight.shape(1), o.bits, o.group};
}

mx::array dequantize(const QuantizedWeight& w, mx::StreamOrDevice s) {
  return {{w.packed.shape(0), w.in},
          mx::float32,
          std::make_shared<Quantized>(mx::to_stream(s), shape_of(w)),
          {w.packed, w.scales, w.offsets}};
}

mx::array linear_quantized(const mx::array& x, const QuantizedWeight& w, const std::optional<mx::array>& bias,
                           mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  compute_dtype("linear_quantized", {{"x", &x}, {"bias", bias ? &*bias : nullptr}});
  require(x.ndim() >= 1 && x.shape(-1) == w.in, [&] {
    return Error::Parts{.where = "linear_quantized",
                        .required = "x must have " + std::to_string(w.in) + " values in its last axis",
                        .got = to_string(x.shape())};
  });
  if (bias) require_shape("linear_quantized", "bias", *bias, {w.packed.shape(0)}, "{out}");
  if (choose_back_end("linear_quantized", stream) == BackEnd::kComposed) {
    return mx::astype(linear_composed(mx::astype(x, mx::float32, stream), dequantize(w, stream), bias, stream),
                      x.dtype(), stream);
  }
  mx::Shape shape = x.shape();
  shape.back() = w.packed.shape(0);
  Arrays inputs{w.packed, w.scales, w.offsets, mx::astype(x, mx::float32, stream)};
  if (bias) inputs.push_back(mx::astype(*bias, mx::float32, stream));
  const mx::array y(shape, mx::float32, std::make_shared<Quantized>(stream, shape_of(w)), inputs);
  return mx::astype(y, x.dtype(), stream);
}

}  // namespace aspis::ops
