// Compares convolutions with oneDNN called directly on the same number of
// threads: images channels last on both sides, oneDNN's weights in the order it
// likes best, put there before the clock starts. GFLOP/s, the best of many, in turn.
//
//   aspis_conv_bench [threads]

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/conv/kernel/cpu.h"

namespace {

using Values = std::vector<float>;
using aspis::kernel::ConvShape;
using dnnl::memory;

Values random_values(const char* name, int64_t n) {
  aspis::Rng rng(1, name);
  Values v(n);
  for (auto& x : v) x = static_cast<float>(rng.normal());
  return v;
}

// The primitives of one shape, height and width only.
class Library {
 public:
  Library(const ConvShape& s, Values& x, Values& w, Values& y)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    const auto f32 = memory::data_type::f32;
    const bool grouped = s.groups > 1;
    const memory::dims xd{s.batch, s.in_channels, s.in[1], s.in[2]},
        yd{s.batch, s.out_channels, s.out[1], s.out[2]};
    const memory::dims wd = grouped ? memory::dims{s.groups, s.group_out(), s.group_in(), s.kernel[1], s.kernel[2]}
                                    : memory::dims{s.out_channels, s.in_channels, s.kernel[1], s.kernel[2]};
    const memory::dims stride{s.stride[1], s.stride[2]}, padding{s.padding[1], s.padding[2]};
    const memory::desc dx(xd, f32, memory::format_tag::nhwc), dy(yd, f32, memory::format_tag::nhwc);
    const memory::desc any(wd, f32, memory::format_tag::any);
    const memory::desc dw(wd, f32, grouped ? memory::format_tag::gohwi : memory::format_tag::ohwi);
    const auto direct = dnnl::algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::convolution_forward::primitive_desc f(engine_, dnnl::prop_kind::forward_training, direct, dx, any,
                                                      dy, stride, padding, padding);
    const dnnl::convolution_backward_data::primitive_desc bd(engine_, direct, dx, any, dy, stride, padding,
                                                             padding, f);
    const dnnl::convolution_backward_weights::primitive_desc bw(engine_, direct, dx, any, dy, stride, padding,
                                                                padding, f);
#else
    const dnnl::convolution_forward::primitive_desc f(
        {dnnl::prop_kind::forward_training, direct, dx, any, dy, stride, padding, padding}, engine_);
    const dnnl::convolution_backward_data::primitive_desc bd({direct, dx, any, dy, stride, padding, padding},
                                                             engine_, f);
    const dnnl::convolution_backward_weights::primitive_desc bw({direct, dx, any, dy, stride, padding, padding},
                                                                engine_, f);
#endif
    const auto ordered = [&](const memory::desc& d) {
      memory from(dw, engine_, w.data()), to(d, engine_);
      dnnl::reorder(from, to).execute(stream_, from, to);
      stream_.wait();
      return to;
    };
    const memory mx(dx, engine_, x.data()), my(dy, engine_, y.data());
    forward_ = dnnl::convolution_forward(f);
    forward_args_ = {{DNNL_ARG_SRC, mx}, {DNNL_ARG_WEIGHTS, ordered(f.weights_desc())}, {DNNL_ARG_DST, my}};
    data_ = dnnl::convolution_backward_data(bd);
    data_args_ = {
        {DNNL_ARG_DIFF_SRC, mx}, {DNNL_ARG_WEIGHTS, ordered(bd.weights_desc())}, {DNNL_ARG_DIFF_DST, my}};
    weights_ = dnnl::convolution_backward_weights(bw);
    weights_args_ = {{DNNL_ARG_SRC, mx},
                     {DNNL_ARG_DIFF_WEIGHTS, memory(bw.diff_weights_desc(), engine_)},
                     {DNNL_ARG_DIFF_DST, my}};
  }
  void forward() { run(forward_, forward_args_); }
  void data() { run(data_, data_args_); }
  void weights() { run(weights_, weights_args_); }

 private:
  using Arguments = std::unordered_map<int, memory>;
  void run(const dnnl::primitive& p, const Arguments& a) {
    p.execute(stream_, a);
    stream_.wait();
  }
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::primitive forward_, data_, weights_;
  Arguments forward_args_, data_args_, weights_args_;
};

void compare(const char* what, double flops, const std::function<void()>& own,
             const std::function<void()>& library) {
  double best[2] = {1e9, 1e9};
  own();
  library();
  const double end = aspis::monotonic_seconds() + 0.5;
  while (aspis::monotonic_seconds() < end) {
    for (const int i : {0, 1}) {
      const double start = aspis::monotonic_seconds();
      i == 0 ? own() : library();
      best[i] = std::min(best[i], aspis::monotonic_seconds() - start);
    }
  }
  std::printf("  %-8s aspis %6.1f  oneDNN %6.1f  speed beside it %.2f\n", what, flops / best[0] * 1e-9,
              flops / best[1] * 1e-9, best[1] / best[0]);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : aspis::available_cores();
  aspis::set_num_threads(threads);
  omp_set_num_threads(threads);
  std::printf("%d threads, GFLOP/s\n", threads);
  struct Case {
    int64_t batch, side, in, out, kernel, stride, padding, groups;
  };
  for (const Case& c :
       {Case{8, 112, 64, 64, 3, 1, 1, 1}, Case{8, 56, 80, 80, 3, 1, 1, 1}, Case{8, 28, 160, 160, 3, 1, 1, 1},
        Case{8, 56, 80, 160, 3, 2, 1, 1}, Case{8, 224, 3, 32, 3, 2, 1, 1}, Case{8, 14, 256, 256, 3, 1, 1, 1},
        Case{8, 224, 3, 192, 16, 16, 0, 1}, Case{8, 56, 96, 96, 7, 1, 3, 96},
        Case{8, 28, 384, 384, 3, 1, 1, 384}}) {
    ConvShape s;
    s.batch = c.batch;
    s.in_channels = c.in;
    s.out_channels = c.out;
    s.groups = c.groups;
    for (const int a : {1, 2}) {
      s.in[a] = c.side;
      s.kernel[a] = c.kernel;
      s.stride[a] = c.stride;
      s.padding[a] = c.padding;
      s.out[a] = (c.side + 2 * c.padding - c.kernel) / c.stride + 1;
    }
    Values x = random_values("x", s.batch * aspis::kernel::volume(s.in) * s.in_channels),
           w = random_values("w", s.out_channels * s.depth());
    Values y = random_values("y", s.pixels() * s.out_channels), dw(w.size());
    Values work(static_cast<size_t>(std::max(aspis::kernel::conv_workspace(s),
                                             aspis::kernel::conv_vjp_workspace(s, true, true, false))) +
                1);
    Library library(s, x, w, y);
    const double flops = 2.0 * static_cast<double>(s.pixels() * s.out_channels) * static_cast<double>(s.depth());
    std::printf("%ld x %ld x %ld x %ld, %ld x %ld to %ld, stride %ld%s\n", c.batch, c.side, c.side, c.in, c.kernel,
                c.kernel, c.out, c.stride, c.groups > 1 ? ", depthwise" : "");
    const aspis::kernel::ConvParams<float> p{s, x.data(), w.data(), nullptr, y.data(), work.data()};
    compare(
        "forward", flops, [&] { aspis::kernel::conv(p); }, [&] { library.forward(); });
    aspis::kernel::ConvVjpParams<float> g;
    g.shape = s;
    g.x = x.data();
    g.weight = w.data();
    g.dy = y.data();
    g.workspace = work.data();
    g.dx = x.data();  // dx does not read x
    compare(
        "dx", flops, [&] { aspis::kernel::conv_vjp(g); }, [&] { library.data(); });
    g.dx = nullptr;
    g.dweight = dw.data();
    compare(
        "dweight", flops, [&] { aspis::kernel::conv_vjp(g); }, [&] { library.weights(); });
  }
}
