#include "aspis/ops/mamba_block/kernel/cpu.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/causal_conv1d/kernel/cpu.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"
#include "aspis/ops/selective_scan/kernel/plan.h"

namespace aspis::kernel {
namespace {

// Tokens of a piece: u, delta and the parts of x_proj of so many stay in the first caches.
constexpr int64_t kPiece = 64;
// Groups of samples whose gradients of the weights are summed one by one.
constexpr int64_t kGroups = 16;

// A matrix {out, in} packed for x W^T, and for y W.
template <typename T>
struct Packed {
  int64_t k = 0, n = 0;
  std::vector<T> data;

  void multiply(int64_t rows, const T* a, int64_t lda, bool add, T* c, int64_t ldc) const {
    multiply_packed<T>(rows, n, k, a, lda, data.data(), 0, n, nullptr, add, c, ldc);
  }
};
template <typename T>
Packed<T> forward_of(const T* w, int64_t out, int64_t in) {
  Packed<T> p{in, out, std::vector<T>(packed_size(in, out))};
  pack_transposed(w, in, in, out, 0, out, p.data.data());
  return p;
}
template <typename T>
Packed<T> backward_of(const T* w, int64_t out, int64_t in) {
  Packed<T> p{out, in, std::vector<T>(packed_size(out, in))};
  pack(w, in, out, in, 0, in, p.data.data());
  return p;
}

// The weights of a block as its products want them.
template <typename T>
struct Weights {
  Packed<T> x, z, out;
  struct Branch {
    Packed<T> x_proj, dt_proj;
  };
  std::vector<Branch> branches;

  Weights(const MambaBlockParams<T>& p, Packed<T> (*form)(const T*, int64_t, int64_t)) {
    x = form(p.in_proj, p.inner, p.width);
    z = form(p.in_proj + p.inner * p.width, p.inner, p.width);
    out = form(p.out_proj, p.width, p.inner);
    for (const auto& b : p.branches) {
      branches.push_back({form(b.x_proj, p.rank + 2 * p.state, p.inner), form(b.dt_proj, p.inner, p.rank)});
    }
  }
};

// Buffers of a worker, made once a call.
template <typename T>
class Buffer {
 public:
  T* of(int64_t n) {
    if (n > size_) {
      data_.reset(new T[static_cast<size_t>(n)]);
      size_ = n;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0;
};

// Everything between the projections, for one sample.
template <typename T>
struct Sample {
  Buffer<T> x, z, y, part, u, delta, low, checkpoints, work, conv_work, states;
  Buffer<T> dy, du, ddelta, dz, dz_part, dx, dx_part, dlow, dB, dC;
  Buffer<T> gA, gD, gbias, gconv, gconv_bias;
};

template <typename T>
ScanRows<T> rows(T* data, int64_t stride) {
  return {data, 0, stride};
}

// The parameters of a scan over tokens [first, first + n) of one sample.
template <typename T>
ScanParams<T> scan_of(const MambaBlockParams<T>& p, const MambaBranch<T>& b, const ScanPlan& plan, int64_t n,
                      const T* u, const T* delta, const T* z, const T* low) {
  ScanParams<T> s;
  s.shape = {1, n, p.inner, p.state, 1};
  s.plan = &plan;
  s.softplus = true;
  s.reverse = b.reverse;
  s.order = b.order;
  s.u = {u, 0, p.inner};
  s.delta = {delta, 0, p.inner};
  s.z = {z, 0, p.inner};
  s.A = b.A;
  const int64_t wide = p.rank + 2 * p.state;
  s.B = {low + p.rank, false, 0, wide, 0};
  s.C = {low + p.rank + p.state, false, 0, wide, 0};
  s.D = b.D;
  s.delta_bias = b.dt_bias;
  return s;
}

template <typename T>
Conv1dParams<T> conv_of(const MambaBlockParams<T>& p, const MambaBranch<T>& b, int64_t n, const T* x) {
  Conv1dParams<T> c;
  c.batch = 1;
  c.length = n;
  c.channels = p.inner;
  c.width = p.taps;
  c.reach = p.taps - 1;
  c.silu = true;
  c.reverse = b.reverse;
  c.order = b.order;
  c.x = x;
  c.x_token = p.inner;
  c.weight = b.conv_weight;
  c.bias = b.conv_bias;
  return c;
}

// u, low = {dt, B, C} and delta of a piece whose convolution is `c`.
template <typename T>
void project(const MambaBlockParams<T>& p, Conv1dParams<T> c, const typename Weights<T>::Branch& w, T* u, T* low,
             T* delta, Buffer<T>& work) {
  const int64_t wide = p.rank + 2 * p.state;
  c.out = u;
  c.workspace = work.of(static_cast<int64_t>(conv1d_workspace(c) / sizeof(T)) + 1);
  conv1d(c);
  w.x_proj.multiply(c.length, u, p.inner, false, low, wide);
  w.dt_proj.multiply(c.length, low, wide, false, delta, p.inner);
}

// y (+)= the output of branch `b`, a piece of tokens after the other in visiting order.
template <typename T>
void run_branch(const MambaBlockParams<T>& p, const MambaBranch<T>& b, const typename Weights<T>::Branch& w,
                Sample<T>& s, const T* x, const T* z, bool add, T* y) {
  const int64_t I = p.inner, wide = p.rank + 2 * p.state;
  const int64_t piece = b.order || p.taps > kPiece ? p.length : kPiece, pieces = div_ceil(p.length, piece);
  T *u = s.u.of(std::min(piece, p.length) * I), *delta = s.delta.of(std::min(piece, p.length) * I),
    *low = s.low.of(std::min(piece, p.length) * wide), *states = s.states.of(2 * I * p.state),
    *part = add ? s.part.of(std::min(piece, p.length) * I) : nullptr;
  for (int64_t i = 0; i < pieces; i++) {
    // Piece i in visiting order: tokens [first, first + n).
    const int64_t n = std::min(piece, p.length - i * piece);
    const int64_t first = b.reverse ? p.length - i * piece - n : i * piece;
    auto c = conv_of(p, b, n, x + first * I);
    if (i > 0) {  // the inputs before it lie where they are
      const int64_t before = p.taps - 1;
      c.initial = b.reverse ? x + (first + n + before - 1) * I : x + (first - before) * I;
      c.initial_token = b.reverse ? -I : I;
    }
    project(p, c, w, u, low, delta, s.conv_work);
    const ScanPlan plan = dense_plan({1, n, I, p.state, 1});
    auto scan_piece = scan_of(p, b, plan, n, u, delta, z + first * I, low);
    scan_piece.out = rows(add ? part : y + first * I, I);
    if (i > 0) scan_piece.initial_state = states + (i % 2) * I * p.state;
    if (i + 1 < pieces) scan_piece.last_state = states + ((i + 1) % 2) * I * p.state;
    scan(scan_piece);
    for (int64_t j = 0; add && j < n * I; j++) y[first * I + j] += part[j];
  }
}

template <typename T>
void forward_sample(const MambaBlockParams<T>& p, const Weights<T>& w, int64_t sample, Sample<T>& s) {
  const int64_t I = p.inner, tokens = p.length * I;
  const T* h = p.h + sample * p.length * p.width;
  T *x = s.x.of(tokens), *z = s.z.of(tokens), *y = s.y.of(tokens);
  w.x.multiply(p.length, h, p.width, false, x, I);
  w.z.multiply(p.length, h, p.width, false, z, I);
  for (size_t b = 0; b < p.branches.size(); b++) {
    run_branch(p, p.branches[b], w.branches[b], s, x, z, b > 0, y);
  }
  w.out.multiply(p.length, y, I, false, p.out + sample * p.length * p.width, p.width);
}

template <typename T>
void add_to(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

// Where the gradients of all weights lie in one array.
template <typename T>
struct Layout {
  std::vector<std::pair<T*, int64_t>> targets;  // and their sizes
  int64_t size = 0;

  explicit Layout(const MambaBlockVjpParams<T>& q) {
    const auto& p = q.forward;
    add(q.din_proj, 2 * p.inner * p.width);
    add(q.dout_proj, p.width * p.inner);
    for (const auto& b : q.branches) {
      add(b.conv_weight, p.inner * p.taps);
      add(b.conv_bias, p.inner);
      add(b.x_proj, (p.rank + 2 * p.state) * p.inner);
      add(b.dt_proj, p.inner * p.rank);
      add(b.dt_bias, p.inner);
      add(b.A, p.inner * p.state);
      add(b.D, p.inner);
    }
  }
  void add(T* target, int64_t n) {
    targets.emplace_back(target, n);
    size += n;
  }
};

// The gradients of one group of samples, in the order of Layout.
template <typename T>
struct Sums {
  T *in_proj, *out_proj;
  std::vector<MambaBranchGradient<T>> branches;

  Sums(const MambaBlockParams<T>& p, T* data) {
    const auto take = [&](int64_t n) {
      T* at = data;
      data += n;
      return at;
    };
    in_proj = take(2 * p.inner * p.width);
    out_proj = take(p.width * p.inner);
    for (size_t b = 0; b < p.branches.size(); b++) {
      MambaBranchGradient<T> g;
      g.conv_weight = take(p.inner * p.taps);
      g.conv_bias = take(p.inner);
      g.x_proj = take((p.rank + 2 * p.state) * p.inner);
      g.dt_proj = take(p.inner * p.rank);
      g.dt_bias = take(p.inner);
      g.A = take(p.inner * p.state);
      g.D = take(p.inner);
      branches.push_back(g);
    }
  }
};

// What the branch `b` leaves: its output added to y, or its gradients.
template <typename T>
void backward_branch(const MambaBlockParams<T>& p, size_t index, const Weights<T>& w, const Weights<T>& back,
                     Sample<T>& s, const T* x, const T* z, const T* dy, T* y, T* dx, T* dz, Sums<T>& sums) {
  const MambaBranch<T>& b = p.branches[index];
  const MambaBranchGradient<T>& g = sums.branches[index];
  const int64_t L = p.length, I = p.inner, N = p.state, R = p.rank, wide = R + 2 * N, tokens = L * I;
  T *u = s.u.of(tokens), *delta = s.delta.of(tokens), *low = s.low.of(L * wide);
  const auto conv = conv_of(p, b, L, x);
  project(p, conv, w.branches[index], u, low, delta, s.conv_work);
  const ScanPlan plan = dense_plan({1, L, I, N, 1});
  ScanVjpParams<T> q;
  q.in = scan_of(p, b, plan, L, u, delta, z, low);
  q.in.checkpoints = s.checkpoints.of(plan.checkpoint_size(q.in.shape));
  auto forward = q.in;
  T* part = index == 0 ? y : s.part.of(tokens);
  forward.out = rows(part, I);
  scan(forward);
  if (index > 0) add_to(y, part, tokens);

  q.dout = {dy, 0, I};
  T *du = s.du.of(tokens), *ddelta = s.ddelta.of(tokens), *dlow = s.dlow.of(L * wide);
  T* dz_part = index == 0 ? dz : s.dz_part.of(tokens);
  q.du = rows(du, I);
  q.ddelta = rows(ddelta, I);
  q.dz = rows(dz_part, I);
  q.dA = s.gA.of(I * N);
  q.dB = s.dB.of(L * N);
  q.dC = s.dC.of(L * N);
  q.dD = s.gD.of(I);
  q.ddelta_bias = s.gbias.of(I);
  q.workspace = s.work.of(scan_vjp_workspace(q.in.shape, plan.part_count(), false, false));
  scan_vjp(q);
  if (index > 0) add_to(dz, dz_part, tokens);
  add_to(g.A, q.dA, I * N);
  add_to(g.D, q.dD, I);
  add_to(g.dt_bias, q.ddelta_bias, I);

  back.branches[index].dt_proj.multiply(L, ddelta, I, false, dlow, wide);
  for (int64_t t = 0; t < L; t++) {
    std::copy_n(q.dB + t * N, N, dlow + t * wide + R);
    std::copy_n(q.dC + t * N, N, dlow + t * wide + R + N);
  }
  multiply_transposed<T>(I, R, L, ddelta, I, low, wide, true, g.dt_proj, R);
  multiply_transposed<T>(wide, I, L, dlow, wide, u, I, true, g.x_proj, I);
  back.branches[index].x_proj.multiply(L, dlow, wide, true, du, I);

  Conv1dVjpParams<T> c;
  c.forward = conv;
  c.dout = du;
  c.dout_token = I;
  T* dx_part = index == 0 ? dx : s.dx_part.of(tokens);
  c.dx = dx_part;
  c.dweight = s.gconv.of(I * p.taps);
  c.dbias = s.gconv_bias.of(I);
  c.workspace = s.conv_work.of(static_cast<int64_t>(conv1d_vjp_workspace(c) / sizeof(T)) + 1);
  conv1d_vjp(c);
  if (index > 0) add_to(dx, dx_part, tokens);
  add_to(g.conv_weight, c.dweight, I * p.taps);
  add_to(g.conv_bias, c.dbias, I);
}

template <typename T>
void backward_sample(const MambaBlockVjpParams<T>& q, const Weights<T>& w, const Weights<T>& back, int64_t sample,
                     Sample<T>& s, Sums<T>& sums) {
  const MambaBlockParams<T>& p = q.forward;
  const int64_t L = p.length, I = p.inner, W = p.width, tokens = L * I;
  const T *h = p.h + sample * L * W, *dout = q.dout + sample * L * W;
  T *x = s.x.of(tokens), *z = s.z.of(tokens), *y = s.y.of(tokens), *dy = s.dy.of(tokens), *dx = s.dx.of(tokens),
    *dz = s.dz.of(tokens);
  w.x.multiply(L, h, W, false, x, I);
  w.z.multiply(L, h, W, false, z, I);
  back.out.multiply(L, dout, W, false, dy, I);
  for (size_t b = 0; b < p.branches.size(); b++) {
    backward_branch(p, b, w, back, s, x, z, dy, y, dx, dz, sums);
  }
  multiply_transposed<T>(W, I, L, dout, W, y, I, true, sums.out_proj, I);
  multiply_transposed<T>(I, W, L, dx, I, h, W, true, sums.in_proj, W);
  multiply_transposed<T>(I, W, L, dz, I, h, W, true, sums.in_proj + I * W, W);
  T* dh = q.dh + sample * L * W;
  back.x.multiply(L, dx, I, false, dh, W);
  back.z.multiply(L, dz, I, true, dh, W);
}

}  // namespace

template <typename T>
void mamba_block(const MambaBlockParams<T>& p) {
  const Weights<T> w(p, forward_of<T>);
  std::vector<Sample<T>> scratch(static_cast<size_t>(num_threads()));
  parallel_for(p.batch, [&](int64_t sample, int worker) {
    forward_sample(p, w, sample, scratch[static_cast<size_t>(worker)]);
  });
}

template <typename T>
void mamba_block_vjp(const MambaBlockVjpParams<T>& q) {
  const MambaBlockParams<T>& p = q.forward;
  const Weights<T> w(p, forward_of<T>), back(p, backward_of<T>);
  const Layout<T> layout(q);
  const int64_t groups = std::min(p.batch, kGroups);
  std::unique_ptr<T[]> sums(new T[static_cast<size_t>(groups * layout.size)]);
  std::vector<Sample<T>> scratch(static_cast<size_t>(num_threads()));
  parallel_for(groups, [&](int64_t group, int worker) {
    T* data = sums.get() + group * layout.size;
    std::fill(data, data + layout.size, T(0));
    Sums<T> of_group(p, data);
    for (int64_t i = p.batch * group / groups; i < p.batch * (group + 1) / groups; i++) {
      backward_sample(q, w, back, i, scratch[static_cast<size_t>(worker)], of_group);
    }
  });
  int64_t at = 0;
  for (const auto& [target, n] : layout.targets) {
    constexpr int64_t kBlock = 1 << 13;
    parallel_for(div_ceil(n, kBlock), [&, to = target, from = at, count = n](int64_t block) {
      const int64_t first = block * kBlock, size = std::min(kBlock, count - first);
      std::fill(to + first, to + first + size, T(0));
      for (int64_t g = 0; g < groups; g++) add_to(to + first, sums.get() + g * layout.size + from + first, size);
    });
    at += n;
  }
}

template void mamba_block(const MambaBlockParams<float>&);
template void mamba_block(const MambaBlockParams<double>&);
template void mamba_block_vjp(const MambaBlockVjpParams<float>&);
template void mamba_block_vjp(const MambaBlockVjpParams<double>&);

}  // namespace aspis::kernel
