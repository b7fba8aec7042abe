#include "aspis/ops/selective_scan/pairs.h"

#include <cstring>
#include <memory>

#include "aspis/ops/common/primitive.h"

namespace aspis {
namespace {

mx::Shape shape_of(const mx::array& a, bool to_numbers) {
  mx::Shape shape = a.shape();
  shape.back() = to_numbers ? shape.back() / 2 : 2 * shape.back();
  return shape;
}

// Either way; each is the gradient of the other, because both only move parts.
class Reinterpret : public ops::CpuPrimitive {
 public:
  Reinterpret(mx::Stream stream, bool to_numbers) : CpuPrimitive(stream), to_numbers_(to_numbers) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const void* from = to_numbers_ ? static_cast<const void*>(ops::packed<float>(encoder, in[0], name()))
                                   : ops::packed<mx::complex64_t>(encoder, in[0], name());
    ops::allocate(encoder, out[0], name());
    void* to = to_numbers_ ? static_cast<void*>(out[0].data<mx::complex64_t>()) : out[0].data<float>();
    encoder.dispatch([from, to, bytes = out[0].nbytes()] {
      if (bytes > 0) std::memcpy(to, from, bytes);
    });
  }
  Arrays vjp(const Arrays&, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {to_numbers_ ? pairs_of(cotangents[0], stream()) : numbers_of(cotangents[0], stream())};
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {shape_of(in[0], to_numbers_)}; }
  const char* name() const override { return to_numbers_ ? "numbers_of_pairs" : "pairs_of_numbers"; }

 private:
  const bool to_numbers_;
};

mx::array run(const mx::array& a, bool to_numbers, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  return mx::array(shape_of(a, to_numbers), to_numbers ? mx::complex64 : mx::float32,
                   std::make_shared<Reinterpret>(stream, to_numbers), {a});
}

}  // namespace

mx::array pairs_of(const mx::array& numbers, mx::StreamOrDevice s) {
  return run(mx::astype(numbers, mx::complex64, s), false, s);
}
mx::array numbers_of(const mx::array& pairs, mx::StreamOrDevice s) {
  return run(mx::astype(pairs, mx::float32, s), true, s);
}

}  // namespace aspis
