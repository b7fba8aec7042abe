#include <fmt/format.h>

#include <algorithm>

#include "aspis/base/cpu.h"
#include "aspis/base/file.h"
#include "aspis/base/parallel.h"
#include "aspis/bench/compare.h"
#include "aspis/bench/measure.h"
#include "aspis/bench/memory.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/models/registry.h"
#include "aspis/ops/harness/bounds.h"
#include "aspis/ops/registry/registry.h"
#include "aspis/simd/isa.h"

namespace aspis::cli {
namespace {

struct Options {
  std::vector<std::string> names;
  double seconds = 1.0;
  int64_t batch = 64;
  bool composed = false;
  std::vector<int> thread_counts;
  std::vector<std::string> isas, dtypes, kinds, passes, set;
  std::string format;
};

struct CompareOptions {
  std::string old_file, new_file, by = "time", format;
  double threshold = 0.10;
};

struct MemoryOptions {
  bench::MemoryOptions bench;
  double limit_gb = 6;
  std::string plot, format;
};

std::string milliseconds(double s) { return s > 0 ? fmt::format("{:.3f}", 1e3 * s) : "-"; }
std::string percent(double share) { return share > 0 ? fmt::format("{:.0f} %", 100 * share) : "-"; }

report::Table make_table() {
  std::vector<report::Column> columns{{"kind", "kind"},   {"name", "name"}, {"case", "case"},
                                      {"dtype", "dtype"}, {"isa", "isa"},   {"threads", "threads", true}};
  for (const auto& [key, title] :
       {std::pair("forward", "forward ms"), {"both", "fwd+bwd ms"}, {"step", "step ms"}}) {
    const std::string k = key;
    columns.push_back({k + "_ms", title, true});
    columns.push_back({k + "_spread", "+-", true});
    columns.push_back({k + "_bound_ms", "bound ms", true});
    columns.push_back({k + "_share", "share", true});
    columns.push_back({k + "_limit", "limit", false, k != "forward"});
  }
  columns.push_back({"ratio", "fwd+bwd / fwd", true});
  columns.push_back({"cpu", "cpu", false, true});
  // What the machine could do just then: tells a busy machine from a slower program.
  for (const char* key : {"fma_gflops", "exp_g", "bandwidth_gb"}) columns.push_back({key, key, true, true});
  return report::Table(std::move(columns));
}

void add_row(report::Table& table, const bench::Measurement& m, const std::string& cpu) {
  using report::Cell;
  std::vector<Cell> cells{m.kind, m.name, m.case_name, m.dtype, m.isa, int64_t{m.threads}};
  for (const bench::Pass* p : {&m.forward, &m.both, &m.step}) {
    if (p->time.median <= 0) {
      cells.insert(cells.end(), 5, Cell());
      continue;
    }
    const double share = p->bound / p->time.median;
    cells.emplace_back(1e3 * p->time.median, milliseconds(p->time.median));
    cells.emplace_back(p->time.spread, percent(p->time.spread));
    cells.emplace_back(1e3 * p->bound, milliseconds(p->bound));
    cells.emplace_back(share, percent(share));
    cells.emplace_back(p->limit);
  }
  const bool ratio = m.forward.time.median > 0 && m.both.time.median > 0;
  const double times = ratio ? m.both.time.median / m.forward.time.median : 0;
  cells.push_back(ratio ? Cell(times, fmt::format("{:.2f}", times)) : Cell());
  cells.emplace_back(cpu);
  const harness::MachineBounds& bounds = harness::machine_bounds();
  for (const double v : {bounds.fma_flops, bounds.exps, bounds.bytes}) cells.emplace_back(v / 1e9);
  table.add_row(std::move(cells));
}

Overrides overrides_of(const Options& o) {
  Overrides overrides;
  for (const auto& s : o.set) {
    const size_t eq = s.find('=');
    if (eq == std::string::npos || eq == 0) {
      throw Error(ErrorKind::kUsage, {.where = "--set",
                                      .required = "a change of the config is key=value",
                                      .got = "'" + s + "'",
                                      .hint = "--set depth=2"});
    }
    overrides.emplace_back(s.substr(0, eq), s.substr(eq + 1));
  }
  return overrides;
}

bool contains(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

void bench_once(const Context& context, const Options& o, mlx::core::Dtype dtype, report::Table& table) {
  const std::string cpu = cpu_report().model;
  const auto named = [&](const std::string& name) {
    return std::any_of(o.names.begin(), o.names.end(),
                       [&](const std::string& pattern) { return glob_match(pattern, name); });
  };
  const auto of_kind = [&](const char* kind) { return o.kinds.empty() || contains(o.kinds, kind); };
  const auto pass = [&](const char* name) { return o.passes.empty() || contains(o.passes, name); };
  const bench::Passes passes{pass("forward"), pass("both"), pass("step")};
  for (const auto& e : op_registry()) {
    if (!of_kind("operator") || (!o.names.empty() && !named(e.name))) continue;
    for (const auto& instance : e.instances()) {
      if (!(instance.plain.uses & harness::kPerf) || interrupted()) continue;
      if (o.composed && !instance.composed) continue;
      progress_line(context, fmt::format("{} {}", e.name, instance.plain.name));
      add_row(table, bench::measure_operator(e, instance, o.seconds, o.composed, dtype), cpu);
    }
  }
  if (o.composed) return;
  for (const auto& block : bench::block_registry()) {
    if (!of_kind("block") || (!o.names.empty() && !named(block.name)) || interrupted()) continue;
    progress_line(context, block.name);
    bench::Subject s = block.make();
    add_row(table, bench::measure_subject(s, passes, o.seconds, dtype), cpu);
  }
  for (const auto& m : list_models()) {
    // Without a name only the models of the demo: the large ones take minutes.
    const bool chosen = o.names.empty() ? m.name.find("fmnist") != std::string::npos : named(m.name);
    if (!of_kind("model") || !chosen || interrupted()) continue;
    progress_line(context, m.name);
    bench::Subject s = bench::model_subject(m.name, o.batch, overrides_of(o));
    add_row(table, bench::measure_subject(s, passes, o.seconds, dtype), cpu);
  }
}

// Throws for a name that is no operator, block or model, with the nearest operator.
void check_names(const Options& o) {
  for (const auto& name : o.names) {
    if (name.find_first_of("*?") != std::string::npos || !list_models(name).empty()) continue;
    const auto& blocks = bench::block_registry();
    if (std::any_of(blocks.begin(), blocks.end(), [&](const auto& b) { return b.name == name; })) continue;
    find_op(name);
  }
}

void run_bench(const Context& context, const Options& o) {
  check_names(o);
  std::vector<mlx::core::Dtype> dtypes;
  for (const auto& d : o.dtypes) dtypes.push_back(bench::parse_dtype(d));
  if (dtypes.empty()) dtypes.push_back(mlx::core::float32);
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
      print_note(
          context,
          fmt::format("{}, {} threads, {}: {:.0f} GFLOP/s FMA, {:.2f} G exp/s, {:.1f} GB/s (measured now)\n",
                      cpu_report().model, threads, isa, b.fma_flops / 1e9, b.exps / 1e9, b.bytes / 1e9));
      for (const auto dtype : dtypes) bench_once(context, o, dtype, table);
    }
  }
  set_num_threads(saved);
  progress_line(context, "");
  print_table(context, table, o.format);
  if (interrupted()) throw Error(ErrorKind::kRuntime, {.where = "bench", .required = "interrupted"});
}

void run_compare(Context& context, const CompareOptions& o) {
  constexpr int64_t kMost = int64_t{64} << 20;
  const auto c = bench::compare_results(read_file(o.old_file, ErrorKind::kData, kMost), o.old_file,
                                        read_file(o.new_file, ErrorKind::kData, kMost), o.new_file,
                                        {.threshold = o.threshold, .by_share = o.by == "share"});
  for (const auto& note : c.notes) print_note(context, "note: " + note + "\n");
  print_table(context, c.table, o.format);
  print_note(
      context,
      fmt::format(
          "{} slower, {} faster, {} the same within {:.0f} % or their spread; {} only in {}, {} only in {}\n",
          c.slower, c.faster, c.same, 100 * o.threshold, c.only_old, o.old_file, c.only_new, o.new_file));
  if (c.slower > 0) context.exit_code = static_cast<int>(ErrorKind::kRuntime);
}

void run_memory(const Context& context, MemoryOptions o) {
  install_interrupt_handler();
  o.bench.limit_bytes = 1e9 * o.limit_gb;
  const auto points = bench::measure_memory(o.bench, [&](const bench::MemoryPoint& p) {
    progress_line(context,
                  fmt::format("{} {} {} tokens", p.form, p.training ? "training" : "inference", p.length));
    return !interrupted();
  });
  progress_line(context, "");
  print_table(context, bench::memory_table(points), o.format);
  print_note(
      context,
      fmt::format(
          "float32, one causal sequence, {} heads of {}, state {}. peak: the largest sum of the engine's buffers "
          "at one time, inputs, results and gradients included; process: growth of the resident set. "
          "~: expected by the power law of the two lengths before, above {:g} GB or {:g} s\n",
          o.bench.heads, o.bench.headdim, o.bench.state, o.limit_gb, o.bench.limit_seconds));
  if (!o.plot.empty()) {
    const auto facts = std::vector<report::ReportFact>{
        {"machine", cpu_report().model},
        {"sequence", fmt::format("batch 1, causal, {} heads of {} (width {}), state {}, float32", o.bench.heads,
                                 o.bench.headdim, o.bench.heads * o.bench.headdim, o.bench.state)},
        {"counted",
         "largest sum of the engine's buffers at one time: inputs, results, gradients and all in between"},
        {"limit", fmt::format("{:g} GB; a curve ends where more would be needed", o.limit_gb)}};
    write_file_atomic(
        o.plot,
        report::render_curves("Peak memory over the length of a sequence", bench::memory_plots(points), facts),
        false);
    print_note(context, "plot: " + o.plot + "\n");
  }
  if (interrupted()) throw Error(ErrorKind::kRuntime, {.where = "bench memory", .required = "interrupted"});
}

void add_compare(CLI::App& parent, Context& context) {
  auto o = std::make_shared<CompareOptions>();
  CLI::App* c = add_command(
      parent, "compare", "",
      "Two results side by side, as ratios. Exit code 1 if a pass is slower by more than the threshold "
      "and than its spread; 0 otherwise, 3 for a file that is no result",
      {"aspis bench --format json > new.json",
       "aspis bench compare bench/baselines/zen5-2.json new.json --threshold 0.15"},
      [o, &context] { run_compare(context, *o); });
  c->add_option("old", o->old_file, "Result of 'aspis bench --format json', or a stored baseline")->required();
  c->add_option("new", o->new_file, "The result to judge")->required();
  add_option(c, "--threshold", o->threshold, "Share of the old time by which a pass may be slower")
      ->check(CLI::Range(0.0, 100.0));
  add_option(c, "--by", o->by, "time, or share of the bound (for two machines)")
      ->check(CLI::IsMember({"time", "share"}));
  add_format(c, o->format);
}

void add_memory(CLI::App& parent, Context& context) {
  auto o = std::make_shared<MemoryOptions>();
  CLI::App* c =
      add_command(parent, "memory", "",
                  "Peak memory over the length of a sequence: ssd and mamba3 beside attention of equal width",
                  {"aspis bench memory --plot memory.html",
                   "aspis bench memory --forms ssd,'mlx attention' --lengths 1024,2048,4096 --json"},
                  [o, &context] { run_memory(context, *o); });
  c->add_option("--forms", o->bench.forms,
                "ssd, mamba3, attention, mlx attention, composed attention; default: all")
      ->delimiter(',');
  c->add_option("--lengths", o->bench.lengths, "Tokens, one case for each; default: 1,024 to 131,072")
      ->delimiter(',');
  add_option(c, "--heads", o->bench.heads, "Heads of the sequence")->check(CLI::Range(1, 4096));
  add_option(c, "--headdim", o->bench.headdim, "Channels of a head")->check(CLI::Range(1, 4096));
  add_option(c, "--state", o->bench.state, "State size of ssd and mamba3, a multiple of four")
      ->check(CLI::Range(4, 4096));
  add_option(c, "--limit-gb", o->limit_gb, "A case that is expected to need more is left out")
      ->check(CLI::Range(0.001, 1e5));
  add_option(c, "--limit-seconds", o->bench.limit_seconds, "A case that is expected to take longer is left out")
      ->check(CLI::Range(0.001, 1e5));
  add_option(c, "--plot", o->plot, "Also write the curves to this HTML file");
  add_format(c, o->format);
}

}  // namespace

void add_bench(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "bench", "Look inside",
                            "Time operators, blocks and models, with the machine's bound beside each time",
                            {"aspis bench", "aspis bench selective_scan --threads-list 1,2 --format md",
                             "aspis bench vim_tiny_patch16_224 --batch 8 --pass step --dtype-list float32",
                             "aspis bench --format json > new.json && aspis bench compare old.json new.json"},
                            {});
  // The callback of a command also runs for the commands below it.
  c->callback([c, o, &context] {
    if (c->get_subcommands().empty()) run_bench(context, *o);
  });
  add_compare(*c, context);
  add_memory(*c, context);
  c->add_option(
      "names", o->names,
      "Operators, blocks or models, globs allowed; default: all operators and blocks and the demo's models");
  add_option(c, "--seconds", o->seconds, "Time spent on each row")->check(CLI::Range(0.01, 600.0));
  add_option(c, "--batch", o->batch, "Images of a batch, for models")->check(CLI::Range(1, 65536));
  c->add_option("--kind", o->kinds, "Only these: operator, block, model")
      ->delimiter(',')
      ->check(CLI::IsMember({"operator", "block", "model"}));
  c->add_option("--pass", o->passes,
                "Of blocks and models: forward, both (with gradients), step (with AdamW); default: all")
      ->delimiter(',')
      ->check(CLI::IsMember({"forward", "both", "step"}));
  c->add_option("--set", o->set, "Change the config of the models: key=value, repeatable");
  add_flag(c, "--composed", o->composed,
           "Time the versions composed from engine operations instead of the kernels");
  c->add_option("--threads-list", o->thread_counts, "Thread counts to time one after the other")->delimiter(',');
  c->add_option("--isa-list", o->isas, "Instruction sets to time one after the other")->delimiter(',');
  c->add_option("--dtype-list", o->dtypes, "float32, bfloat16, float16, one after the other")->delimiter(',');
  add_format(c, o->format);
}

}  // namespace aspis::cli
