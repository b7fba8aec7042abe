#include <fmt/format.h>

#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/ops/registry/registry.h"
#include "aspis/report/table.h"
#include "aspis/simd/isa.h"

namespace aspis::cli {
namespace {

struct Options {
  std::string name;
  bool check = false, full = false;
  uint64_t seed = 1;
  std::string format;
};

void list_ops(const Context& context, const Options& o) {
  report::Table table({{"name", "operator"},
                       {"back_ends", "back ends"},
                       {"gradient", "gradient"},
                       {"step", "step"},
                       {"cases", "cases", true},
                       {"summary", "what it computes"}});
  for (const auto& e : op_registry()) {
    if (!o.name.empty() && e.name != o.name) continue;
    std::string back_ends;
    for (const auto& b : e.back_ends) back_ends += (back_ends.empty() ? "" : ", ") + b;
    table.add_row({e.name, back_ends, e.has_gradient ? "yes" : "-", e.has_step ? "yes" : "-",
                   static_cast<int64_t>(e.instances().size()), e.summary});
  }
  print_table(context, table, o.format);
}

// What the cases of one operator came to, the worst over cases and instruction sets.
struct Tally {
  int cases = 0;
  harness::Errors single, wide, composed, bfloat16, float16;
  std::string message;  // of the first failure
};

void add_rows(report::Table& table, const harness::OpEntry& e, const Tally& t, const std::string& isas) {
  const auto number = [](double error) {
    return error < 0 ? report::Cell() : report::Cell(error, fmt::format("{:.1e}", error));
  };
  const auto row = [&](const char* back_end, const char* dtype, const harness::Errors& errors) {
    if (errors.forward < 0) return;
    table.add_row({e.name, back_end, dtype, back_end == std::string("cpu") ? isas : "-", int64_t{t.cases},
                   number(errors.forward), number(errors.gradient), t.message.empty() ? "ok" : "FAILED",
                   t.message});
  };
  row("cpu", "float32", t.single);
  row("cpu", "float64", t.wide);
  row("cpu", "bfloat16", t.bfloat16);
  row("cpu", "float16", t.float16);
  row("composed", "float64", t.composed);
}

// Every case of the chosen operators on every instruction set of this machine.
int check_ops(const Context& context, const Options& o) {
  report::Table table({{"op", "operator"},
                       {"back_end", "back end"},
                       {"dtype", "dtype"},
                       {"isas", "instruction sets"},
                       {"cases", "cases", true},
                       {"forward_error", "forward error", true},
                       {"gradient_error", "gradient error", true},
                       {"verdict", "verdict"},
                       {"message", ""}});
  int failed = 0, checked = 0;
  const std::string isas = fmt::format("{}", fmt::join(supported_isas(), " "));
  for (const auto& e : op_registry()) {
    if (!o.name.empty() && e.name != o.name) continue;
    Tally tally;
    for (const auto& instance : e.instances()) {
      const unsigned uses = instance.plain.uses;
      if (!(uses & (harness::kCheck | harness::kGrad)) || (uses & harness::kLong)) continue;
      if ((uses & harness::kFull) && !o.full) continue;
      for (const std::string& isa : supported_isas()) {
        if (interrupted()) return interrupt_exit_code();
        force_isa(isa);
        progress_line(context, fmt::format("{} {} {}", e.name, isa, instance.plain.name));
        // Thread counts, layouts and low precision are those of the smaller cases, not of the grids.
        const bool all = o.full && !(uses & harness::kGrid);
        const auto r =
            harness::check_case(e, instance, {.seed = o.seed, .threads = all, .layouts = all, .half = all});
        tally.single.raise(r.single);
        tally.wide.raise(r.wide);
        tally.composed.raise(r.composed);
        tally.bfloat16.raise(r.bfloat16);
        tally.float16.raise(r.float16);
        if (!r.passed && tally.message.empty())
          tally.message = fmt::format("{} on {}: {}", r.case_name, isa, r.message);
        checked++;
      }
      tally.cases++;
    }
    failed += !tally.message.empty();
    add_rows(table, e, tally, isas);
  }
  force_isa("");
  progress_line(context, "");
  print_table(context, table, o.format);
  print_note(context,
             fmt::format(
                 "{} cases checked, {} operators failed. Errors are the largest difference over the largest "
                 "value: forward against a double oracle,\ngradients of float32 against float64, of float64 "
                 "against the composed version or a derivative of the oracle, and of the composed version against "
                 "finite differences.\n",
                 checked, failed));
  return failed ? 1 : 0;
}

}  // namespace

void add_ops(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "ops", "Look inside", "List the operators and check them on this machine",
                            {"aspis ops", "aspis ops --check selective_scan", "aspis ops --check --full --json"},
                            [o, &context] {
                              if (!o->name.empty()) find_op(o->name);
                              if (o->check) {
                                install_interrupt_handler();
                                context.exit_code = check_ops(context, *o);
                              } else {
                                list_ops(context, *o);
                              }
                            });
  c->add_option("name", o->name, "Operator; default: all");
  add_flag(c, "--check", o->check, "Run the correctness cases on every instruction set of this machine");
  add_flag(c, "--full", o->full,
           "With --check: also the grids of the upstream test suites, other large cases, low precision, thread "
           "counts and "
           "memory layouts");
  c->add_option("--case-seed", o->seed, "Seed of the random inputs")->capture_default_str();
  add_format(c, o->format);
}

}  // namespace aspis::cli
