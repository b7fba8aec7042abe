#include "aspis/ops/concat/concat.h"

#include <string>
#include <utility>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/concat/kernel/cpu.h"

namespace aspis {
namespace {

class Concat : public ops::CpuPrimitive {
 public:
  Concat(mx::Stream s, int axis) : CpuPrimitive(s), axis_(axis) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    kernel::ConcatParams p;
    p.rows = 1;
    for (int i = 0; i < axis_; i++) p.rows *= out[0].shape(i);
    for (const auto& a : in) {
      int64_t bytes = static_cast<int64_t>(a.itemsize());
      for (int i = axis_; i < static_cast<int>(a.ndim()); i++) bytes *= a.shape(i);
      p.parts.push_back({ops::packed<uint8_t>(encoder, a, name()), bytes});
    }
    ops::allocate(encoder, out[0], name());
    p.y = out[0].data<uint8_t>();
    encoder.dispatch([p = std::move(p)] { kernel::concat(p); });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays result;
    for (const int a : argnums) {
      mx::Shape start(primals[0].ndim(), 0), stop = cotangents[0].shape();
      for (int i = 0; i < a; i++) start[axis_] += primals[static_cast<size_t>(i)].shape(axis_);
      stop[axis_] = start[axis_] + primals[static_cast<size_t>(a)].shape(axis_);
      result.push_back(mx::slice(cotangents[0], start, stop, stream()));
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    mx::Shape shape = in[0].shape();
    for (size_t i = 1; i < in.size(); i++) shape[axis_] += in[i].shape(axis_);
    return {shape};
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return axis_ == static_cast<const Concat&>(other).axis_;
  }
  const char* name() const override { return "concat"; }

 private:
  int axis_;
};

}  // namespace

mx::array concat(const std::vector<mx::array>& arrays, int axis, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const auto refuse = [](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage, {.where = "concat", .required = std::move(required), .got = std::move(got)});
  };
  if (arrays.empty()) refuse("at least one array is needed", "none");
  const int ndim = static_cast<int>(arrays[0].ndim()), at = axis < 0 ? axis + ndim : axis;
  if (at < 0 || at >= ndim)
    refuse("axis must be one of " + ops::to_string(arrays[0].shape()), std::to_string(axis));
  mx::Shape total = arrays[0].shape();
  for (size_t i = 1; i < arrays.size(); i++) {
    mx::Shape like = arrays[i].shape();
    const bool fits = static_cast<int>(arrays[i].ndim()) == ndim && arrays[i].dtype() == arrays[0].dtype();
    if (fits) like[at] = arrays[0].shape(at);
    if (!fits || like != arrays[0].shape()) {
      refuse("arrays[" + std::to_string(i) + "] must have the dtype and, but along axis " + std::to_string(at) +
                 ", the shape of arrays[0], " + ops::to_string(arrays[0].dtype()) + " " +
                 ops::to_string(arrays[0].shape()),
             ops::to_string(arrays[i].dtype()) + " " + ops::to_string(arrays[i].shape()));
    }
    total[at] += arrays[i].shape(at);
  }
  if (arrays.size() == 1) return arrays[0];
  if (ops::choose_back_end("concat", stream) == ops::BackEnd::kComposed)
    return mx::concatenate(arrays, at, stream);
  return mx::array(total, arrays[0].dtype(), std::make_shared<Concat>(stream, at), arrays);
}

}  // namespace aspis
