#include "aspis/ops/mamba3/mamba3.h"

#include <mlx/ops.h>

#include <string>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/common/packing.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/mamba3/stages.h"
#include "aspis/ops/rms_norm/rms_norm.h"

namespace aspis {
namespace {

constexpr const char* kName = "mamba3";

[[noreturn]] void refuse(std::string required, std::string got, std::string hint = {}) {
  throw Error(ErrorKind::kUsage,
              {.where = kName, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
}

struct Sizes {
  int batch, length, heads, headdim, rank, groups, state, angles, sequences;
};

// Everything in the dtype of the computation, B and C with all their axes.
struct Inputs {
  mx::array x, B, C, dd_dt, dd_A, trap;
  Mamba3Options options;
};

Sizes checked_sizes(const Inputs& in) {
  const Mamba3Options& o = in.options;
  const auto same = [&](const char* name, const mx::array& a, const mx::Shape& shape, const char* letters) {
    ops::require_shape(kName, name, a, shape, letters);
  };
  if (in.x.ndim() != 4) refuse("x must have shape {B, L, H, P}", ops::to_string(in.x.shape()));
  Sizes s{};
  s.batch = in.x.shape(0), s.length = in.x.shape(1), s.heads = in.x.shape(2), s.headdim = in.x.shape(3);
  if (s.heads < 1 || s.headdim < 1)
    refuse("x needs at least one head and one channel", ops::to_string(in.x.shape()));
  if (in.B.ndim() != 5 || in.B.shape(0) != s.batch || in.B.shape(1) != s.length) {
    refuse("B must have shape {B, L, R, G, N} or {B, L, G, N} with " + ops::to_string({s.batch, s.length}) +
               " in front",
           ops::to_string(in.B.shape()));
  }
  s.rank = in.B.shape(2), s.groups = in.B.shape(3), s.state = in.B.shape(4);
  if (s.rank < 1 || s.state < 1) refuse("B needs a rank and a state of at least 1", ops::to_string(in.B.shape()));
  same("C", in.C, in.B.shape(), "that of B");
  if (s.groups < 1 || s.heads % s.groups != 0)
    refuse("the groups of B must divide H = " + std::to_string(s.heads), std::to_string(s.groups));
  const mx::Shape per_head{s.batch, s.length, s.heads}, mimo{s.heads, s.rank, s.headdim},
      bias{s.heads, s.rank, s.state};
  same("dd_dt", in.dd_dt, per_head, "{B, L, H}");
  same("dd_A", in.dd_A, per_head, "{B, L, H}");
  same("trap", in.trap, per_head, "{B, L, H}");
  if (o.angle) {
    if (o.angle->ndim() != 3 || o.angle->shape(0) != s.batch || o.angle->shape(1) != s.length) {
      refuse("angle must have shape {B, L, A} with " + ops::to_string({s.batch, s.length}) + " in front",
             ops::to_string(o.angle->shape()));
    }
    s.angles = o.angle->shape(2);
    if (s.state % 2 != 0) refuse("the state size N must be even with angles", std::to_string(s.state));
    if (s.angles < 1 || s.angles > s.state / 2)
      refuse("the angles must be 1 to N / 2 = " + std::to_string(s.state / 2), std::to_string(s.angles));
  }
  if (o.dt_bias) same("dt_bias", *o.dt_bias, {s.heads}, "{H}");
  if (o.B_norm_weight) same("B_norm_weight", *o.B_norm_weight, {s.state}, "{N}");
  if (o.C_norm_weight) same("C_norm_weight", *o.C_norm_weight, {s.state}, "{N}");
  if (o.B_bias) same("B_bias", *o.B_bias, bias, "{H, R, N}");
  if (o.C_bias) same("C_bias", *o.C_bias, bias, "{H, R, N}");
  if (o.D) same("D", *o.D, {s.heads}, "{H}");
  if (o.z) same("z", *o.z, in.x.shape(), "{B, L, H, P}");
  if (o.mimo_x) same("mimo_x", *o.mimo_x, mimo, "{H, R, P}");
  if (o.mimo_z) same("mimo_z", *o.mimo_z, mimo, "{H, R, P}");
  if (o.mimo_o) same("mimo_o", *o.mimo_o, mimo, "{H, R, P}");
  if (s.rank > 1 && (!o.mimo_x || !o.mimo_o)) {
    refuse("a rank above 1 needs mimo_x and mimo_o", "rank " + std::to_string(s.rank),
           "without them the ranks would be equal");
  }
  if (o.mimo_z && !o.z) refuse("mimo_z needs the gate z", "no z");
  if (o.out_norm_weight) same("out_norm_weight", *o.out_norm_weight, {s.heads, s.headdim}, "{H, P}");
  if (!(o.A_floor >= 0)) refuse("A_floor must not be negative", std::to_string(o.A_floor));
  if (!(o.eps >= 0)) refuse("eps must not be negative", std::to_string(o.eps));
  if (o.chunk_size < 0) refuse("chunk_size must be positive, or 0 to choose", std::to_string(o.chunk_size));
  s.sequences = s.batch;
  if (!o.cu_seqlens.empty()) {
    ops::require_cu_seqlens(kName, o.cu_seqlens, s.batch, s.length);
    s.sequences = static_cast<int>(o.cu_seqlens.size()) - 1;
  }
  if (o.initial_state) {
    const Mamba3State& i = *o.initial_state;
    same("initial_state.angle", i.angle, {s.sequences, s.heads, s.angles}, "{S, H, A}");
    same("initial_state.ssm", i.ssm, {s.sequences, s.heads, s.headdim, s.state}, "{S, H, P, N}");
    same("initial_state.k", i.k, {s.sequences, s.rank, s.heads, s.state}, "{S, R, H, N}");
    same("initial_state.v", i.v, {s.sequences, s.heads, s.headdim}, "{S, H, P}");
  }
  return s;
}

mx::array part(const mx::array& a, int axis, int first, int last, mx::Stream s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = first, stop[axis] = last;
  return mx::slice(a, start, stop, s);
}

// The first (or last) token of each sequence: a {B, L, ..} -> {S, ..}; of an
// empty sequence, `otherwise`.
class Ends {
 public:
  Ends(const Sizes& sizes, const std::vector<int32_t>& cu, mx::Stream s) : sizes_(sizes), cu_(cu), s_(s) {}

  mx::array first(const mx::array& a, const mx::array& otherwise) const { return pick_first(a, otherwise); }
  mx::array last(const mx::array& a, const mx::array& otherwise) const {
    return mamba3_stages::last_tokens(a, cu_, otherwise, s_);
  }
  /// a {S, ..}, but `otherwise` for empty sequences.
  mx::array or_initial(const mx::array& a, const mx::array& otherwise) const {
    if (cu_.empty()) return a;
    std::vector<uint8_t> there;
    for (size_t i = 0; i + 1 < cu_.size(); i++) there.push_back(cu_[i + 1] > cu_[i]);
    return mx::where(mask_of(there, a.ndim()), a, otherwise, s_);
  }

 private:
  mx::array mask_of(const std::vector<uint8_t>& there, size_t axes) const {
    mx::Shape shape(axes, 1);
    shape[0] = sizes_.sequences;
    return mx::reshape(mx::astype(mx::array(there.data(), {sizes_.sequences}, mx::uint8), mx::bool_, s_), shape,
                       s_);
  }

  mx::array pick_first(const mx::array& a, const mx::array& otherwise) const {
    if (cu_.empty()) return mx::squeeze(part(a, 1, 0, 1, s_), 1, s_);
    std::vector<int32_t> place;
    std::vector<uint8_t> there;
    for (size_t i = 0; i + 1 < cu_.size(); i++) {
      there.push_back(cu_[i + 1] > cu_[i]);
      place.push_back(there.back() ? cu_[i] : 0);
    }
    const auto taken =
        mx::take(mx::squeeze(a, 0, s_), mx::array(place.data(), {sizes_.sequences}, mx::int32), 0, s_);
    return mx::where(mask_of(there, taken.ndim()), taken, otherwise, s_);
  }

  const Sizes& sizes_;
  const std::vector<int32_t>& cu_;
  const mx::Stream s_;
};

// a {B, L, H} one token earlier, zero at the last token of each sequence.
mx::array shifted(const mx::array& a, const Sizes& sizes, const std::vector<int32_t>& cu, mx::Stream s) {
  auto next = mx::concatenate(
      {part(a, 1, 1, sizes.length, s), mx::zeros({sizes.batch, 1, sizes.heads}, a.dtype(), s)}, 1, s);
  if (cu.empty()) return next;
  std::vector<float> inside(static_cast<size_t>(sizes.length), 1);
  for (size_t i = 1; i < cu.size(); i++) {
    if (cu[i] > 0) inside[static_cast<size_t>(cu[i]) - 1] = 0;
  }
  return mx::multiply(next, mx::astype(mx::array(inside.data(), {1, sizes.length, 1}, mx::float32), a.dtype(), s),
                      s);
}

std::pair<mx::array, Mamba3State> run(const Inputs& in, const Sizes& z, mx::Stream s) {
  const Mamba3Options& o = in.options;
  const mx::Dtype dtype = in.x.dtype();
  const auto initial = o.initial_state
                           ? *o.initial_state
                           : mamba3_zero_state(z.sequences, z.heads, z.rank, z.headdim, z.state, z.angles, dtype);
  if (z.length == 0 || z.batch == 0) return {mx::zeros_like(in.x, s), initial};
  const Ends ends(z, o.cu_seqlens, s);

  const auto [dt, log, gamma, beta] = mamba3_stages::weights(in.dd_dt, in.dd_A, in.trap, o, s);
  // A token enters with gamma and once more, a step later, with beta of that step.
  const auto w = mx::add(gamma, shifted(beta, z, o.cu_seqlens, s), s);

  std::optional<mamba3_stages::Phases> phases;
  if (o.angle) phases = mamba3_stages::Phases{*o.angle, dt, initial.angle};
  const auto normed = [&](const mx::array& m, const std::optional<mx::array>& weight) {
    return weight ? rms_norm(m, *weight, o.eps, s) : m;
  };
  const auto B = normed(in.B, o.B_norm_weight), C = normed(in.C, o.C_norm_weight);
  const auto by_rank = [&](const mx::array& a) {  // {.., H, P} -> {.., H, R, P}
    const auto wide = mx::expand_dims(a, -2, s);
    return o.mimo_x ? mx::multiply(wide, *o.mimo_x, s) : wide;
  };

  // The last token before the first: its key and value enter with beta of the first.
  mx::array state = initial.ssm;
  if (o.initial_state) {
    const auto seed = mx::matmul(mx::swapaxes(by_rank(initial.v), -1, -2, s), mx::swapaxes(initial.k, 1, 2, s), s);
    const auto first = ends.first(beta, mx::zeros({z.sequences, z.heads}, dtype, s));
    state = mx::add(state, mx::multiply(seed, mx::expand_dims(first, {2, 3}, s), s), s);
  }
  // Rank 1 without a norm is finished where it is made.
  std::optional<mamba3_stages::Finish> finish;
  if (z.rank == 1 && !o.mimo_x && !o.mimo_z && !o.mimo_o && !o.out_norm_weight) {
    finish = mamba3_stages::Finish{o.z};
  }
  const auto [y, ssm, last_phi, skipped] =
      mamba3_stages::turned_core(log, w, gamma, in.x, o.mimo_x, B, C, o.B_bias, o.C_bias, phases, state,
                                 o.cu_seqlens, o.chunk_size, o.pairing, o.D, finish, s);
  mx::array out = y;
  if (!finish) {
    Mamba3Options rest = o;
    if (skipped) rest.D = std::nullopt, rest.mimo_x = std::nullopt;
    // x counts through the skip alone; no gradient of zeros is to be added to that of the core.
    out = mamba3_stages::combine(y, skipped ? mx::stop_gradient(in.x, s) : in.x, rest, s);
  }

  // An empty sequence hands its state on; its seed has beta 0.
  const auto one = [&](const mx::array& a) { return mx::expand_dims(a, 1, s); };
  const auto last_B = ends.last(B, mx::zeros({z.sequences, B.shape(2), B.shape(3), B.shape(4)}, dtype, s));
  const auto last_key =
      mamba3_stages::rotate(one(last_B), o.B_bias, last_phi ? std::optional(one(*last_phi)) : std::nullopt,
                            z.heads, o.pairing, s);  // {S, 1, H, R, N}
  const auto last_k = ends.or_initial(mx::swapaxes(mx::squeeze(last_key, 1, s), 1, 2, s), initial.k);
  return {out, {last_phi.value_or(initial.angle), ssm, last_k, ends.last(in.x, initial.v)}};
}

Inputs widened(const mx::array& x, const mx::array& B, const mx::array& C, const mx::array& dd_dt,
               const mx::array& dd_A, const mx::array& trap, Mamba3Options o, mx::Stream s) {
  const auto pointer = [](const std::optional<mx::array>& a) { return a ? &*a : nullptr; };
  Mamba3State* const i = o.initial_state ? &*o.initial_state : nullptr;
  const mx::Dtype dtype = ops::compute_dtype(kName, {{"x", &x},
                                                     {"B", &B},
                                                     {"C", &C},
                                                     {"dd_dt", &dd_dt},
                                                     {"dd_A", &dd_A},
                                                     {"trap", &trap},
                                                     {"angle", pointer(o.angle)},
                                                     {"dt_bias", pointer(o.dt_bias)},
                                                     {"B_norm_weight", pointer(o.B_norm_weight)},
                                                     {"C_norm_weight", pointer(o.C_norm_weight)},
                                                     {"B_bias", pointer(o.B_bias)},
                                                     {"C_bias", pointer(o.C_bias)},
                                                     {"D", pointer(o.D)},
                                                     {"z", pointer(o.z)},
                                                     {"mimo_x", pointer(o.mimo_x)},
                                                     {"mimo_z", pointer(o.mimo_z)},
                                                     {"mimo_o", pointer(o.mimo_o)},
                                                     {"out_norm_weight", pointer(o.out_norm_weight)},
                                                     {"initial_state.angle", i ? &i->angle : nullptr},
                                                     {"initial_state.ssm", i ? &i->ssm : nullptr},
                                                     {"initial_state.k", i ? &i->k : nullptr},
                                                     {"initial_state.v", i ? &i->v : nullptr}});
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, s); };
  for (auto* a : {&o.angle, &o.dt_bias, &o.B_norm_weight, &o.C_norm_weight, &o.B_bias, &o.C_bias, &o.D, &o.z,
                  &o.mimo_x, &o.mimo_z, &o.mimo_o, &o.out_norm_weight}) {
    if (*a) *a = wide(**a);
  }
  if (i) *i = {wide(i->angle), wide(i->ssm), wide(i->k), wide(i->v)};
  const auto ranked = [&](const mx::array& m) { return m.ndim() == 4 ? mx::expand_dims(wide(m), 2, s) : wide(m); };
  return {wide(x), ranked(B), ranked(C), wide(dd_dt), wide(dd_A), wide(trap), std::move(o)};
}

// What a step has and the whole has not: no axis of tokens, and the state in front. The rest is checked with the
// whole.
void check_step(const Mamba3State& state, const mx::array& x, const mx::array& B, const mx::array& C,
                const mx::array& dd_dt, const mx::array& dd_A, const mx::array& trap, const Mamba3Options& o) {
  constexpr const char* kStep = "mamba3_step";
  const auto refuse_step = [](std::string required, std::string got, std::string hint = {}) {
    throw Error(ErrorKind::kUsage,
                {.where = kStep, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
  };
  if (o.initial_state || !o.cu_seqlens.empty()) {
    refuse_step("initial_state and cu_seqlens do not apply to a step", "one of them",
                "pass the state as the first argument");
  }
  if (x.ndim() != 3) refuse_step("x must have shape {B, H, P}", ops::to_string(x.shape()));
  const int batch = x.shape(0), heads = x.shape(1), headdim = x.shape(2);
  if ((B.ndim() != 3 && B.ndim() != 4) || B.shape(0) != batch) {
    refuse_step("B must have shape {B, R, G, N} or {B, G, N} with " + ops::to_string({batch}) + " in front",
                ops::to_string(B.shape()));
  }
  const int rank = B.ndim() == 4 ? B.shape(1) : 1, size = B.shape(-1);
  ops::require_shape(kStep, "C", C, B.shape(), "that of B");
  ops::require_shape(kStep, "dd_dt", dd_dt, {batch, heads}, "{B, H}");
  ops::require_shape(kStep, "dd_A", dd_A, {batch, heads}, "{B, H}");
  ops::require_shape(kStep, "trap", trap, {batch, heads}, "{B, H}");
  if (o.angle && (o.angle->ndim() != 2 || o.angle->shape(0) != batch)) {
    refuse_step("angle must have shape {B, A} with " + ops::to_string({batch}) + " in front",
                ops::to_string(o.angle->shape()));
  }
  if (o.z) ops::require_shape(kStep, "z", *o.z, x.shape(), "{B, H, P}");
  const int angles = o.angle ? o.angle->shape(1) : 0;
  ops::require_shape(kStep, "state.angle", state.angle, {batch, heads, angles}, "{B, H, A}");
  ops::require_shape(kStep, "state.ssm", state.ssm, {batch, heads, headdim, size}, "{B, H, P, N}");
  ops::require_shape(kStep, "state.k", state.k, {batch, rank, heads, size}, "{B, R, H, N}");
  ops::require_shape(kStep, "state.v", state.v, {batch, heads, headdim}, "{B, H, P}");
  ops::compute_dtype(kStep, {{"x", &x},
                             {"B", &B},
                             {"C", &C},
                             {"dd_dt", &dd_dt},
                             {"dd_A", &dd_A},
                             {"trap", &trap},
                             {"angle", o.angle ? &*o.angle : nullptr},
                             {"z", o.z ? &*o.z : nullptr},
                             {"state.angle", &state.angle},
                             {"state.ssm", &state.ssm},
                             {"state.k", &state.k},
                             {"state.v", &state.v}});
}

}  // namespace

Mamba3State mamba3_zero_state(int sequences, int heads, int rank, int headdim, int state, int angles,
                              mx::Dtype dtype) {
  return {mx::zeros({sequences, heads, angles}, dtype), mx::zeros({sequences, heads, headdim, state}, dtype),
          mx::zeros({sequences, rank, heads, state}, dtype), mx::zeros({sequences, heads, headdim}, dtype)};
}

std::pair<mx::array, Mamba3State> mamba3_with_state(const mx::array& x, const mx::array& B, const mx::array& C,
                                                    const mx::array& dd_dt, const mx::array& dd_A,
                                                    const mx::array& trap, const Mamba3Options& options,
                                                    mx::StreamOrDevice device) {
  const auto s = mx::to_stream(device);
  const Inputs in = widened(x, B, C, dd_dt, dd_A, trap, options, s);
  auto [out, state] = run(in, checked_sizes(in), s);
  return {mx::astype(out, x.dtype(), s), state};
}

mx::array mamba3(const mx::array& x, const mx::array& B, const mx::array& C, const mx::array& dd_dt,
                 const mx::array& dd_A, const mx::array& trap, const Mamba3Options& options,
                 mx::StreamOrDevice s) {
  return mamba3_with_state(x, B, C, dd_dt, dd_A, trap, options, s).first;
}

std::pair<mx::array, Mamba3State> mamba3_step(const Mamba3State& state, const mx::array& x, const mx::array& B,
                                              const mx::array& C, const mx::array& dd_dt, const mx::array& dd_A,
                                              const mx::array& trap, const Mamba3Options& options,
                                              mx::StreamOrDevice device) {
  const auto s = mx::to_stream(device);
  check_step(state, x, B, C, dd_dt, dd_A, trap, options);
  const auto token = [&](const mx::array& a) { return mx::expand_dims(a, 1, s); };
  Mamba3Options o = options;
  o.initial_state = state;
  if (o.angle) o.angle = token(*o.angle);
  if (o.z) o.z = token(*o.z);
  if (mamba3_stages::runs_composed(s)) {
    auto [out, next] =
        mamba3_with_state(token(x), token(B), token(C), token(dd_dt), token(dd_A), token(trap), o, s);
    return {mx::squeeze(out, 1, s), next};
  }
  const Inputs in = widened(token(x), token(B), token(C), token(dd_dt), token(dd_A), token(trap), o, s);
  const Sizes sizes = checked_sizes(in);
  const Mamba3State& before = *in.options.initial_state;
  if (in.x.size() == 0) return {x, before};
  // The arrays that are given, not views of them with an axis of tokens.
  const mx::Dtype dtype = in.x.dtype();
  const auto wide = [&](const mx::array& a) { return mx::astype(a, dtype, s); };
  const auto ranked = [&](const mx::array& m) { return m.ndim() == 3 ? mx::expand_dims(wide(m), 1, s) : wide(m); };
  Mamba3Options single = in.options;
  if (options.angle) single.angle = wide(*options.angle);
  if (options.z) single.z = wide(*options.z);
  const mx::array v = wide(x);
  const auto out =
      mamba3_stages::step(before, v, ranked(B), ranked(C), wide(dd_dt), wide(dd_A), wide(trap), single, s);
  return {mx::astype(out[0], x.dtype(), s), {sizes.angles > 0 ? out[1] : before.angle, out[2], out[3], v}};
}

}  // namespace aspis
