#include "aspis/ops/mamba_block/mamba_block.h"

#include <string>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/mamba_block/kernel/cpu.h"

namespace aspis {
namespace {

constexpr const char* kName = "mamba_block";

// Inputs: h, in_proj, out_proj, then for each branch these and the order.
enum Part { kConvWeight, kConvBias, kXProj, kDtProj, kDtBias, kA, kD, kOrder, kParts };
constexpr size_t kShared = 3;

struct Visit {
  bool reverse = false, has_order = false;
  bool operator==(const Visit&) const = default;
};
using Visits = std::vector<Visit>;

template <typename T>
kernel::MambaBlockParams<T> params(mx::cpu::CommandEncoder& encoder, const Arrays& in, const Visits& visits,
                                   const char* op) {
  const auto read = [&](size_t i) { return ops::packed<T>(encoder, in[i], op); };
  kernel::MambaBlockParams<T> p;
  p.batch = in[0].shape(0);
  p.length = in[0].shape(1);
  p.width = in[0].shape(2);
  p.inner = in[2].shape(1);
  p.taps = in[kShared + kConvWeight].shape(1);
  p.state = in[kShared + kA].shape(1);
  p.rank = in[kShared + kDtProj].shape(1);
  p.h = read(0);
  p.in_proj = read(1);
  p.out_proj = read(2);
  for (size_t b = 0; b < visits.size(); b++) {
    const size_t at = kShared + b * kParts;
    kernel::MambaBranch<T> m;
    m.conv_weight = read(at + kConvWeight);
    m.conv_bias = read(at + kConvBias);
    m.x_proj = read(at + kXProj);
    m.dt_proj = read(at + kDtProj);
    m.dt_bias = read(at + kDtBias);
    m.A = read(at + kA);
    m.D = read(at + kD);
    m.reverse = visits[b].reverse;
    if (visits[b].has_order) m.order = ops::packed<int32_t>(encoder, in[at + kOrder], op);
    p.branches.push_back(m);
  }
  return p;
}

ops::Work work_of(const Arrays& in, const Visits& visits, double products, double scans) {
  const double tokens = static_cast<double>(in[0].shape(0)) * in[0].shape(1);
  const double W = in[0].shape(2), I = in[2].shape(1), N = in[kShared + kA].shape(1),
               R = in[kShared + kDtProj].shape(1), K = in[kShared + kConvWeight].shape(1);
  const auto branches = static_cast<double>(visits.size());
  const double of_scan = tokens * branches * I * (3 * N + 1);
  return {.macs = products * tokens * (3 * W * I + branches * I * (2 * R + 2 * N + K)) + scans * of_scan,
          .exps = scans * tokens * branches * I * (N + 4),
          .scan_macs = scans * of_scan};
}

// {inputs of the forward, dout} -> gradients of all of them but the orders
class MambaBlockVjp : public ops::CpuPrimitive {
 public:
  MambaBlockVjp(mx::Stream s, Visits visits) : CpuPrimitive(s), visits_(std::move(visits)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      kernel::MambaBlockVjpParams<T> q;
      q.forward = params<T>(encoder, in, visits_, name());
      q.dout = ops::packed<T>(encoder, in.back(), name());
      for (auto& a : out) ops::allocate(encoder, a, name());
      size_t next = 0;
      const auto write = [&] { return out[next++].data<T>(); };
      q.dh = write();
      q.din_proj = write();
      q.dout_proj = write();
      for (size_t b = 0; b < visits_.size(); b++) {
        kernel::MambaBranchGradient<T> g;
        g.conv_weight = write();
        g.conv_bias = write();
        g.x_proj = write();
        g.dt_proj = write();
        g.dt_bias = write();
        g.A = write();
        g.D = write();
        q.branches.push_back(g);
      }
      encoder.dispatch([q = std::move(q)] { kernel::mamba_block_vjp(q); });
    });
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    return visits_ == static_cast<const MambaBlockVjp&>(other).visits_;
  }
  const char* name() const override { return "mamba_block_vjp"; }
  ops::Work work(const Arrays& in, const Arrays&) const override { return work_of(in, visits_, 3, 3); }

 private:
  Visits visits_;
};

class MambaBlock : public ops::CpuPrimitive {
 public:
  MambaBlock(mx::Stream s, Visits visits) : CpuPrimitive(s), visits_(std::move(visits)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ops::dispatch_float(out[0].dtype(), [&](auto tag) {
      using T = decltype(tag);
      auto p = params<T>(encoder, in, visits_, name());
      ops::allocate(encoder, out[0], name());
      p.out = out[0].data<T>();
      encoder.dispatch([p = std::move(p)] { kernel::mamba_block(p); });
    });
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays inputs = primals;
    inputs.push_back(cotangents[0]);
    std::vector<mx::Shape> shapes;
    std::vector<int> place(primals.size(), -1);
    for (size_t i = 0; i < primals.size(); i++) {
      if (i >= kShared && (i - kShared) % kParts == kOrder) continue;
      place[i] = static_cast<int>(shapes.size());
      shapes.push_back(primals[i].shape());
    }
    const auto gradients =
        mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), primals[0].dtype()),
                               std::make_shared<MambaBlockVjp>(stream(), visits_), inputs);
    Arrays result;
    for (const int a : argnums) {
      result.push_back(place[a] >= 0 ? gradients[place[a]] : mx::zeros_like(primals[a], stream()));
    }
    return result;
  }

  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return visits_ == static_cast<const MambaBlock&>(other).visits_;
  }
  const char* name() const override { return kName; }
  ops::Work work(const Arrays& in, const Arrays&) const override { return work_of(in, visits_, 1, 1); }

 private:
  Visits visits_;
};

void check(const mx::array& h, const mx::array& in_proj, const std::vector<MambaBlockBranch>& branches,
           const mx::array& out_proj) {
  require(h.ndim() == 3 && h.shape(1) > 0, [&] {
    return Error::Parts{.where = kName,
                        .required = "h must have shape {B, L, W} with at least one token",
                        .got = ops::to_string(h.shape())};
  });
  const int L = h.shape(1), W = h.shape(2);
  require(out_proj.ndim() == 2 && out_proj.shape(0) == W, [&] {
    return Error::Parts{.where = kName,
                        .required = "out_proj must have shape {W, I} with W = " + std::to_string(W),
                        .got = ops::to_string(out_proj.shape())};
  });
  const int I = out_proj.shape(1);
  ops::require_shape(kName, "in_proj", in_proj, {2 * I, W}, "{2 I, W}");
  require(!branches.empty(), [&] {
    return Error::Parts{.where = kName, .required = "at least one branch is needed", .got = "none"};
  });
  const MambaBlockBranch& first = branches[0];
  for (const auto& [name, a] :
       {std::pair{"conv_weight", &first.conv_weight}, {"dt_proj", &first.dt_proj}, {"A", &first.A}}) {
    require(a->ndim() == 2 && a->shape(0) == I && a->shape(1) > 0, [&, n = name, got = a] {
      return Error::Parts{.where = kName,
                          .required = std::string(n) + " must be a matrix with I = " + std::to_string(I) + " rows",
                          .got = ops::to_string(got->shape())};
    });
  }
  const int K = first.conv_weight.shape(1), R = first.dt_proj.shape(1), N = first.A.shape(1);
  require(N <= 256, [&] {
    return Error::Parts{.where = kName, .required = "at most 256 states", .got = std::to_string(N)};
  });
  for (const MambaBlockBranch& b : branches) {
    ops::require_shape(kName, "conv_weight", b.conv_weight, {I, K}, "{I, K}");
    ops::require_shape(kName, "conv_bias", b.conv_bias, {I}, "{I}");
    ops::require_shape(kName, "x_proj", b.x_proj, {R + 2 * N, I}, "{R + 2 N, I}");
    ops::require_shape(kName, "dt_proj", b.dt_proj, {I, R}, "{I, R}");
    ops::require_shape(kName, "dt_bias", b.dt_bias, {I}, "{I}");
    ops::require_shape(kName, "A", b.A, {I, N}, "{I, N}");
    ops::require_shape(kName, "D", b.D, {I}, "{I}");
    if (b.order) ops::require_shape(kName, "order", *b.order, {L}, "{L}");
  }
}

}  // namespace

mx::array mamba_block(const mx::array& h, const mx::array& in_proj, const std::vector<MambaBlockBranch>& branches,
                      const mx::array& out_proj, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const mx::Dtype dtype = ops::compute_dtype(kName, {{"h", &h}, {"in_proj", &in_proj}, {"out_proj", &out_proj}});
  check(h, in_proj, branches, out_proj);
  if (ops::choose_back_end(kName, stream) == ops::BackEnd::kComposed) {
    return mamba_block_composed(h, in_proj, branches, out_proj, stream);
  }
  const auto as = [&](const mx::array& a) { return mx::astype(a, dtype, stream); };
  Arrays inputs{as(h), as(in_proj), as(out_proj)};
  Visits visits;
  for (const MambaBlockBranch& b : branches) {
    for (const auto* a : {&b.conv_weight, &b.conv_bias, &b.x_proj, &b.dt_proj, &b.dt_bias, &b.A, &b.D}) {
      inputs.push_back(as(*a));
    }
    inputs.push_back(b.order ? mx::astype(*b.order, mx::int32, stream) : ops::absent());
    visits.push_back({b.reverse, b.order.has_value()});
  }
  const mx::array out(h.shape(), dtype, std::make_shared<MambaBlock>(stream, std::move(visits)),
                      std::move(inputs));
  return mx::astype(out, h.dtype(), stream);
}

}  // namespace aspis
