#include "aspis/bench/compare.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "aspis/base/error.h"
#include "aspis/io/json_strict.h"

namespace aspis::bench {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPasses[] = {"forward", "both", "step"};

struct Row {
  std::string kind, name, case_name, dtype, isa, cpu;
  int64_t threads = 0;
  double fma = 0;  ///< peak measured in that sitting; 0: not told
  struct Pass {
    double ms = 0, spread = 0, share = 0;
  };
  std::optional<Pass> passes[3];
};

[[noreturn]] void refuse(const std::string& where, const std::string& got) {
  throw Error(ErrorKind::kData, {.where = where,
                                 .required = "a result of 'aspis bench --format json' is needed",
                                 .got = got,
                                 .hint = "aspis bench --format json > " + where});
}

std::string text_of(const Json& row, const char* key, const std::string& where) {
  const auto it = row.find(key);
  if (it == row.end() || !it->is_string()) refuse(where, fmt::format("a row without the text '{}'", key));
  return it->get<std::string>();
}

std::optional<double> number_of(const Json& row, const std::string& key, const std::string& where) {
  const auto it = row.find(key);
  if (it == row.end() || it->is_null()) return std::nullopt;
  if (!it->is_number()) refuse(where, fmt::format("a row whose '{}' is no number", key));
  const double v = it->get<double>();
  if (!std::isfinite(v) || v < 0) refuse(where, fmt::format("a row whose '{}' is {}", key, v));
  return v;
}

// Insertion order is kept in `order`.
std::map<std::string, Row> rows_of(std::string_view text, const std::string& where,
                                   std::vector<std::string>& order) {
  JsonLimits limits;
  limits.bytes = int64_t{64} << 20;
  const Json json = parse_json_strict(text, where, ErrorKind::kData, limits);
  if (!json.is_array()) refuse(where, "no list");
  std::map<std::string, Row> rows;
  for (const Json& j : json) {
    if (!j.is_object()) refuse(where, "a list of something else");
    Row r;
    r.kind = text_of(j, "kind", where);
    r.name = text_of(j, "name", where);
    r.case_name = text_of(j, "case", where);
    r.dtype = text_of(j, "dtype", where);
    r.isa = text_of(j, "isa", where);
    r.cpu = text_of(j, "cpu", where);
    r.threads = static_cast<int64_t>(number_of(j, "threads", where).value_or(0));
    r.fma = number_of(j, "fma_gflops", where).value_or(0);
    for (int i = 0; i < 3; i++) {
      const std::string prefix = kPasses[i];
      const auto ms = number_of(j, prefix + "_ms", where);
      if (!ms || *ms == 0) continue;
      r.passes[i] = {*ms, number_of(j, prefix + "_spread", where).value_or(0),
                     number_of(j, prefix + "_share", where).value_or(0)};
    }
    // The units for bfloat16 are nothing to the other dtypes.
    const std::string isa = r.isa == "avx512_bf16" && r.dtype != "bfloat16" ? "avx512" : r.isa;
    const std::string key =
        fmt::format("{}\t{}\t{}\t{}\t{}\t{}", r.kind, r.name, r.case_name, r.dtype, isa, r.threads);
    if (rows.emplace(key, r).second) order.push_back(key);
  }
  return rows;
}

}  // namespace

Comparison compare_results(std::string_view old_text, const std::string& old_name, std::string_view new_text,
                           const std::string& new_name, const CompareOptions& o) {
  using report::Cell;
  require(o.threshold >= 0 && std::isfinite(o.threshold), [&] {
    return Error::Parts{.where = "bench compare",
                        .required = "the threshold must be a finite number from 0",
                        .got = fmt::format("{}", o.threshold),
                        .hint = {}};
  });
  std::vector<std::string> old_order, new_order;
  const auto before = rows_of(old_text, old_name, old_order), after = rows_of(new_text, new_name, new_order);
  Comparison c;
  c.table = report::Table({{"kind", "kind"},
                           {"name", "name"},
                           {"case", "case"},
                           {"dtype", "dtype"},
                           {"isa", "isa"},
                           {"threads", "threads", true},
                           {"pass", "pass"},
                           {"old", o.by_share ? "old share" : "old ms", true},
                           {"new", o.by_share ? "new share" : "new ms", true},
                           {"ratio", "ratio", true},
                           {"spread", "spread", true},
                           {"verdict", "verdict"}});
  const auto value = [&](const Row::Pass& p) { return o.by_share ? p.share : p.ms; };
  const auto shown = [&](double v) {
    return Cell(v, o.by_share ? fmt::format("{:.1f} %", 100 * v) : fmt::format("{:.3f}", v));
  };
  const auto add = [&](const Row& r, int pass, Cell old_value, Cell new_value, Cell ratio, Cell spread,
                       const char* verdict) {
    c.table.add_row({r.kind, r.name, r.case_name, r.dtype, r.isa, r.threads, kPasses[pass], std::move(old_value),
                     std::move(new_value), std::move(ratio), std::move(spread), verdict});
  };
  for (const auto& key : old_order) {
    const Row& a = before.at(key);
    const auto found = after.find(key);
    for (int i = 0; i < 3; i++) {
      const auto& old_pass = a.passes[i];
      if (!old_pass) continue;
      if (found == after.end() || !found->second.passes[i]) {
        c.only_old++;
        add(a, i, shown(value(*old_pass)), Cell(), Cell(), Cell(), "only old");
        continue;
      }
      const Row::Pass& p = *old_pass;
      const Row::Pass& q = *found->second.passes[i];
      // As a ratio of times in either case: a smaller share is a longer time.
      const bool known = value(p) > 0 && value(q) > 0;
      const double ratio = !known ? 1 : o.by_share ? p.share / q.share : q.ms / p.ms;
      const double spread = std::max(p.spread, q.spread);
      const double change = std::max(ratio, 1 / ratio) - 1;
      const bool counts = change > o.threshold && change > spread;
      const char* verdict = !known                 ? "no bound"
                            : counts               ? (ratio > 1 ? "slower" : "faster")
                            : change > o.threshold ? "within spread"
                                                   : "same";
      (counts ? (ratio > 1 ? c.slower : c.faster) : c.same)++;
      add(a, i, shown(value(p)), shown(value(q)), Cell(ratio, fmt::format("{:.3f}", ratio)),
          Cell(spread, fmt::format("{:.0f} %", 100 * spread)), verdict);
    }
  }
  for (const auto& key : new_order) {
    const Row& b = after.at(key);
    const auto found = before.find(key);
    for (int i = 0; i < 3; i++) {
      if (!b.passes[i] || (found != before.end() && found->second.passes[i])) continue;
      c.only_new++;
      add(b, i, Cell(), shown(value(*b.passes[i])), Cell(), Cell(), "only new");
    }
  }
  for (const auto& key : old_order) {
    const auto found = after.find(key);
    if (found == after.end() || o.by_share) continue;
    const Row &x = before.at(key), &y = found->second;
    if (x.cpu != y.cpu) {
      c.notes.push_back(
          fmt::format("the machines differ ({}; {}): --by share compares shares of the bound", x.cpu, y.cpu));
    } else if (x.fma > 0 && y.fma > 0 && std::max(x.fma / y.fma, y.fma / x.fma) > 1.15) {
      c.notes.push_back(fmt::format("the machine was not equally free: {:.0f} and {:.0f} GFLOP/s of multiply-adds",
                                    x.fma, y.fma));
    } else {
      continue;
    }
    break;
  }
  return c;
}

}  // namespace aspis::bench
