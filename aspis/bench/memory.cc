#include "aspis/bench/memory.h"

#include <fmt/format.h>
#include <mlx/fast.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

#include "aspis/base/clock.h"
#include "aspis/base/cpu.h"
#include "aspis/base/error.h"
#include "aspis/ops/attention/attention.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/ssd/ssd.h"

namespace aspis::bench {

namespace {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

struct Form {
  std::string name;
  std::function<Arrays(const MemoryOptions&, int length)> inputs;
  std::function<mx::array(const MemoryOptions&, const Arrays&)> run;
};

mx::array values(const mx::Shape& shape, float low, float high) {
  return mx::random::uniform(low, high, shape, mx::float32, mx::random::key(7));
}

Arrays attention_inputs(const MemoryOptions& o, int length) {
  const mx::Shape shape{1, length, o.heads, o.headdim};
  return {values(shape, -1, 1), values(shape, -1, 1), values(shape, -1, 1)};
}

mx::array run_ssd(const MemoryOptions&, const Arrays& in) {
  SsdOptions s;
  s.D = in[5], s.z = in[6], s.dt_bias = in[7];
  s.dt_softplus = true;
  return ssd(in[0], in[1], in[2], in[3], in[4], s);
}

mx::array run_mamba3(const MemoryOptions&, const Arrays& in) {
  Mamba3Options m;
  m.angle = in[6], m.dt_bias = in[7], m.B_norm_weight = in[8], m.C_norm_weight = in[9];
  m.B_bias = in[10], m.C_bias = in[11], m.D = in[12], m.z = in[13];
  return mamba3(in[0], in[1], in[2], in[3], in[4], in[5], m);
}

mx::array run_mlx_attention(const MemoryOptions& o, const Arrays& in) {
  const auto heads_first = [](const mx::array& a) { return mx::transpose(a, {0, 2, 1, 3}); };
  return mx::transpose(
      mx::fast::scaled_dot_product_attention(heads_first(in[0]), heads_first(in[1]), heads_first(in[2]),
                                             1.0f / std::sqrt(static_cast<float>(o.headdim)), "causal"),
      {0, 2, 1, 3});
}

const std::vector<Form>& forms() {
  static const std::vector<Form> list{
      {"ssd",
       [](const MemoryOptions& o, int length) {
         const mx::Shape rows{1, length, o.heads, o.headdim}, heads{1, length, o.heads},
             matrix{1, length, 1, o.state};
         return Arrays{values(rows, -1, 1),   values(heads, -4, -2),   values({o.heads}, -2, -1),
                       values(matrix, -1, 1), values(matrix, -1, 1),   values({o.heads}, 0, 1),
                       values(rows, -1, 1),   values({o.heads}, -1, 0)};
       },
       run_ssd},
      {"mamba3",
       [](const MemoryOptions& o, int length) {
         const mx::Shape rows{1, length, o.heads, o.headdim}, heads{1, length, o.heads},
             matrix{1, length, 1, 1, o.state};
         const mx::Shape bias{o.heads, 1, o.state};
         return Arrays{values(rows, -1, 1),
                       values(matrix, -1, 1),
                       values(matrix, -1, 1),
                       values(heads, -4, -2),
                       values(heads, -1, 1),
                       values(heads, -1, 1),
                       values({1, length, std::max(1, o.state / 4)}, -1, 1),
                       values({o.heads}, -1, 0),
                       values({o.state}, 0.5f, 1),
                       values({o.state}, 0.5f, 1),
                       values(bias, -1, 1),
                       values(bias, -1, 1),
                       values({o.heads}, 0, 1),
                       values(rows, -1, 1)};
       },
       run_mamba3},
      {"attention", attention_inputs,
       [](const MemoryOptions&, const Arrays& in) { return attention(in[0], in[1], in[2], {.causal = true}); }},
      {"mlx attention", attention_inputs, run_mlx_attention},
      {"composed attention", attention_inputs,
       [](const MemoryOptions&, const Arrays& in) {
         return attention_composed(in[0], in[1], in[2], {.causal = true});
       }},
  };
  return list;
}

// The high-water mark of the resident set, set back to the present size. False where the system cannot.
bool reset_process_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

double process_peak() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return 1024 * std::strtod(line.c_str() + 6, nullptr);
  }
  return 0;
}

MemoryPoint measure(const Form& form, const MemoryOptions& o, bool training, int64_t length) {
  MemoryPoint p;
  p.form = form.name;
  p.training = training;
  p.length = length;
  Arrays inputs = form.inputs(o, static_cast<int>(length));
  mx::eval(inputs);
  for (const auto& a : inputs) p.inputs += static_cast<double>(a.nbytes());
  mx::clear_cache();
  const auto others = static_cast<double>(mx::get_active_memory()) - p.inputs;
  const bool told = reset_process_peak();
  const auto resident = static_cast<double>(current_memory_bytes());
  mx::reset_peak_memory();
  const double start = monotonic_seconds();
  {
    Arrays results;
    if (training) {
      const auto run = [&](const Arrays& in) { return Arrays{form.run(o, in)}; };
      const mx::Shape shape{1, static_cast<int>(length), o.heads, o.headdim};
      auto [outputs, gradients] = mx::vjp(run, inputs, {mx::ones(shape)});
      results = std::move(outputs);
      results.insert(results.end(), gradients.begin(), gradients.end());
    } else {
      results = {form.run(o, inputs)};
    }
    mx::eval(std::move(results));
  }
  p.seconds = monotonic_seconds() - start;
  // Other arrays of the program are not part of the case.
  p.engine_peak = static_cast<double>(mx::get_peak_memory()) - std::max(0.0, others);
  if (told) p.process_growth = std::max(0.0, process_peak() - resident);
  inputs.clear();
  mx::clear_cache();
  return p;
}

// y at `x` on the power law through two points.
double power_law(double x0, double y0, double x1, double y1, double x) {
  const double exponent = y0 > 0 && y1 > 0 ? std::log(y1 / y0) / std::log(x1 / x0) : 1;
  return y1 * std::pow(x / x1, std::clamp(exponent, 1.0, 2.0));
}

}  // namespace

const std::vector<std::string>& memory_forms() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Form& f : forms()) list.push_back(f.name);
    return list;
  }();
  return names;
}

std::vector<MemoryPoint> measure_memory(const MemoryOptions& o,
                                        const std::function<bool(const MemoryPoint&)>& on_point) {
  for (const auto& name : o.forms) {
    require(std::find(memory_forms().begin(), memory_forms().end(), name) != memory_forms().end(), [&] {
      return Error::Parts{.where = "bench memory",
                          .required = fmt::format("the form must be one of {}", fmt::join(memory_forms(), ", ")),
                          .got = "'" + name + "'",
                          .hint = nearest_word(name, memory_forms())};
    });
  }
  const auto positive = [](const char* what, int64_t value) {
    require(value > 0 && value < (int64_t{1} << 31), [&] {
      return Error::Parts{.where = "bench memory",
                          .required = fmt::format("{} must be positive and below 2^31", what),
                          .got = std::to_string(value),
                          .hint = {}};
    });
  };
  positive("the number of heads", o.heads);
  positive("the head dimension", o.headdim);
  positive("the state size", o.state);
  std::vector<int64_t> lengths = o.lengths;
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  for (const int64_t l : lengths) positive("a length", l);

  std::vector<MemoryPoint> all;
  for (const Form& form : forms()) {
    if (!o.forms.empty() && std::find(o.forms.begin(), o.forms.end(), form.name) == o.forms.end()) continue;
    for (const bool training : {false, true}) {
      std::vector<MemoryPoint> seen;
      for (const int64_t length : lengths) {
        MemoryPoint p{.form = form.name, .training = training, .length = length, .measured = false};
        if (seen.size() >= 2) {
          const MemoryPoint &a = seen[seen.size() - 2], &b = seen.back();
          const auto expect = [&](double y0, double y1) {
            return power_law(static_cast<double>(a.length), y0, static_cast<double>(b.length), y1,
                             static_cast<double>(length));
          };
          p.engine_peak = expect(a.engine_peak, b.engine_peak);
          p.inputs = b.inputs * static_cast<double>(length) / static_cast<double>(b.length);
          p.seconds = expect(a.seconds, b.seconds);
        }
        const bool over = p.engine_peak > o.limit_bytes || p.seconds > o.limit_seconds ||
                          (!seen.empty() && !seen.back().measured);
        if (!over) p = measure(form, o, training, length);
        seen.push_back(p);
        all.push_back(p);
        if (on_point && !on_point(p)) return all;
      }
    }
  }
  return all;
}

report::Table memory_table(const std::vector<MemoryPoint>& points) {
  using report::Cell;
  report::Table table({{"form", "form"},
                       {"pass", "pass"},
                       {"length", "tokens", true},
                       {"measured", "measured"},
                       {"engine_peak_bytes", "peak", true},
                       {"bytes_per_token", "bytes/token", true},
                       {"growth", "growth", true},
                       {"input_bytes", "of it inputs", true},
                       {"process_growth_bytes", "process", true},
                       {"seconds", "seconds", true}});
  for (size_t i = 0; i < points.size(); i++) {
    const MemoryPoint& p = points[i];
    const bool follows = i > 0 && points[i - 1].form == p.form && points[i - 1].training == p.training;
    if (i > 0 && !follows) table.add_rule();
    const double ratio = follows ? p.engine_peak / points[i - 1].engine_peak : 0;
    const std::string about = p.measured ? "" : "~";
    const double per_token = p.engine_peak / static_cast<double>(p.length);
    table.add_row(
        {p.form, p.training ? "training" : "inference", p.length,
         Cell(p.measured, p.measured ? "yes" : "over the limit"),
         Cell(p.engine_peak, about + format_bytes(p.engine_peak)),
         Cell(per_token, about + fmt::format("{:.0f}", per_token)),
         follows ? Cell(ratio, about + fmt::format("{:.2f}", ratio)) : Cell(),
         Cell(p.inputs, format_bytes(p.inputs)),
         p.measured && p.process_growth > 0 ? Cell(p.process_growth, format_bytes(p.process_growth)) : Cell(),
         Cell(p.seconds, about + fmt::format("{:.3f}", p.seconds))});
  }
  return table;
}

std::vector<report::CurvePlot> memory_plots(const std::vector<MemoryPoint>& points) {
  std::vector<report::CurvePlot> plots;
  for (const bool training : {true, false}) {
    report::CurvePlot plot{.id = training ? "training" : "inference",
                           .title = training ? "Training: peak memory in GB" : "Inference: peak memory in GB",
                           .x_name = "tokens"};
    for (const auto& form : memory_forms()) {
      report::Curve curve{form, {}, {}};
      for (const MemoryPoint& p : points) {
        if (p.form != form || p.training != training || !p.measured) continue;
        curve.x.push_back(static_cast<double>(p.length));
        curve.y.push_back(p.engine_peak / 1e9);
      }
      if (!curve.x.empty()) plot.curves.push_back(std::move(curve));
    }
    if (!plot.curves.empty()) plots.push_back(std::move(plot));
  }
  return plots;
}

}  // namespace aspis::bench
