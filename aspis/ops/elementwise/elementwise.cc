#include "aspis/ops/elementwise/elementwise.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "aspis/ops/common/storage.h"
#include "aspis/ops/elementwise/kernel/cpu.h"
#include "aspis/ops/reduce/reduce.h"

namespace aspis {
namespace {

using kernel::Combine;
using kernel::Pointwise;

const char* name_of(Pointwise kind, bool gradient) {
  switch (kind) {
    case Pointwise::kRelu:
      return gradient ? "relu_vjp" : "relu";
    case Pointwise::kSigmoid:
      return gradient ? "sigmoid_vjp" : "sigmoid";
    case Pointwise::kTanh:
      return gradient ? "tanh_vjp" : "tanh";
    case Pointwise::kSoftplus:
      return gradient ? "softplus_vjp" : "softplus";
  }
  return "";
}

class MapVjp : public ops::CpuPrimitive {
 public:
  MapVjp(mx::Stream s, Pointwise kind) : CpuPrimitive(s), kind_(kind) {}

  // {x, dy} -> {dx}
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      kernel::PointwiseVjpParams<S> p;
      p.kind = kind_;
      p.n = static_cast<int64_t>(out[0].size());
      p.x = ops::packed<S>(encoder, in[0], name());
      p.dy = ops::packed<S>(encoder, in[1], name());
      ops::allocate(encoder, out[0], name());
      p.dx = out[0].data<S>();
      encoder.dispatch([p] { kernel::pointwise_vjp(p); });
    });
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return kind_ == static_cast<const MapVjp&>(other).kind_;
  }
  const char* name() const override { return name_of(kind_, true); }

 private:
  Pointwise kind_;
};

class Map : public ops::CpuPrimitive {
 public:
  Map(mx::Stream s, Pointwise kind) : CpuPrimitive(s), kind_(kind) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      kernel::PointwiseParams<S> p;
      p.kind = kind_;
      p.n = static_cast<int64_t>(out[0].size());
      p.x = ops::packed<S>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<S>();
      encoder.dispatch([p] { kernel::pointwise(p); });
    });
  }
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {mx::array(primals[0].shape(), primals[0].dtype(), std::make_shared<MapVjp>(stream(), kind_),
                      {primals[0], cotangents[0]})};
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return kind_ == static_cast<const Map&>(other).kind_;
  }
  const char* name() const override { return name_of(kind_, false); }
  ops::Work work(const Arrays& in, const Arrays&) const override {
    return {.exps = kind_ == Pointwise::kRelu ? 0 : static_cast<double>(in[0].size())};
  }

 private:
  Pointwise kind_;
};

mx::array map(Pointwise kind, const mx::array& x, mx::StreamOrDevice where,
              mx::array (*composed)(const mx::array&, mx::StreamOrDevice)) {
  const auto s = mx::to_stream(where);
  const char* name = name_of(kind, false);
  const mx::Dtype storage = ops::storage_dtype(name, x, {{"x", &x}});
  if (ops::choose_back_end(name, s) == ops::BackEnd::kComposed) return composed(x, s);
  const mx::array y(x.shape(), storage, std::make_shared<Map>(s, kind), {mx::astype(x, storage, s)});
  return mx::astype(y, x.dtype(), s);
}

class CombineArrays : public ops::CpuPrimitive {
 public:
  CombineArrays(mx::Stream s, Combine kind) : CpuPrimitive(s), kind_(kind) {}

  // {a, b, c?} -> {y}; along the last axis that is not 1, a is as long as y
  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      kernel::CombineParams<S> p;
      p.kind = kind_;
      std::array<const S*, 3> data{};
      std::array<mx::Strides, 3> strides;
      const auto take = [&](size_t i, const S* from, const mx::Strides& own) {
        data[i] = from;
        strides[i] = mx::Strides(out[0].ndim(), 0);
        const size_t missing = out[0].ndim() - in[i].ndim();
        for (size_t k = 0; k < in[i].ndim(); k++) {
          if (in[i].shape(static_cast<int>(k)) != 1) strides[i][missing + k] = own[k];
        }
      };
      for (size_t i = 0; i < in.size(); i++) {
        const auto view = ops::strided<S>(encoder, in[i], name());
        take(i, view.data, view.strides);
      }
      fold(out[0].shape(), in.size(), strides, p);
      // Steps along the last axis that counts: 1, or 0 for what is broadcast. A view
      // may have others (a slice along an axis of one).
      const auto last = [&](size_t i) {
        return (i == 0 ? p.a_strides : i == 1 ? p.b_strides : p.c_strides).back();
      };
      bool packs = false;
      for (size_t i = 0; i < in.size(); i++) {
        if (last(i) == 1 || (last(i) == 0 && (i > 0 || p.sizes.back() == 1))) continue;
        mx::Strides dense(in[i].ndim());
        int64_t step = 1;
        for (size_t k = in[i].ndim(); k-- > 0; step *= in[i].shape(static_cast<int>(k))) dense[k] = step;
        take(i, ops::packed<S>(encoder, in[i], name()), dense);
        packs = true;
      }
      if (packs) fold(out[0].shape(), in.size(), strides, p);
      p.a = data[0], p.b = data[1], p.c = data[2];
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<S>();
      encoder.dispatch([p] { kernel::combine(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override;

  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    auto shape = mx::broadcast_shapes(in[0].shape(), in[1].shape());
    if (in.size() > 2) shape = mx::broadcast_shapes(shape, in[2].shape());
    return {shape};
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return kind_ == static_cast<const CombineArrays&>(other).kind_;
  }
  const char* name() const override {
    return kind_ == Combine::kAdd ? "add" : kind_ == Combine::kMultiply ? "multiply" : "multiply_add";
  }
  ops::Work work(const Arrays&, const Arrays& out) const override {
    return {.macs = kind_ == Combine::kMultiplyAdd ? static_cast<double>(out[0].size()) : 0};
  }

 private:
  // Axes that go on in one step for all inputs become one; there are at most
  // kAxes afterwards, as `combine` made sure.
  template <typename S>
  static void fold(const mx::Shape& shape, size_t inputs, const std::array<mx::Strides, 3>& strides,
                   kernel::CombineParams<S>& p) {
    constexpr int kAxes = kernel::CombineParams<S>::kAxes;
    int at = kAxes;  // the axis filled last
    const std::array<typename kernel::CombineParams<S>::Strides*, 3> to = {&p.a_strides, &p.b_strides,
                                                                           &p.c_strides};
    p.sizes.fill(1);
    for (auto* steps : to) steps->fill(0);
    for (int i = static_cast<int>(shape.size()) - 1; i >= 0; i--) {
      if (shape[i] == 1) continue;
      bool joins = at < kAxes;
      for (size_t k = 0; joins && k < inputs; k++) joins = strides[k][i] == (*to[k])[at] * p.sizes[at];
      if (joins) {
        p.sizes[at] *= shape[i];
        continue;
      }
      at--;
      p.sizes[at] = shape[i];
      for (size_t k = 0; k < inputs; k++) (*to[k])[at] = strides[k][i];
    }
  }

  Combine kind_;
};

mx::Dtype storage_of(mx::Dtype type) { return type == mx::float64 || type == mx::bfloat16 ? type : mx::float32; }

// Whether `a` has the length of the result along its last axis that is not 1.
bool is_line(const mx::array& a, const mx::Shape& out) {
  for (size_t i = 0; i < out.size(); i++) {
    const size_t axis = out.size() - 1 - i;
    if (out[axis] == 1) continue;
    return i < a.ndim() && a.shape(static_cast<int>(a.ndim() - 1 - i)) == out[axis];
  }
  return true;
}

// Inputs of one dtype, in storage.
mx::array combine(Combine kind, mx::array a, mx::array b, std::optional<mx::array> c, mx::Stream s) {
  auto shape = mx::broadcast_shapes(a.shape(), b.shape());
  if (c) shape = mx::broadcast_shapes(shape, c->shape());
  if (!is_line(a, shape)) std::swap(a, b);
  if (!is_line(a, shape)) a = mx::contiguous(mx::broadcast_to(a, shape, s), false, s);
  if (shape.size() > static_cast<size_t>(kernel::CombineParams<float>::kAxes)) {
    // More axes than the kernel counts: as rows of the last two, whatever is broadcast.
    const auto flat = [&](const mx::array& x) { return mx::flatten(mx::broadcast_to(x, shape, s), s); };
    std::optional<mx::array> third;
    if (c) third = flat(*c);
    return mx::reshape(combine(kind, flat(a), flat(b), third, s), shape, s);
  }
  Arrays inputs = {a, b};
  if (c) inputs.push_back(*c);
  return mx::array(shape, a.dtype(), std::make_shared<CombineArrays>(s, kind), std::move(inputs));
}

Arrays CombineArrays::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                          const Arrays&) {
  const mx::array& dy = cotangents[0];
  Arrays result;
  for (const int i : argnums) {
    const mx::array& own = primals[static_cast<size_t>(i)];
    if (kind_ == Combine::kAdd || i == 2) {
      result.push_back(ops::sum_to(dy, std::nullopt, own.shape(), stream()));
      continue;
    }
    const mx::array& other = primals[i == 0 ? 1 : 0];
    if (own.shape() != dy.shape() && other.shape() == dy.shape()) {
      result.push_back(ops::sum_to(dy, other, own.shape(), stream()));  // the product is not written
    } else {
      result.push_back(ops::sum_to(combine(Combine::kMultiply, dy, other, std::nullopt, stream()), std::nullopt,
                                   own.shape(), stream()));
    }
  }
  return result;
}

mx::array run_combine(const char* name, Combine kind, const mx::array& a, const mx::array& b,
                      const std::optional<mx::array>& c, mx::StreamOrDevice where) {
  const auto s = mx::to_stream(where);
  ops::compute_dtype(name, {{"a", &a}, {"b", &b}, {"c", c ? &*c : nullptr}});
  const auto check = [&](const mx::Shape& u, const mx::Shape& v) {
    for (size_t i = 1; i <= std::min(u.size(), v.size()); i++) {
      const auto m = u[u.size() - i], n = v[v.size() - i];
      require(m == n || m == 1 || n == 1, [&] {
        return Error::Parts{.where = name,
                            .required = "shapes must broadcast",
                            .got = ops::to_string(u) + " and " + ops::to_string(v),
                            .hint = ""};
      });
    }
  };
  check(a.shape(), b.shape());
  mx::Dtype type = mx::promote_types(a.dtype(), b.dtype());
  if (c) {
    check(mx::broadcast_shapes(a.shape(), b.shape()), c->shape());
    type = mx::promote_types(type, c->dtype());
  }
  if (ops::choose_back_end(name, s) == ops::BackEnd::kComposed) {
    if (c) return multiply_add_composed(a, b, *c, s);
    return kind == Combine::kAdd ? mx::add(a, b, s) : mx::multiply(a, b, s);
  }
  const mx::Dtype storage = storage_of(type);
  std::optional<mx::array> third;
  if (c) third = mx::astype(*c, storage, s);
  return mx::astype(combine(kind, mx::astype(a, storage, s), mx::astype(b, storage, s), third, s), type, s);
}

class Dropout : public ops::CpuPrimitive {
 public:
  Dropout(mx::Stream s, double rate, uint64_t key, uint64_t random_stream)
      : CpuPrimitive(s), rate_(rate), key_(key), random_stream_(random_stream) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_storage(out[0].dtype(), [&](auto tag) {
      using S = decltype(tag);
      kernel::DropoutParams<S> p;
      p.n = static_cast<int64_t>(out[0].size());
      p.rate = rate_;
      p.key = key_;
      p.stream = random_stream_;
      p.x = ops::packed<S>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].data<S>();
      encoder.dispatch([p] { kernel::dropout(p); });
    });
  }
  Arrays vjp(const Arrays&, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {mx::array(cotangents[0].shape(), cotangents[0].dtype(),
                      std::make_shared<Dropout>(stream(), rate_, key_, random_stream_), {cotangents[0]})};
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Dropout&>(other);
    return rate_ == o.rate_ && key_ == o.key_ && random_stream_ == o.random_stream_;
  }
  const char* name() const override { return "dropout"; }

 private:
  double rate_;
  uint64_t key_, random_stream_;
};

class Cast : public ops::CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const auto run = [&](auto from, auto to) {
      kernel::CastParams<decltype(from), decltype(to)> p;
      p.n = static_cast<int64_t>(out[0].size());
      p.x = ops::packed<decltype(from)>(encoder, in[0], name());
      ops::allocate(encoder, out[0], name());
      p.y = out[0].template data<decltype(to)>();
      encoder.dispatch([p] { kernel::cast(p); });
    };
    in[0].dtype() == mx::float32 ? run(float{}, Bf16{}) : run(Bf16{}, float{});
  }
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) override {
    return {cast(cotangents[0], primals[0].dtype(), stream())};
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  // Two casts of one input may go to different types; the engine compares types of outputs itself.
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  const char* name() const override { return "cast"; }
};

}  // namespace

mx::array relu(const mx::array& x, mx::StreamOrDevice s) { return map(Pointwise::kRelu, x, s, relu_composed); }
mx::array sigmoid(const mx::array& x, mx::StreamOrDevice s) {
  return map(Pointwise::kSigmoid, x, s, sigmoid_composed);
}
mx::array tanh(const mx::array& x, mx::StreamOrDevice s) { return map(Pointwise::kTanh, x, s, tanh_composed); }
mx::array softplus(const mx::array& x, mx::StreamOrDevice s) {
  return map(Pointwise::kSoftplus, x, s, softplus_composed);
}

mx::array broadcast_add(const mx::array& a, const mx::array& b, mx::StreamOrDevice s) {
  return run_combine("broadcast_add", Combine::kAdd, a, b, std::nullopt, s);
}
mx::array broadcast_multiply(const mx::array& a, const mx::array& b, mx::StreamOrDevice s) {
  return run_combine("broadcast_multiply", Combine::kMultiply, a, b, std::nullopt, s);
}
mx::array multiply_add(const mx::array& a, const mx::array& b, const mx::array& c, mx::StreamOrDevice s) {
  return run_combine("multiply_add", Combine::kMultiplyAdd, a, b, c, s);
}

mx::array dropout(const mx::array& x, double rate, uint64_t key, uint64_t stream, mx::StreamOrDevice where) {
  const auto s = mx::to_stream(where);
  const mx::Dtype storage = ops::storage_dtype("dropout", x, {{"x", &x}});
  require(rate >= 0 && rate < 1, [&] {
    return Error::Parts{
        .where = "dropout", .required = "the rate must lie in [0, 1)", .got = std::to_string(rate), .hint = ""};
  });
  if (rate == 0) return x;
  if (ops::choose_back_end("dropout", s) == ops::BackEnd::kComposed)
    return dropout_composed(x, rate, key, stream, s);
  const mx::array y(x.shape(), storage, std::make_shared<Dropout>(s, rate, key, stream),
                    {mx::astype(x, storage, s)});
  return mx::astype(y, x.dtype(), s);
}

mx::array cast(const mx::array& x, mx::Dtype dtype, mx::StreamOrDevice where) {
  if (x.dtype() == dtype) return x;
  const auto s = mx::to_stream(where);
  const bool own =
      (x.dtype() == mx::float32 && dtype == mx::bfloat16) || (x.dtype() == mx::bfloat16 && dtype == mx::float32);
  if (!own || ops::choose_back_end("cast", s) == ops::BackEnd::kComposed) return mx::astype(x, dtype, s);
  return mx::array(x.shape(), dtype, std::make_shared<Cast>(s), {x});
}

}  // namespace aspis
