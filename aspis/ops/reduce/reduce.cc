#include "aspis/ops/reduce/reduce.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/reduce/kernel/cpu.h"

namespace aspis {
namespace {

// Axes [first, last) become 1.
class Sum : public ops::CpuPrimitive {
 public:
  Sum(mx::Stream s, int first, int last, double scale, bool product)
      : CpuPrimitive(s), first_(first), last_(last), scale_(scale), product_(product) {}

  // {x, factor?} -> {y}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    ops::dispatch_storage(in[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      if constexpr (!std::is_same_v<S, Arithmetic<S>>) {
        if (out[0].dtype() != in[0].dtype()) return run<S, Arithmetic<S>>(in, out[0]);
      }
      run<S, S>(in, out[0]);
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    // A bfloat16 factor would be rounded before the product is.
    auto dy = cotangents[0];
    if (scale_ != 1) {
      const mx::Dtype wide = ops::arithmetic_dtype(dy.dtype());
      dy = mx::multiply(mx::astype(dy, wide, stream()), mx::array(scale_, wide), stream());
    }
    dy = mx::astype(dy, primals[0].dtype(), stream());
    const auto wide = mx::broadcast_to(dy, primals[0].shape(), stream());
    Arrays result;
    for (const int a : argnums) {
      result.push_back(product_ ? mx::multiply(wide, primals[a == 0 ? 1 : 0], stream()) : wide);
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {shape_of(in[0])}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Sum&>(other);
    return first_ == o.first_ && last_ == o.last_ && scale_ == o.scale_ && product_ == o.product_;
  }
  const char* name() const override { return "sum"; }
  mx::Shape shape_of(const mx::array& x) const {
    mx::Shape shape = x.shape();
    std::fill(shape.begin() + first_, shape.begin() + last_, 1);
    return shape;
  }

 private:
  template <typename S, typename O>
  void run(const Arrays& in, mx::array& out) {
    using T = Arithmetic<S>;
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const auto& shape = in[0].shape();
    const auto product = [](auto from, auto to) {
      return std::accumulate(from, to, int64_t{1}, std::multiplies<>());
    };
    kernel::SumParams<S, O> p;
    p.outer = product(shape.begin(), shape.begin() + first_);
    p.reduced = product(shape.begin() + first_, shape.begin() + last_);
    p.inner = product(shape.begin() + last_, shape.end());
    p.scale = scale_;
    p.x = ops::packed<S>(encoder, in[0], name());
    if (product_) p.factor = ops::packed<S>(encoder, in[1], name());
    ops::allocate(encoder, out, name());
    p.y = out.data<O>();
    const auto values = static_cast<size_t>(kernel::sum_scratch(p.outer, p.reduced, p.inner));
    p.scratch = static_cast<T*>(ops::allocate_scratch(encoder, values * sizeof(T), name()));
    encoder.dispatch([p] { kernel::sum(p); });
  }

  int first_, last_;
  double scale_;
  bool product_;
};

// Sum over the axes that are marked, which become 1: run after run of them, from
// the last on. Only the last sum is rounded to bfloat16.
mx::array sum_marked(mx::array x, std::optional<mx::array> factor, const std::vector<bool>& marked, double scale,
                     mx::Stream s) {
  const mx::Dtype dtype = x.dtype();
  std::vector<std::pair<int, int>> runs;
  for (int i = 0; i < static_cast<int>(marked.size()); i++) {
    if (!marked[static_cast<size_t>(i)]) continue;
    if (!runs.empty() && runs.back().second == i) {
      runs.back().second++;
    } else {
      runs.emplace_back(i, i + 1);
    }
  }
  if (runs.empty()) runs.emplace_back(0, 0);  // a product or a scale, no sum
  std::reverse(runs.begin(), runs.end());
  for (size_t i = 0; i < runs.size(); i++) {
    const bool end = i + 1 == runs.size(), product = factor.has_value();
    const auto primitive = std::make_shared<Sum>(s, runs[i].first, runs[i].second, end ? scale : 1.0, product);
    Arrays inputs = {x};
    if (product) inputs.push_back(*factor);
    const mx::Dtype type = end && x.dtype() == dtype ? dtype : ops::arithmetic_dtype(dtype);
    x = mx::array(primitive->shape_of(x), type, primitive, std::move(inputs));
    factor.reset();
  }
  return mx::astype(x, dtype, s);
}

std::vector<bool> marked_axes(const char* op, const mx::array& x, const std::vector<int>& axes) {
  const int ndim = static_cast<int>(x.ndim());
  std::vector<bool> marked(x.ndim(), axes.empty());
  for (const int a : axes) {
    const int axis = a < 0 ? a + ndim : a;
    require(axis >= 0 && axis < ndim && !marked[static_cast<size_t>(axis)], [&] {
      return Error::Parts{
          .where = op,
          .required = "axes must lie in [-" + std::to_string(ndim) + ", " + std::to_string(ndim) + "), none twice",
          .got = std::to_string(a),
          .hint = ""};
    });
    marked[static_cast<size_t>(axis)] = true;
  }
  return marked;
}

mx::array without(const mx::array& x, const std::vector<bool>& marked, bool keepdims, mx::Stream s) {
  if (keepdims) return x;
  mx::Shape shape;
  for (size_t i = 0; i < marked.size(); i++) {
    if (!marked[i]) shape.push_back(x.shape(static_cast<int>(i)));
  }
  return mx::reshape(x, shape, s);
}

mx::array run(const char* op, const mx::array& x, const std::vector<int>& axes, bool keepdims, bool mean,
              mx::StreamOrDevice where) {
  const auto s = mx::to_stream(where);
  const mx::Dtype storage = ops::storage_dtype(op, x, {{"x", &x}});
  const auto marked = marked_axes(op, x, axes);
  if (ops::choose_back_end(op, s) == ops::BackEnd::kComposed) {
    return mean ? mean_over_composed(x, axes, keepdims, s) : sum_over_composed(x, axes, keepdims, s);
  }
  double count = 1;
  for (size_t i = 0; i < marked.size(); i++) {
    if (marked[i]) count *= x.shape(static_cast<int>(i));
  }
  const auto y = sum_marked(mx::astype(x, storage, s), std::nullopt, marked, mean ? 1 / count : 1, s);
  return mx::astype(without(y, marked, keepdims, s), x.dtype(), s);
}

std::vector<int> all_if_empty(const mx::array& x, const std::vector<int>& axes) {
  if (!axes.empty()) return axes;
  std::vector<int> all(x.ndim());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

mx::array sum_over(const mx::array& x, const std::vector<int>& axes, bool keepdims, mx::StreamOrDevice s) {
  return run("sum_over", x, axes, keepdims, false, s);
}
mx::array mean_over(const mx::array& x, const std::vector<int>& axes, bool keepdims, mx::StreamOrDevice s) {
  return run("mean_over", x, axes, keepdims, true, s);
}

mx::array sum_over_composed(const mx::array& x, const std::vector<int>& axes, bool keepdims,
                            mx::StreamOrDevice s) {
  return mx::sum(x, all_if_empty(x, axes), keepdims, s);
}
mx::array mean_over_composed(const mx::array& x, const std::vector<int>& axes, bool keepdims,
                             mx::StreamOrDevice s) {
  return mx::mean(x, all_if_empty(x, axes), keepdims, s);
}

namespace ops {

mx::array sum_to(const mx::array& x, const std::optional<mx::array>& factor, const mx::Shape& shape,
                 mx::Stream s) {
  if (x.shape() == shape && !factor) return x;
  std::vector<bool> marked(x.ndim(), true);
  const size_t missing = x.ndim() - shape.size();
  for (size_t i = 0; i < shape.size(); i++) {
    marked[missing + i] = shape[i] == 1 && x.shape(static_cast<int>(missing + i)) != 1;
  }
  return mx::reshape(sum_marked(x, factor, marked, 1, s), shape, s);
}

}  // namespace ops
}  // namespace aspis
