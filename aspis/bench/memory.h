#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "aspis/report/curve_page.h"
#include "aspis/report/table.h"

namespace aspis::bench {

/// Sequence mixers whose memory is compared, all of width heads x headdim:
///
///     ssd                 Mamba-2, with D, gate and softplus of dt
///     mamba3              Mamba-3 SISO, with angles, norms, biases, D and gate
///     attention           causal, blocked, of this library
///     mlx attention       mlx::core::fast::scaled_dot_product_attention, causal
///     composed attention  the same out of MLX operations
const std::vector<std::string>& memory_forms();

struct MemoryOptions {
  std::vector<std::string> forms = {};  ///< empty: all of `memory_forms`
  std::vector<int64_t> lengths = {1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};
  int heads = 4, headdim = 64, state = 128;
  double limit_bytes = 6e9;    ///< a case is left out if it is expected to need more
  double limit_seconds = 120;  ///< or to take longer
};

/// What one pass over one sequence needs.
struct MemoryPoint {
  std::string form;
  bool training = false;  ///< forward and gradients of all inputs; else forward alone
  int64_t length = 0;
  /// False: expected to be over a limit, from the two lengths before it by the
  /// power law through them; the figures are that expectation.
  bool measured = true;
  double engine_peak = 0;     ///< largest sum of all buffers of the engine at one time, inputs included
  double inputs = 0;          ///< of that, the inputs
  double process_growth = 0;  ///< growth of the resident set at its peak, scratch outside the engine included; 0:
                              ///< not told by the system
  double seconds = 0;
};

/// The engine hands work over ahead of its execution, so that peaks differ from
/// run to run by the buffers that are in flight. Measures form by form, training and inference, shortest length
/// first. Before each case the engine's cache is emptied and its peak is set back. `on_point` returns false to
/// stop early. Throws Error(kUsage) for unknown forms and sizes that are not positive.
std::vector<MemoryPoint> measure_memory(const MemoryOptions& options,
                                        const std::function<bool(const MemoryPoint&)>& on_point = {});

/// A row for each length, with bytes a token and the ratio to the length before.
report::Table memory_table(const std::vector<MemoryPoint>& points);

/// Training and inference, gigabytes over tokens; what was not measured is left out.
std::vector<report::CurvePlot> memory_plots(const std::vector<MemoryPoint>& points);

}  // namespace aspis::bench
