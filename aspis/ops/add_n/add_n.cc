#include "aspis/ops/add_n/add_n.h"

#include "aspis/ops/add_n/kernel/cpu.h"
#include "aspis/ops/common/storage.h"

namespace aspis {
namespace {

class AddN : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::AddNParams<T> p;
      p.n = static_cast<int64_t>(out[0].size());
      for (const auto& x : in) p.xs.push_back(ops::packed<T>(encoder, x, name()));
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      encoder.dispatch([p = std::move(p)] { kernel::add_n(p); });
    });
  }

  Arrays vjp(const Arrays&, const Arrays& cotangents, const std::vector<int>& argnums, const Arrays&) override {
    return Arrays(argnums.size(), cotangents[0]);
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "add_n"; }
};

}  // namespace

mx::array add_n(const std::vector<mx::array>& xs, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  if (xs.empty()) {
    throw Error(ErrorKind::kUsage, {.where = "add_n", .required = "at least one array is needed", .got = "none"});
  }
  // bfloat16 throughout stays as it is; beside float32 it is widened.
  bool half = true;
  mx::Dtype dtype = mx::float32;
  for (size_t k = 0; k < xs.size(); k++) {
    half = half && xs[k].dtype() == mx::bfloat16;
    const std::string name = "xs[" + std::to_string(k) + "]";
    if (ops::compute_dtype("add_n", {{name.c_str(), &xs[k]}}) == mx::float64) dtype = mx::float64;
    if (xs[k].shape() != xs[0].shape()) {
      throw Error(ErrorKind::kUsage,
                  {.where = "add_n",
                   .required = name + " must have the shape of xs[0], " + ops::to_string(xs[0].shape()),
                   .got = ops::to_string(xs[k].shape()),
                   .hint = "mx::broadcast_to before the sum"});
    }
  }
  if (half) dtype = mx::bfloat16;
  if (ops::choose_back_end("add_n", stream) == ops::BackEnd::kComposed) return add_n_composed(xs, stream);
  Arrays wide;
  for (const auto& x : xs) wide.push_back(mx::astype(x, dtype, stream));
  const mx::array y(xs[0].shape(), dtype, std::make_shared<AddN>(stream), std::move(wide));
  return mx::astype(y, xs[0].dtype(), stream);
}

}  // namespace aspis
