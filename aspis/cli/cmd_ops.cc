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
  report::Table table({{"name", "operator"}, {"back_ends", "back ends"}, {"gradient", "gradient"},
                       {"step", "step"}, {"cases", "cases", true}, {"summary", "what it computes"}});
  for (const auto& e : op_registry()) {
    if (!o.name.empty() && e.name != o.name) continue;
    std::string back_ends;
    for (const auto& b : e.back_ends) back_ends += (back_ends.empty() ? "" : ", ") + b;
    table.add_row({e.name, back_ends, e.has_gradient ? "yes" : "-", e.has_step ? "yes" : "-",
                   static_cast<int64_t>(e.instances().size()), e.summary});
  }
  print_table(context, table, o.format);
}

// Every case of the chosen operators on every instruction set of this machine.
int check_ops(const Context& context, const Options& o) {
  report::Table table({{"op", "operator"}, {"isa", "instruction set"}, {"cases", "cases", true},
                       {"forward_error", "forward error", true}, {"gradient_error", "gradient error", true},
                       {"verdict", "verdict"}, {"message", ""}});
  int failed = 0, checked = 0;
  for (const auto& e : op_registry()) {
    if (!o.name.empty() && e.name != o.name) continue;
    for (const std::string& isa : supported_isas()) {
      force_isa(isa);
      int cases = 0;
      double forward = 0, gradient = 0;
      std::string message;
      for (const auto& instance : e.instances()) {
        if (interrupted()) return interrupt_exit_code();
        const unsigned uses = instance.plain.uses;
        if (!(uses & (harness::kCheck | harness::kGrad)) || ((uses & harness::kFull) && !o.full)) continue;
        progress_line(context, fmt::format("{} {} {}", e.name, isa, instance.plain.name));
        const auto r = harness::check_case(e, instance, {.seed = o.seed, .threads = o.full, .layouts = o.full});
        forward = std::max(forward, r.forward_error);
        gradient = std::max(gradient, r.gradient_error);
        if (!r.passed && message.empty()) message = r.case_name + ": " + r.message;
        cases++;
      }
      checked += cases;
      failed += !message.empty();
      table.add_row({e.name, isa, int64_t{cases}, report::Cell(forward, fmt::format("{:.1e}", forward)),
                     e.has_gradient ? report::Cell(gradient, fmt::format("{:.1e}", gradient)) : report::Cell(),
                     message.empty() ? "ok" : "FAILED", message});
    }
  }
  force_isa("");
  progress_line(context, "");
  print_table(context, table, o.format);
  print_note(context, fmt::format("{} cases checked, {} rows failed (float32 against a float64 oracle; gradients "
                                  "against float64 and finite differences)\n", checked, failed));
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
  add_flag(c, "--full", o->full, "With --check: also the large cases, thread counts and memory layouts");
  c->add_option("--case-seed", o->seed, "Seed of the random inputs")->capture_default_str();
  add_format(c, o->format);
}

}  // namespace aspis::cli
