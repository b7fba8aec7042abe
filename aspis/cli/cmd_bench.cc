#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <map>

#include "aspis/base/clock.h"
#include "aspis/base/cpu.h"
#include "aspis/base/parallel.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/version.h"
#include "aspis/models/registry.h"
#include "aspis/nn/module.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"
#include "aspis/ops/harness/bounds.h"
#include "aspis/ops/registry/registry.h"
#include "aspis/simd/isa.h"
#include "aspis/train/classifier.h"
#include "aspis/train/run_folder.h"

namespace aspis::cli {
namespace {

struct Options {
  std::vector<std::string> names;
  double seconds = 1.0;
  int64_t batch = 64;
  bool composed = false;
  std::vector<int> thread_counts;
  std::vector<std::string> isas;
  std::string format;
};

std::string milliseconds(double s) { return s > 0 ? fmt::format("{:.3f}", 1e3 * s) : "-"; }
std::string percent(double share) { return share > 0 ? fmt::format("{:.0f} %", 100 * share) : "-"; }

report::Table make_table() {
  return report::Table({{"name", "name"}, {"case", "case"}, {"isa", "isa"}, {"threads", "threads", true},
                        {"forward_ms", "forward ms", true}, {"forward_spread", "+-", true},
                        {"forward_bound_ms", "bound ms", true}, {"forward_share", "share", true}, {"forward_limit", "limit"},
                        {"both_ms", "fwd+bwd ms", true}, {"both_bound_ms", "bound ms", true},
                        {"both_share", "share", true}, {"ratio", "ratio", true}});
}

void add_row(report::Table& table, const harness::PerfResult& r) {
  using report::Cell;
  const auto share = [](double bound, double time) { return time > 0 ? bound / time : 0; };
  const bool both = r.forward_backward.median > 0;
  const double forward_share = share(r.forward_bound, r.forward.median);
  const double both_share = share(r.forward_backward_bound, r.forward_backward.median);
  const double ratio = both ? r.forward_backward.median / r.forward.median : 0;
  const auto optional = [&](double v, std::string text) { return both ? Cell(v, std::move(text)) : Cell(); };
  table.add_row({r.op, r.case_name, active_isa(), int64_t{num_threads()},
                 Cell(1e3 * r.forward.median, milliseconds(r.forward.median)),
                 Cell(r.forward.spread, percent(r.forward.spread)),
                 Cell(1e3 * r.forward_bound, milliseconds(r.forward_bound)),
                 Cell(forward_share, percent(forward_share)), r.forward_limit,
                 optional(1e3 * r.forward_backward.median, milliseconds(r.forward_backward.median)),
                 optional(1e3 * r.forward_backward_bound, milliseconds(r.forward_backward_bound)),
                 optional(both_share, percent(both_share)), optional(ratio, fmt::format("{:.2f}", ratio))});
}

template <typename F>
double median_seconds(double budget, F&& run) {
  run();
  std::vector<double> times;
  const double start = monotonic_seconds();
  while (times.size() < 3 || (monotonic_seconds() - start < budget && times.size() < 1000)) {
    const double t = monotonic_seconds();
    run();
    times.push_back(monotonic_seconds() - t);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// A model's forward pass and gradient on random images, with its multiply-adds as the bound.
harness::PerfResult measure_model(const std::string& name, const Options& o) {
  namespace mx = mlx::core;
  auto model = make_model(name);
  const auto shape = model->input_shape();
  mx::Shape input{static_cast<int>(o.batch)};
  for (const int64_t d : shape) input.push_back(static_cast<int>(d));
  const auto images = mx::ones(input);
  mx::eval(images);
  harness::PerfResult r;
  r.op = name;
  r.case_name = fmt::format("batch {}", o.batch);
  model->eval();
  const auto out = [&] { return model->num_classes() > 0 ? model->logits(images) : model->forward_features(images); };
  r.forward.median = median_seconds(o.seconds / 2, [&] { mx::eval(out()); });
  model->train();
  r.forward_backward.median = median_seconds(o.seconds / 2, [&] {
    auto [values, gradients] =
        value_and_grad(*model, [&](const auto&) { return std::vector<mx::array>{mx::mean(out())}; }, {images});
    values.insert(values.end(), gradients.begin(), gradients.end());
    mx::eval(values);
  });
  const ModelCost cost = model->cost();
  const auto n = static_cast<double>(o.batch);
  const harness::Cost once{2 * n * static_cast<double>(cost.macs), n * static_cast<double>(cost.exps), 0};
  const harness::Cost thrice{3 * once.flops, 2 * once.exps, 0};
  r.forward_bound = harness::bound_seconds(once, harness::machine_bounds(), &r.forward_limit);
  r.forward_backward_bound = harness::bound_seconds(thrice, harness::machine_bounds(), &r.forward_backward_limit);
  return r;
}

void bench_once(const Context& context, const Options& o, report::Table& table) {
  const auto wanted = [&](const std::string& name) {
    return o.names.empty() || std::any_of(o.names.begin(), o.names.end(),
                                          [&](const std::string& pattern) { return glob_match(pattern, name); });
  };
  for (const auto& e : op_registry()) {
    if (!wanted(e.name)) continue;
    for (const auto& instance : e.instances()) {
      if (!(instance.plain.uses & harness::kPerf) || interrupted()) continue;
      if (o.composed && !instance.composed) continue;
      progress_line(context, fmt::format("{} {}", e.name, instance.plain.name));
      add_row(table, harness::measure_case(e, instance, o.seconds, o.composed));
    }
  }
  for (const auto& m : list_models()) {
    // Without a name only the models of the demo: the large ones take minutes.
    const bool chosen = o.names.empty() ? m.name.find("fmnist") != std::string::npos : wanted(m.name);
    if (!chosen || interrupted() || o.composed) continue;
    progress_line(context, m.name);
    add_row(table, measure_model(m.name, o));
  }
}

void bench(const Context& context, const Options& o) {
  for (const auto& name : o.names) {
    if (name.find_first_of("*?") != std::string::npos) continue;
    const auto models = list_models(name);
    if (models.empty()) find_op(name);
  }
  install_interrupt_handler();
  report::Table table = make_table();
  const int saved = num_threads();
  const auto isas = o.isas.empty() ? std::vector<std::string>{active_isa()} : o.isas;
  const auto counts = o.thread_counts.empty() ? std::vector<int>{saved} : o.thread_counts;
  for (const auto& isa : isas) {
    force_isa(isa);
    for (const int threads : counts) {
      set_num_threads(threads);
      const auto& b = harness::machine_bounds();
      print_note(context, fmt::format("{}, {} threads, {}: {:.0f} GFLOP/s FMA, {:.2f} G exp/s, {:.1f} GB/s (measured now)\n",
                                      cpu_report().model, threads, isa, b.fma_flops / 1e9, b.exps / 1e9, b.bytes / 1e9));
      bench_once(context, o, table);
    }
  }
  set_num_threads(saved);
  progress_line(context, "");
  print_table(context, table, o.format);
  if (interrupted()) throw Error(ErrorKind::kRuntime, {.where = "bench", .required = "interrupted"});
}

}  // namespace

void add_bench(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "bench", "Look inside",
                            "Time operators and models, with the machine's bound beside each time",
                            {"aspis bench", "aspis bench selective_scan --threads-list 1,2 --format md",
                             "aspis bench vision_mamba_fmnist --batch 64 --json"},
                            [o, &context] { bench(context, *o); });
  c->add_option("names", o->names, "Operators or models, globs allowed; default: all operators and the demo's models");
  add_option(c, "--seconds", o->seconds, "Time spent on each row")->check(CLI::Range(0.01, 600.0));
  add_option(c, "--batch", o->batch, "Images of a batch, for models")->check(CLI::Range(1, 65536));
  add_flag(c, "--composed", o->composed, "Time the versions composed from engine operations instead of the kernels");
  c->add_option("--threads-list", o->thread_counts, "Thread counts to time one after the other")->delimiter(',');
  c->add_option("--isa-list", o->isas, "Instruction sets to time one after the other")->delimiter(',');
  add_format(c, o->format);
}

}  // namespace aspis::cli
