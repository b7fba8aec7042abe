#include "aspis/ops/linear/linear.h"

#include <algorithm>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/linear/kernel/cpu.h"

namespace aspis {
namespace {

// An array as {rows, columns} with one distance between rows.
template <typename T>
struct Rows {
  const T* data = nullptr;
  int64_t stride = 0;
};

// In place if the last axis is contiguous and the others collapse to one; else
// a packed copy. Rows that overlap (broadcast views) are copied too: the matrix
// library asks for a stride of at least a row.
template <typename T>
Rows<T> rows_of(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  const int last = static_cast<int>(a.ndim()) - 1;
  const int64_t columns = a.shape(last);
  int64_t stride = 0, next = 0;  // of the innermost outer axis; what the next one must have
  bool usable = a.strides()[last] == 1 || columns == 1;
  for (int i = last - 1; i >= 0 && usable; i--) {
    if (a.shape(i) == 1) continue;
    if (stride == 0) {
      stride = a.strides()[i];
      usable = stride >= columns && stride > 0;
    } else {
      usable = a.strides()[i] == next;
    }
    next = a.strides()[i] * a.shape(i);
  }
  if (!usable || a.size() == 0) return {ops::packed<T>(encoder, a, op), columns};
  encoder.set_input_array(a);
  return {a.data<T>(), stride == 0 ? columns : stride};
}

template <typename T>
T* workspace(mx::cpu::CommandEncoder& encoder, int64_t values, const char* op) {
  if (values == 0) return nullptr;
  return static_cast<T*>(ops::allocate_scratch(encoder, static_cast<size_t>(values) * sizeof(T), op));
}

int64_t row_count(const mx::array& a) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < static_cast<int>(a.ndim()); i++) rows *= a.shape(i);
  return rows;
}

// {x, weight, dy} -> the gradients named in `wanted` (0: x, 1: weight, 2: bias), in order.
class LinearVjp : public ops::CpuPrimitive {
 public:
  LinearVjp(mx::Stream stream, std::vector<int> wanted) : CpuPrimitive(stream), wanted_(std::move(wanted)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::LinearVjpParams<T> p;
      p.rows = row_count(in[0]);
      p.out = in[1].shape(0);
      p.in = in[1].shape(1);
      const auto x = rows_of<T>(encoder, in[0], name()), weight = rows_of<T>(encoder, in[1], name()),
                 dy = rows_of<T>(encoder, in[2], name());
      p.x = x.data;
      p.x_stride = x.stride;
      p.weight = weight.data;
      p.weight_stride = weight.stride;
      p.dy = dy.data;
      p.dy_stride = dy.stride;
      for (size_t i = 0; i < wanted_.size(); i++) {
        ops::allocate(encoder, out[i], name());
        T* data = out[i].data<T>();
        (wanted_[i] == 0 ? p.dx : wanted_[i] == 1 ? p.dweight : p.dbias) = data;
      }
      p.workspace = workspace<T>(
          encoder, kernel::linear_vjp_workspace(p.rows, p.in, p.out, p.dx != nullptr, p.dweight != nullptr, p.dbias != nullptr),
          name());
      encoder.dispatch([p] { kernel::linear_vjp(p); });
    });
  }

  bool is_equivalent(const mx::Primitive& other) const override {
    return wanted_ == static_cast<const LinearVjp&>(other).wanted_;
  }
  const char* name() const override { return "linear_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    // One product each for the gradients of x and weight.
    const auto products = std::count_if(wanted_.begin(), wanted_.end(), [](int i) { return i < 2; });
    return {.macs = static_cast<double>(products) * static_cast<double>(in[0].size()) * in[1].shape(0)};
  }

 private:
  std::vector<int> wanted_;
};

// {x, weight} or {x, weight, bias} -> y
class Linear : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::LinearParams<T> p;
      p.rows = row_count(in[0]);
      p.out = in[1].shape(0);
      p.in = in[1].shape(1);
      const auto x = rows_of<T>(encoder, in[0], name()), weight = rows_of<T>(encoder, in[1], name());
      p.x = x.data;
      p.x_stride = x.stride;
      p.weight = weight.data;
      p.weight_stride = weight.stride;
      if (in.size() > 2) p.bias = ops::packed<T>(encoder, in[2], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<T>();
      p.workspace = workspace<T>(encoder, kernel::linear_workspace(p.rows, p.in, p.out), name());
      encoder.dispatch([p] { kernel::linear(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    std::vector<mx::Shape> shapes;
    for (const int i : argnums) shapes.push_back(primals[i].shape());
    const std::vector<mx::Dtype> dtypes(argnums.size(), primals[0].dtype());
    return mx::array::make_arrays(shapes, dtypes, std::make_shared<LinearVjp>(stream(), argnums),
                                  {primals[0], primals[1], cotangents[0]});
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    mx::Shape shape = in[0].shape();
    shape.back() = in[1].shape(0);
    return {shape};
  }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "linear"; }
  ops::Work work(const Arrays& in, const Arrays& out) const override {
    return {.macs = static_cast<double>(out[0].size()) * in[1].shape(1)};
  }
};

}  // namespace

mx::array linear(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                 mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype =
      ops::compute_dtype("linear", {{"x", &x}, {"weight", &weight}, {"bias", bias ? &*bias : nullptr}});
  require(weight.ndim() == 2, [&] {
    return Error::Parts{
        .where = "linear", .required = "weight must have shape {out, in}", .got = ops::to_string(weight.shape())};
  });
  require(x.ndim() >= 1 && x.shape(-1) == weight.shape(1), [&] {
    return Error::Parts{.where = "linear",
                        .required = "x must have " + std::to_string(weight.shape(1)) +
                                    " values in its last axis, as weight " + ops::to_string(weight.shape()) +
                                    " has",
                        .got = ops::to_string(x.shape())};
  });
  if (bias) ops::require_shape("linear", "bias", *bias, {weight.shape(0)}, "{out}");

  mx::Dtype result = mx::promote_types(x.dtype(), weight.dtype());
  if (bias) result = mx::promote_types(result, bias->dtype());
  Arrays inputs{mx::astype(x, dtype, stream), mx::astype(weight, dtype, stream)};
  if (bias) inputs.push_back(mx::astype(*bias, dtype, stream));
  if (ops::choose_back_end("linear", stream) == ops::BackEnd::kComposed) {
    const auto wide_bias = bias ? std::optional(inputs[2]) : std::nullopt;
    return mx::astype(linear_composed(inputs[0], inputs[1], wide_bias, stream), result, stream);
  }
  mx::Shape shape = x.shape();
  shape.back() = weight.shape(0);
  const mx::array y(shape, dtype, std::make_shared<Linear>(stream), inputs);
  return mx::astype(y, result, stream);
}

}  // namespace aspis
